"""Merges a base and a release into a directory a decoder can be loaded from, shard by shard.

Memory holds one tensor at a time. Everything goes to OUT.partial first, which is renamed when it
is whole; a call that was stopped goes on with the next shard when it is repeated. What is computed
stands in `deltas`.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from video_llama.common.errors import CheckpointMismatch, VideoLlamaError
from video_llama.common.logger import get_logger
from video_llama.common.shard_writer import (
    Shard,
    TensorSpec,
    plan_shards,
    write_index,
    write_shard,
)
from video_llama.common.state_files import read_state
from video_llama.common.whole_files import PARTIAL_SUFFIX
from video_llama.models.decoders.deltas import (
    BILLA_SUM,
    BILLA_WORDS,
    EMBEDDING,
    META_EMBEDDING,
    RuleName,
    choose_rule,
    is_restored_billa,
    merged_tensor,
    plan_merge,
)
from video_llama.models.decoders.readiness import MERGE_FILE, how_to_convert

CONFIG_FILE = "config.json"
SHARD_BYTES = 2 * 2**30
TOKENIZERS = ("tokenizer.model", "tokenizer.json")
TOKENIZER_FILES = (
    *TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Merge:
    """What is to be done.

    Attributes:
        base: directory of LLaMA; Meta's file or directory will do for BiLLa.
        release: directory that was published.
        target: directory that will be written; must not exist.
        rule: how tensors are put together; None to tell from the tensors.
        shard_bytes: of the tensors of one file.
    """

    base: Path
    release: Path
    target: Path
    rule: RuleName | None = None
    shard_bytes: int = SHARD_BYTES


def merge_directories(merge: Merge, *, on_bytes: Callable[[int, int], None]) -> RuleName:
    """Write the merged directory, whole or not under its name.

    Args:
        merge: what is to be done.
        on_bytes: called with the bytes written and the bytes in all.

    Returns:
        The rule that was applied.

    Raises:
        CheckpointMismatch: the two do not go together, or one cannot be read.
        VideoLlamaError: the target is not free, or the disk is full.
    """
    _refuse_target(merge)
    base, release = _open_base(merge.base), read_state(merge.release)
    rule = merge.rule or choose_rule(base, release)
    _refuse_meta_layout(merge.base, base, rule)
    specs = plan_merge(base, release, rule=rule)
    shards = plan_shards(specs, max_bytes=merge.shard_bytes)
    config = _merged_config(merge, specs)
    partial = merge.target.with_name(merge.target.name + PARTIAL_SUFFIX)

    def read(name: str) -> Tensor:
        tensor = merged_tensor(name, base=base, release=release, rule=rule)
        if rule == "billa" and name == EMBEDDING:
            _compare_with_published_sum(tensor)
        return tensor

    try:
        _start_or_continue(partial, identity=json.dumps(_identity(merge, rule), indent=1))
        _require_space(partial, shards)
        _write(partial, shards, specs=specs, read=read, on_bytes=on_bytes)
        write_index(partial, shards)
        _copy_tokenizer(merge, partial)
        (partial / CONFIG_FILE).write_text(json.dumps(config, indent=2), encoding="utf-8")
        partial.rename(merge.target)
    except OSError as error:
        raise VideoLlamaError(
            f"{partial}: cannot be written ({error.strerror or error}); make room or choose "
            "another --target, then run the same command again: finished shards are kept"
        ) from error
    return rule


def _refuse_target(merge: Merge) -> None:
    """Refuse to write over anything."""
    for name, source in (("--base", merge.base), ("--delta", merge.release)):
        if merge.target.resolve() == source.resolve():
            raise VideoLlamaError(f"--target and {name} are the same folder, {merge.target}")
    if merge.target.exists():
        raise VideoLlamaError(
            f"{merge.target}: exists already; choose another --target or remove it"
        )


def _open_base(path: Path) -> Mapping[str, Tensor]:
    """Open LLaMA; Meta's files may be several, which only Hugging Face's layout joins."""
    if path.is_dir() and len(list(path.glob("consolidated.*.pth"))) > 1:
        raise CheckpointMismatch(how_to_convert(path))
    return read_state(path)


def _refuse_meta_layout(path: Path, base: Mapping[str, Tensor], rule: RuleName) -> None:
    """Meta's names serve for the embedding, which is all that BiLLa needs."""
    if META_EMBEDDING in base and rule != "billa":
        raise CheckpointMismatch(how_to_convert(path if path.is_dir() else path.parent))


def _identity(merge: Merge, rule: RuleName) -> dict[str, Any]:
    """Describe a merge so that a repeated call knows its own half-done work."""
    return {
        "rule": rule,
        "shard_bytes": merge.shard_bytes,
        "base": _listing(merge.base),
        "delta": _listing(merge.release),
    }


def _listing(path: Path) -> dict[str, Any]:
    """Return a folder with its files' sizes and times of change."""
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    stats = {file.name: file.stat() for file in files}
    return {
        "path": str(path.resolve()),
        "files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
    }


def _start_or_continue(partial: Path, *, identity: str) -> None:
    """Keep the work of a call that was stopped if it was the same call."""
    file = partial / MERGE_FILE
    if partial.exists() and any(partial.iterdir()) and not file.is_file():
        raise VideoLlamaError(f"{partial}: in the way, and not of our making; remove it")
    if file.is_file() and file.read_text(encoding="utf-8") != identity:
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    file.write_text(identity, encoding="utf-8")


def _require_space(partial: Path, shards: list[Shard]) -> None:
    """Refuse to start what cannot be finished."""
    needed = sum(shard.num_bytes for shard in shards if not shard.is_done(partial))
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise VideoLlamaError(
            f"{partial}: the merged model still needs {needed / 2**30:.1f} GiB and the disk has "
            f"{free / 2**30:.1f} GiB free; make room or choose another --target"
        )


def _write(
    partial: Path,
    shards: list[Shard],
    *,
    specs: Mapping[str, TensorSpec],
    read: Callable[[str], Tensor],
    on_bytes: Callable[[int, int], None],
) -> None:
    """Write the shards that are not there yet."""
    total = sum(spec.num_bytes for spec in specs.values())
    done = 0

    def count(name: str) -> None:
        nonlocal done
        done += specs[name].num_bytes
        on_bytes(done, total)

    for shard in shards:
        if shard.is_done(partial):
            for name in shard.names:
                count(name)
        else:
            write_shard(partial, shard, read=read, on_tensor=count)


def _sides(merge: Merge) -> list[Path]:
    """Return the folders whose texts may be used, the better one first."""
    return [merge.release, merge.base if merge.base.is_dir() else merge.base.parent]


def _merged_config(merge: Merge, specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """Return the merged model's config.json; the release's own, since LLaMA's often had wrong ids.

    Raises:
        CheckpointMismatch: there is none beside either.
    """
    files = [side / CONFIG_FILE for side in _sides(merge) if (side / CONFIG_FILE).is_file()]
    if not files:
        raise CheckpointMismatch(f"{merge.release}: no {CONFIG_FILE} there; download it as well")
    try:
        config: dict[str, Any] = json.loads(files[0].read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointMismatch(f"{files[0]}: not JSON ({error}); download it again") from error
    config.pop("_name_or_path", None)
    dtypes = Counter(spec.dtype for spec in specs.values())
    config["torch_dtype"] = str(dtypes.most_common(1)[0][0]).removeprefix("torch.")
    config["vocab_size"] = specs[EMBEDDING].shape[0]
    return config


def _copy_tokenizer(merge: Merge, partial: Path) -> None:
    """Put the tokenizer beside the weights, and the settings of generation."""
    for side in _sides(merge):
        if any((side / name).is_file() for name in TOKENIZERS):
            for file in [side / name for name in TOKENIZER_FILES if (side / name).is_file()]:
                shutil.copyfile(file, partial / file.name)
            break
    else:
        get_logger().warning("no tokenizer beside delta or base; copy one to %s", merge.target)
    for file in merge.release.glob("generation_config.json"):
        shutil.copyfile(file, partial / file.name)


def _compare_with_published_sum(embedding: Tensor) -> None:
    """Warn if BiLLa's embedding is not the one its author got."""
    if len(embedding) == BILLA_WORDS and not is_restored_billa(embedding):
        get_logger().warning(
            "the restored embedding does not add up to %.2f, as BiLLa-7B-SFT's does: right for "
            "BiLLa-7B-LLM, otherwise the base is not LLaMA-1 7B",
            BILLA_SUM,
        )
