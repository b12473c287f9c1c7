"""Names of the Hugging Face hub, and addresses, where a path may stand.

    llama_model: DAMO-NLP-SG/Video-LLaMA-2-7B-Finetuned/llama-2-7b-chat-hf
    ckpt: hf://some-lab/bridges@v1.2/bridges.safetensors
    vit_model: https://storage.googleapis.com/.../eva_vit_g.pth

What lies on this machine wins: a local path, then the hub's cache (`HF_HOME`, `HF_HUB_CACHE`), for
an address the cache of `torch.hub` (`TORCH_HOME`), where LAVIS keeps such files too. Nothing is
fetched here: what is not there stays a path that does not exist, and `way_to_get` names the
command that fetches it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from video_llama.common.errors import VideoLlamaError

DEFAULT_REVISION = "main"

# One slash is enough, because pathlib makes one of two.
HUB_ID = re.compile(
    r"(?P<scheme>hf:/{1,2})?"
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[\w.-]+|[^@/\s]+))?"
    r"(?:/(?P<path>[^@\s]+))?"
)
HUB_PAGE = re.compile(
    r"https?:/{1,2}(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<repo>[\w.-]+/[\w.-]+)"
    r"/(?:resolve|blob|tree)/(?P<revision>[^/?]+)(?:/(?P<path>[^?]+))?(?:\?.*)?"
)
ADDRESS = re.compile(r"(?P<scheme>https?):/{1,2}(?P<rest>\S+)")

# fmt: off
LOCAL_FOLDERS = frozenset({
    "checkpoints", "ckpt", "ckpts", "configs", "data", "dataset", "datasets", "model", "models",
    "output", "outputs", "path", "pretrained", "results", "runs", "weights", "your_path",
})
# fmt: on
"""First words of paths that are never taken for the name of an organisation on the hub."""

FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".model", ".json", ".yaml")


@dataclass(frozen=True)
class HubRef:
    """A repository of the hub, or a file or folder in it.

    Attributes:
        repo: organisation and name.
        path: below the repository's root, "" for all of it.
        revision: branch, tag or commit.
    """

    repo: str
    path: str = ""
    revision: str = DEFAULT_REVISION

    def __str__(self) -> str:
        revision = "" if self.revision == DEFAULT_REVISION else f"@{self.revision}"
        return f"{self.repo}{revision}" + (f"/{self.path}" if self.path else "")


def hub_ref(text: str | Path) -> HubRef | None:
    """Read a name of the hub; None for what is a path or an address of another place.

    Args:
        text: `org/name`, `org/name/path/in/it`, each also as `org/name@revision...` and behind
            `hf://`, or the address of a page of huggingface.co.
    """
    text = str(text)
    found = HUB_PAGE.fullmatch(text) or HUB_ID.fullmatch(text)
    if found is None:
        return None
    parts = found.groupdict()
    path = (parts["path"] or "").strip("/")
    if ".." in path.split("/"):
        return None
    if found.re is HUB_ID and parts["scheme"] is None and _is_local(parts["repo"]):
        return None
    return HubRef(parts["repo"], path=path, revision=parts["revision"] or DEFAULT_REVISION)


def address(text: str | Path) -> str | None:
    """Return a text that is an address of the web, with both slashes; None for anything else."""
    found = ADDRESS.fullmatch(str(text))
    return f"{found['scheme']}://{found['rest']}" if found else None


def local_path(text: str | Path) -> Path:
    """Return where something lies on this machine; every file of weights is opened through here.

    Args:
        text: a path, a name of the hub, or an address.

    Returns:
        The path, or where it lies in a cache; `text` as a path if it is nowhere, which then does
        not exist.
    """
    path = Path(text)
    if path.exists():
        return path
    ref = hub_ref(text)
    url = address(text)
    cached = cached_ref(ref) if ref is not None else url_cache(url) if url is not None else None
    return cached if cached is not None and cached.exists() else path


def way_to_get(text: str | Path) -> str:
    """End a sentence with how what `local_path` did not find can be had; "" for a path."""
    ref = hub_ref(text)
    if ref is None and address(text) is None:
        return ""
    name = f"hf://{ref}" if str(text).startswith("hf:/") else address(text) or str(text)
    place = "Hugging Face" if ref is not None else "download"
    return f", nor is it in the {place} cache; `video-llama weights get {name}` fetches it"


def cached_ref(ref: HubRef) -> Path | None:
    """Return where a file or folder of the hub lies in its cache; None if the cache lacks it."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{ref.repo.replace('/', '--')}"
    branch = folder / "refs" / ref.revision
    commit = branch.read_text().strip() if branch.is_file() else ref.revision
    found = folder / "snapshots" / commit / ref.path
    return found if found.exists() else None


def url_cache(url: str) -> Path:
    """Return where the content of an address is kept: the cache of `torch.hub`."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", f"{cache}/torch")
    name = url.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
    return Path(home).expanduser() / "hub" / "checkpoints" / name


def cache_folder() -> Path:
    """Return the folder for what can be made again: `video_llama` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "video_llama"


def is_offline() -> bool:
    """Tell whether `HF_HUB_OFFLINE` forbids to fetch anything."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@contextmanager
def hub_errors(ref: HubRef) -> Iterator[None]:
    """Turn the errors of the hub's library into sentences about `ref`."""
    from huggingface_hub import errors

    # httpx's own error, whichever release of httpx the hub's library stands on.
    connection_error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
    try:
        yield
    except errors.GatedRepoError as error:
        raise VideoLlamaError(
            f"{ref}: access must be asked for at https://huggingface.co/{ref.repo}; then set "
            "HF_TOKEN or run `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise VideoLlamaError(
            f"{ref}: the hub knows no such repository; a private one needs HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise VideoLlamaError(f"{ref}: the repository has no such revision") from error
    except errors.OfflineModeIsEnabled as error:
        raise VideoLlamaError(
            f"{ref}: HF_HUB_OFFLINE is set, so nothing is fetched; unset it"
        ) from error
    except (connection_error, OSError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise VideoLlamaError(f"{ref}: {lines[0]}; run the command again, it goes on") from error


def _is_local(repo: str) -> bool:
    """Tell whether two words joined by a slash rather are a path."""
    first, second = repo.split("/")
    return first in LOCAL_FOLDERS or second.endswith(FILE_SUFFIXES) or Path(first).is_dir()
