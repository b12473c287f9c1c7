"""`apply_delta.py` and `weights merge-delta` on files in the layouts of the releases."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from released_decoders import (
    WORDS,
    add_pad_token,
    billa_release,
    tiny_llama,
    tuned,
    vicuna_delta,
    write_hf,
    write_meta,
    ziya_delta,
)
from tiny_project import write_project
from transformers import AutoModelForCausalLM

from video_llama.apps.main import main
from video_llama.common.errors import VideoLlamaError
from video_llama.conversation.tokenizer import load_tokenizer
from video_llama.models.decoders import merging
from video_llama.models.decoders.merging import Merge, merge_directories

ROOT = Path(__file__).parents[2]
RELEASES = {
    "vicuna": (vicuna_delta, WORDS + 1),
    "ziya": (ziya_delta, WORDS + 24),
    "billa": (billa_release, WORDS + 300),
}


@pytest.fixture(scope="module")
def llama():
    return tiny_llama()


@pytest.fixture
def base(tmp_path, llama):
    return write_hf(tmp_path / "llama", llama.state_dict(), config=llama.config)


@pytest.fixture
def released(tmp_path, llama):
    """Write a release by the name of its rule; return its folder and the model it stands for."""

    def write(rule):
        make, words = RELEASES[rule]
        target = tuned(llama, words=words)
        release = make(llama, target)
        folder = write_hf(tmp_path / f"{rule}-delta-v0", release, config=target.config, num_files=2)
        return folder, target

    return write


def merge(*words):
    return main(["weights", "merge-delta", *map(str, words)])


def quietly(base, delta, target, **settings):
    return merge_directories(
        Merge(base, delta, target, **settings), on_bytes=lambda done, all: None
    )


@pytest.mark.parametrize("rule", list(RELEASES))
def test_a_merged_directory_is_the_model_it_stands_for(rule, base, released, tmp_path, capsys):
    delta, target = released(rule)
    out = tmp_path / "merged"
    assert merge("--base", base, "--delta", delta, "--target", out) == 0
    said = capsys.readouterr().out
    assert f"rule '{rule}'" in said
    assert f"model.llama_model={out}" in said
    merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        found, expected = merged(ids).logits, target.float()(ids).logits
    # Each weight was rounded to float16 twice more than the target's.
    assert (found - expected).abs().max() / expected.abs().max() < 5e-3
    assert not (tmp_path / "merged.partial").exists()


def test_the_door_takes_fastchats_long_flags(base, released, tmp_path, run_program):
    delta, _ = released("vicuna")
    words = ["--base-model-path", base, "--target-model-path", tmp_path / "out", "--delta-path"]
    done = run_program(ROOT / "apply_delta.py", *words, delta)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_config_and_tokenizer_are_those_of_the_release(base, released, tmp_path):
    delta, _ = released("vicuna")
    config = json.loads((delta / "config.json").read_text())
    config |= {"_name_or_path": "somewhere", "eos_token_id": 77}
    (delta / "config.json").write_text(json.dumps(config))
    (delta / "generation_config.json").write_text('{"eos_token_id": 77}')
    add_pad_token(delta)
    quietly(base, delta, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (found["vocab_size"], found["eos_token_id"]) == (WORDS + 1, 77)
    assert found["torch_dtype"] == "float16"
    assert "_name_or_path" not in found
    tokenizer = load_tokenizer(tmp_path / "out")
    assert (tokenizer.vocab_size, tokenizer.pad_id) == (WORDS + 1, WORDS)
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())


def test_a_release_without_a_tokenizer_takes_llamas(base, released, tmp_path):
    delta, _ = released("vicuna")
    (delta / "tokenizer.model").unlink()
    quietly(base, delta, tmp_path / "out")
    assert load_tokenizer(tmp_path / "out").vocab_size == WORDS


def test_billa_is_restored_with_metas_own_file(llama, released, tmp_path):
    delta, target = released("billa")
    meta = write_meta(tmp_path / "7B", llama.state_dict())
    for base in (meta, meta / "consolidated.00.pth"):
        out = tmp_path / f"from-{base.name}"
        assert merge("--base", base, "--delta", delta, "--target", out) == 0
        merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        found = merged.get_input_embeddings().weight
        expected = target.get_input_embeddings().weight.float()
        torch.testing.assert_close(found, expected, rtol=2**-9, atol=2**-10)


@pytest.mark.parametrize("num_files", [1, 2])
def test_metas_files_as_base_of_a_delta_are_answered_with_their_conversion(
    num_files, llama, released, tmp_path, capsys
):
    delta, _ = released("vicuna")
    meta = write_meta(tmp_path / "13B", llama.state_dict(), num_files=num_files)
    assert merge("--base", meta, "--delta", delta, "--target", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "convert_llama_weights_to_hf" in said
    assert f"--input_dir {meta} --num_shards {num_files}" in said


@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
@pytest.mark.parametrize("what", ["delta", "meta"])
def test_a_run_refuses_what_is_not_ready_before_weights_are_read(
    what, flags, llama, released, tmp_path, capsys
):
    if what == "delta":
        folder, cure = released("vicuna")[0], "apply_delta.py --base"
    else:
        folder = write_meta(tmp_path / "7B", llama.state_dict())
        cure = "convert_llama_weights_to_hf"
    sizes = {"intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": WORDS + 1}
    options = [f"model.decoder.architecture.{key}={value}" for key, value in sizes.items()]
    words = ["train", "--cfg-path", str(write_project(tmp_path)), *flags, "--options", *options]
    assert main([*words, f"model.decoder.weights={folder}"]) == 2
    said = "".join(capsys.readouterr())
    assert cure in "".join(said.split("\n"))
    assert "model.decoder" in said


def test_a_forced_rule_is_applied(base, released, tmp_path):
    delta, _ = released("ziya")
    with pytest.raises(VideoLlamaError, match="'vicuna' allows one more"):
        quietly(base, delta, tmp_path / "out", rule="vicuna")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("which", ["base", "delta"])
def test_the_target_may_not_be_one_of_the_sources(which, base, released, capsys):
    delta, _ = released("vicuna")
    target = {"base": base, "delta": delta / ".." / delta.name}[which]
    assert merge("--base", base, "--delta", delta, "--target", target) == 2
    assert f"--target and --{which} are the same folder" in capsys.readouterr().err


def test_an_existing_target_is_not_written_over(base, released, tmp_path, capsys):
    delta, _ = released("vicuna")
    (tmp_path / "out").mkdir()
    assert merge("--base", base, "--delta", delta, "--target", tmp_path / "out") == 2
    assert "exists already" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_in_the_way_that_is_not_ours_is_left_alone(base, released, tmp_path):
    delta, _ = released("vicuna")
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.tex").write_text("precious")
    with pytest.raises(VideoLlamaError, match="not of our making"):
        quietly(base, delta, tmp_path / "out")
    assert (tmp_path / "out.partial" / "thesis.tex").read_text() == "precious"


def test_what_is_not_there_is_named(base, tmp_path, capsys):
    assert merge("--base", base, "--delta", tmp_path / "no", "--target", tmp_path / "out") == 2
    assert f"--delta: there is no {tmp_path / 'no'}" in capsys.readouterr().err


def test_a_name_of_the_hub_is_answered_with_the_way_to_get_it(base, tmp_path, capsys):
    delta = "lmsys/vicuna-7b-delta-v0"
    assert merge("--base", base, "--delta", delta, "--target", tmp_path / "out") == 2
    assert f"video-llama weights get {delta}" in capsys.readouterr().err


def test_a_half_downloaded_delta_is_refused_before_anything_is_written(base, released, tmp_path):
    delta, _ = released("vicuna")
    next(delta.glob("*.bin")).unlink()
    with pytest.raises(VideoLlamaError, match="names files that are not there"):
        quietly(base, delta, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    base, released, tmp_path, monkeypatch
):
    delta, _ = released("vicuna")
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(merging.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(VideoLlamaError, match="still needs 0.0 GiB and the disk has 0.0 GiB free"):
        quietly(base, delta, tmp_path / "out")
    assert not list(tmp_path.glob("out.partial/*.safetensors*"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_fills_up_is_told_and_the_same_call_goes_on_later(base, released, tmp_path):
    delta, _ = released("vicuna")
    target = tmp_path / "out"
    settings = {"shard_bytes": 20_000}
    partial = tmp_path / "out.partial"
    partial.mkdir()
    # The second shard runs into a device that takes nothing.
    quietly(base, delta, tmp_path / "other", **settings)
    second = sorted(path.name for path in (tmp_path / "other").glob("*.safetensors"))[1]
    (partial / f"{second}.partial").symlink_to("/dev/full")
    identity = json.loads((tmp_path / "other" / "merge.json").read_text())
    (partial / "merge.json").write_text(json.dumps(identity, indent=1))
    with pytest.raises(VideoLlamaError, match="No space left on device.*finished shards are kept"):
        quietly(base, delta, target, **settings)
    assert not target.exists()
    (partial / f"{second}.partial").unlink()
    quietly(base, delta, target, **settings)
    assert_same_files(target, tmp_path / "other")


def test_a_call_that_was_stopped_goes_on_with_the_next_shard(base, released, tmp_path):
    delta, _ = released("vicuna")
    settings = {"shard_bytes": 20_000}
    quietly(base, delta, tmp_path / "whole", **settings)

    class StopError(Exception):
        pass

    def stop_in_the_middle(done, total):
        if done > total / 2:
            raise StopError

    target = tmp_path / "out"
    with pytest.raises(StopError):
        merge_directories(Merge(base, delta, target, **settings), on_bytes=stop_in_the_middle)
    finished = {path: path.stat().st_mtime_ns for path in target.parent.glob("out.partial/*.safe*")}
    whole = [path for path in finished if path.suffix == ".safetensors"]
    assert 0 < len(whole) < len(list((tmp_path / "whole").glob("*.safetensors")))
    quietly(base, delta, target, **settings)
    for path in whole:
        assert (target / path.name).stat().st_mtime_ns == finished[path]
    assert_same_files(target, tmp_path / "whole")


def test_half_done_work_of_another_delta_is_not_mixed_in(base, released, tmp_path):
    delta, _ = released("vicuna")
    quietly(base, delta, tmp_path / "first", shard_bytes=20_000)
    partial = (tmp_path / "first").rename(tmp_path / "out.partial")
    other = tuned(tiny_llama(), words=WORDS + 1, seed=9)
    delta = write_hf(
        tmp_path / "other-delta", vicuna_delta(tiny_llama(), other), config=other.config
    )
    quietly(base, delta, tmp_path / "out", shard_bytes=20_000)
    quietly(base, delta, tmp_path / "clean", shard_bytes=20_000)
    assert not partial.exists()
    assert_same_files(tmp_path / "out", tmp_path / "clean")


def test_no_more_than_one_tensor_is_made_at_a_time(base, released, tmp_path, monkeypatch):
    delta, _ = released("vicuna")
    make, alive, most = merging.merged_tensor, set(), 0

    def counted(name, **sources):
        nonlocal most
        tensor = make(name, **sources)
        alive.add(name)
        weakref.finalize(tensor, alive.discard, name)
        most = max(most, len(alive))
        return tensor

    monkeypatch.setattr(merging, "merged_tensor", counted)
    quietly(base, delta, tmp_path / "out")
    assert most == 1


MEASURE = """
import re, sys
from pathlib import Path
from video_llama.models.decoders.merging import Merge, merge_directories

def anonymous_mib():
    text = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\\s+(\\d+)", text)[1]) / 1024

base, delta, target = map(Path, sys.argv[1:])
readings = []
merge_directories(
    Merge(base, delta, target), on_bytes=lambda done, total: readings.append(anonymous_mib())
)
print(max(readings), min(readings), len(readings))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measured by Linux's own count")
def test_memory_does_not_grow_with_the_model(tmp_path, run_program):
    """32 tensors of 4 MiB, all in one file, are merged in the room of a few."""
    config = tiny_llama().config
    state = {f"model.layers.{i}.mlp.up_proj.weight": torch.rand(1024, 2048) for i in range(32)}
    state |= {"model.embed_tokens.weight": torch.rand(10, 16), "model.norm.weight": torch.ones(16)}
    state = {name: tensor.half() for name, tensor in state.items()}
    base = write_hf(tmp_path / "llama", state, config=config)
    delta = {name: tensor * 0.01 for name, tensor in state.items()}
    delta = write_hf(tmp_path / "delta", delta, config=config)
    program = tmp_path / "measure.py"
    program.write_text(MEASURE)
    done = run_program(program, base, delta, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for folder in (base, delta, tmp_path / "out"):
        shutil.rmtree(folder)
    most, least, number = map(float, done.stdout.split())
    assert number == len(state)
    assert most - least < 48


def assert_same_files(found, expected):
    names = sorted(path.name for path in expected.iterdir())
    assert sorted(path.name for path in found.iterdir()) == names
    for name in names:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
