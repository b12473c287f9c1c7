"""Promise: no file that is read can run code, whatever its name says it is."""

from __future__ import annotations

import ast
import contextlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from apps.tiny_project import TOKENIZER, write_project
from safetensors import SafetensorError
from shard_files import cc_sbu, write_caption_tars, write_tar

from video_llama.apps.main import main
from video_llama.common.errors import VideoLlamaError
from video_llama.common.schema import PartConfig
from video_llama.common.weights import read_state
from video_llama.conversation.tokenizer import load_tokenizer
from video_llama.datasets.feature_cache import FeatureCache
from video_llama.models.decoders.causal_lm import CausalLM
from video_llama.models.video_llm import VideoLLM
from video_llama.runners.checkpoint import load_optimizer_file

ROOT = Path(__file__).parents[2]
DECODER = ROOT / "tests" / "goldens" / "models" / "llama"
RUNS_CODE = {
    "pickle": ("load", "Unpickler"),
    "dill": ("load", "loads"),
    "cloudpickle": ("load", "loads"),
    "joblib": ("load",),
    "shelve": ("open",),
    "marshal": ("load", "loads"),
    "torch.hub": ("load", "load_state_dict_from_url"),
    "torch.jit": ("load",),
    "torch.package": ("PackageImporter",),
    "pandas": ("read_pickle",),
    "yaml": ("load", "load_all", "unsafe_load", "unsafe_load_all", "full_load"),
}
BETWEEN_PROCESSES = (
    "video_llama/processors/forking.py",
    "video_llama/processors/supervised.py",
)
"""Here `pickle.loads` reads what a process and its own child tell each other, never a file."""

FORBIDDEN = {f"{module}.{name}" for module, names in RUNS_CODE.items() for name in names}
LAST_NAMES = {name.rpartition(".")[2] for name in FORBIDDEN} | {"load", "loads"}
SWITCHES = {"trust_remote_code", "weights_only"}


def qualified(node: ast.expr, aliases: dict[str, str]) -> str:
    """Return the full name of what is called, through `import x as y` and `from x import y`."""
    head, _, rest = ast.unparse(node).partition(".")
    return ".".join(filter(None, (aliases.get(head, head), rest)))


def aliases_of(tree: ast.Module) -> dict[str, str]:
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {item.asname: item.name for item in node.names if item.asname}
        elif isinstance(node, ast.ImportFrom):
            found |= {i.asname or i.name: f"{node.module}.{i.name}" for i in node.names}
    return found


def dangers(text: str) -> Iterator[str]:
    """Yield the calls of a source text that may run code out of a file."""
    tree = ast.parse(text)
    aliases = aliases_of(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        last = getattr(node.func, "attr", getattr(node.func, "id", ""))
        last = aliases.get(last, last).rpartition(".")[2]
        if last not in LAST_NAMES and not {key.arg for key in node.keywords} & SWITCHES:
            continue
        name = qualified(node.func, aliases)
        given = {key.arg: ast.unparse(key.value) for key in node.keywords}
        own = node.args and qualified(getattr(node.args[0], "func", node.args[0]), aliases)
        unsafe = (
            name in FORBIDDEN
            or (name == "torch.load" and given.get("weights_only") != "True")
            or (name in ("numpy.load", "np.load") and given.get("allow_pickle", "False") != "False")
            # What this very process wrote a moment ago is no file.
            or (name == "pickle.loads" and own != "pickle.dumps")
            or given.get("trust_remote_code", "False") != "False"
            or given.get("weights_only", "True") != "True"
        )
        if unsafe:
            yield f"line {node.lineno}: {ast.unparse(node)}"


def test_nothing_in_the_project_reads_pickles():
    files = set(ROOT.glob("*.py"))
    files |= {path for folder in ("video_llama", "tests") for path in (ROOT / folder).rglob("*.py")}
    assert len(files) > 300
    told = [
        f"{file.relative_to(ROOT)}: {danger}"
        for file in sorted(files)
        for danger in dangers(file.read_text("utf-8"))
        if str(file.relative_to(ROOT)) not in BETWEEN_PROCESSES or "pickle.loads(" not in danger
    ]
    assert not told, "\n".join(told)


@pytest.mark.parametrize(
    "line",
    [
        "import torch\ntorch.load('a')",
        "import torch\ntorch.load('a', weights_only=False)",
        "from torch import load\nload('a')",
        "import torch as t\nt.load('a', weights_only=flag)",
        "import pickle\npickle.load(file)",
        "from pickle import loads as read\nread(data)",
        "import pickle as p\np.Unpickler(file)",
        "import numpy as np\nnp.load('a', allow_pickle=True)",
        "from numpy import load\nload('a', allow_pickle=yes)",
        "import joblib\njoblib.load('a')",
        "import torch\ntorch.hub.load('a', 'b')",
        "from torch import hub\nhub.load_state_dict_from_url('a')",
        "AutoModel.from_pretrained('a', trust_remote_code=True)",
        "AutoModel.from_pretrained('a', weights_only=False)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
    ],
)
def test_the_scan_finds_every_way_of_doing_it(line):
    assert list(dangers(line))


@dataclass(frozen=True)
class Payload:
    """Leaves a mark when it is unpickled."""

    mark: Path

    def __reduce__(self):
        return Path.touch, (self.mark,)


@dataclass(frozen=True)
class Trap:
    """Files with a payload, and where its mark would be.

    Attributes:
        folder: of everything.
        mark: the file the payload makes.
        content: a file of weights with the payload.
    """

    folder: Path
    mark: Path
    content: bytes

    def put(self, *parts: str) -> Path:
        """Write the trap in the place of a file."""
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.content)
        return path

    def train(self, *options: str) -> None:
        """Train with some keys changed; there is no run file where it could succeed."""
        run_file = self.folder / "run.yaml"
        if not run_file.exists():
            write_project(self.folder)
        code = main(["train", "--cfg-path", str(run_file), "--options", "run.seed=1", *options])
        if code:
            raise VideoLlamaError(f"exit code {code}")

    def refused(self, read: Callable[[], object]) -> None:
        """Read something that need not fail: it may also be left out."""
        with contextlib.suppress(VideoLlamaError):
            read()
        assert not self.mark.exists()


@pytest.fixture(params=["zip", "old", "bare"])
def trap(request, tmp_path):
    """A trap in the layouts torch.save has had, and as a bare pickle."""
    payload = {"model": {"a": torch.zeros(1)}, "x": Payload(tmp_path / "it_ran")}
    path = tmp_path / "written"
    if request.param == "bare":
        path.write_bytes(pickle.dumps(payload, protocol=2))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=request.param == "zip")
    return Trap(tmp_path, tmp_path / "it_ran", path.read_bytes())


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "it_ran")))
    assert (tmp_path / "it_ran").exists()


def published_checkpoint(trap: Trap) -> None:
    trap.train(f"model.ckpt={trap.put('published.pth')}")


def weights_of_a_part(trap: Trap) -> None:
    trap.train(f"model.branches.video.encoder.weights={trap.put('vit.pth')}")


def weights_named_safetensors(trap: Trap) -> None:
    trap.train(f"model.branches.video.encoder.weights={trap.put('vit.safetensors')}")


def decoder_folder(trap: Trap) -> None:
    weights = trap.put("llama", "pytorch_model.bin")
    (weights.parent / "config.json").write_bytes((DECODER / "config.json").read_bytes())
    trap.train(f"model.decoder.weights={weights.parent}", "model.decoder.trainable=false")


def sentencepiece_file(trap: Trap) -> None:
    load_tokenizer(trap.put("words", "tokenizer.model").parent)


def tokenizers_file(trap: Trap) -> None:
    load_tokenizer(trap.put("words", "tokenizer.json").parent)


def own_folder(trap: Trap) -> None:
    VideoLLM.from_pretrained(trap.put("own", "trainable.safetensors").parent)


def inspected_file(trap: Trap) -> None:
    if main(["weights", "inspect", str(trap.put("x.pth"))]):
        raise VideoLlamaError("refused")


def merged_delta(trap: Trap) -> None:
    paths = [trap.put(name, "pytorch_model.bin").parent for name in ("base", "delta")]
    flags = ["--base", str(paths[0]), "--delta", str(paths[1]), "--target", str(trap.folder / "t")]
    if main(["weights", "merge-delta", *flags]):
        raise VideoLlamaError("refused")


def loose_file(trap: Trap) -> None:
    read_state(trap.put("weights.bin"))


def moments_of_a_resumed_run(trap: Trap) -> None:
    load_optimizer_file(trap.put("step_0000001", "optimizer.safetensors").parent)


LOADERS: tuple[Callable[[Trap], None], ...] = (
    loose_file,
    published_checkpoint,
    weights_of_a_part,
    weights_named_safetensors,
    decoder_folder,
    sentencepiece_file,
    tokenizers_file,
    own_folder,
    inspected_file,
    merged_delta,
    moments_of_a_resumed_run,
)


@pytest.mark.parametrize("loader", LOADERS, ids=lambda loader: loader.__name__)
def test_a_file_with_code_is_refused_and_does_not_run(trap, loader):
    # Resume compares checksums before; without them it is safetensors that refuses.
    with pytest.raises((VideoLlamaError, SafetensorError)):
        loader(trap)
    assert not trap.mark.exists()


def test_a_run_whose_checkpoint_was_exchanged_is_not_resumed_from_it(trap, capsys):
    trap.train("run.max_epoch=2")
    checkpoints = trap.folder / "out" / "checkpoints"
    for path in checkpoints.glob("step_*/*"):
        path.write_bytes(trap.content)
    go_on = ["run.max_epoch=2", f"run.resume_ckpt_path={checkpoints / 'step_0000002'}"]
    with pytest.raises(VideoLlamaError):
        trap.train(*go_on)
    assert "step_0000002" in capsys.readouterr().err
    assert not trap.mark.exists()


def test_features_and_shards_hold_no_code(trap):
    for name in ("rank0.jsonl", "rank0.bin"):
        trap.put("cache", name)
    trap.refused(lambda: FeatureCache(trap.folder / "cache"))
    shards = write_caption_tars(trap.folder, sizes=(2,))
    tar = trap.folder / "00000.tar"
    names = [f"000000000.{suffix}" for suffix in ("pyd", "pickle", "pth", "json")]
    write_tar(tar, dict.fromkeys(names, trap.content))
    trap.refused(lambda: cc_sbu(shards).sample(0))
    assert not trap.mark.exists()


def test_code_beside_a_decoder_and_its_tokenizer_does_not_run(tmp_path):
    mark, words, llama = (tmp_path / name for name in ("it_ran", "words", "llama"))
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Own: pass\n"
    for source, folder in ((TOKENIZER, words), (DECODER, llama)):
        shutil.copytree(source, folder)
        (folder / "evil.py").write_text(code)
    for path, key in (
        (words / "tokenizer_config.json", "AutoTokenizer"),
        (llama / "config.json", "AutoModelForCausalLM"),
    ):
        content = json.loads(path.read_text()) if path.exists() else {}
        content["auto_map"] = {key: "evil.Own", "AutoConfig": "evil.Own"}
        path.write_text(json.dumps(content))
    load_tokenizer(words)
    CausalLM(PartConfig("causal_lm", CausalLM.Config(max_context=64), weights=str(llama)))
    assert not mark.exists()
