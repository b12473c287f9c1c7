"""Any step of a run of several processes can be made again in one, to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from promises.launch import as_torchrun, run_ranks
from promises.small_project import BROKEN, write_project
from safetensors.torch import load_file

from video_llama.apps.main import main
from video_llama.apps.replay import build_replay
from video_llama.common.config import load
from video_llama.runners.ledger import read_entry
from video_llama.runners.metrics import read_lines
from video_llama.runners.replay import find_start

pytestmark = pytest.mark.slow
NUM_STEPS = 8
OPTIONS = (
    "run.task=video_text_pretrain",
    "run.accum_grad_iters=2",
    "run.keep_last=9",
    "datasets.both.augment=random_crop",
    "datasets.silent.augment=random_crop",
    "model.branches.video.stages.video_qformer.dropout=0.3",
    "model.branches.audio.stages.audio_qformer.dropout=0.3",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of two ranks with two iterations a step, checkpoints after steps 2, 4, 6 and 8."""
    folder = tmp_path_factory.mktemp("replayed")
    project = write_project(folder, iters=2 * NUM_STEPS, batch_size=2)
    words = ["train", "--cfg-path", str(project), "--options", *OPTIONS]
    run_ranks(partial(main, words), worlds=as_torchrun(2), logs=folder / "logs")
    assert read_lines(folder / "out/metrics.jsonl")[-1]["step"] == NUM_STEPS
    return folder / "out"


def replay_of(run, step):
    """Return the parts, the entry and the step a replay starts from."""
    config, entry = load(run / "config.yaml"), read_entry(run, step=step)
    start = find_start(run, step=step)
    replay = build_replay(config, run, entry=entry, start=start, device="cpu")
    return replay, entry, 0 if start.state is None else start.state.step


def losses_of(record):
    return [loss for output in record.outputs for loss in output.sample_loss.tolist()]


def traces_of(record):
    return [trace for loaded in record.loaded for trace in loaded.traces]


@pytest.mark.parametrize("step", [3, 5, 7])
def test_a_step_after_a_checkpoint_has_equal_samples_and_losses_to_the_bit(run, step):
    replay, entry, start = replay_of(run, step)
    assert start == step - 1
    record = replay.make(step, start=start)
    assert (entry.num_ranks, entry.accum, len(entry.samples)) == (2, 2, 8)
    assert traces_of(record) == [sample.trace for sample in entry.samples]
    assert losses_of(record) == [sample.loss for sample in entry.samples]


@pytest.mark.parametrize("step", [2, 4])
def test_a_step_without_its_checkpoint_is_trained_up_to_and_agrees_to_rounding(run, step):
    replay, entry, start = replay_of(run, step)
    assert start == step - 2
    record = replay.make(step, start=start)
    assert losses_of(record) == pytest.approx([s.loss for s in entry.samples], rel=1e-5)
    assert record.grad_norm == pytest.approx(entry.grad_norm, rel=1e-4)


def test_the_dropout_is_that_of_the_rank_which_had_the_sample(run):
    steps = (step for step in (3, 5, 7) if read_entry(run, step=step).dataset != "own")
    replay, entry, start = replay_of(run, next(steps))
    other = replace(replay, layout=replace(replay.layout, num_ranks=1))
    record = other.make(start + 1, start=start)
    losses = losses_of(record)
    # The first iteration of rank 0 is the only one with the same seed.
    assert losses[:2] == [sample.loss for sample in entry.samples[:2]]
    assert losses[2:] != [sample.loss for sample in entry.samples[2:]]


def test_a_filled_place_is_filled_again_from_the_record_not_by_trying(run):
    entries = [read_entry(run, step=step) for step in range(1, NUM_STEPS + 1)]
    filled = [
        (entry.step, sample.trace)
        for entry in entries
        for sample in entry.samples
        if sample.trace.filled_for
    ]
    assert filled, "no step met the broken clip"
    step, trace = filled[0]
    broken = Path(run.parent / f"clips/page/{BROKEN}.mp4")
    broken.write_bytes(Path(run.parent / "clips/page/1.mp4").read_bytes())
    try:
        replay, _, _ = replay_of(run, step)
        record = replay.make_alone(step)
    finally:
        broken.write_bytes(b"")
    assert trace in traces_of(record)


def test_the_ledger_knows_frames_crops_and_sound(run):
    media = [
        item
        for step in range(1, NUM_STEPS + 1)
        for sample in read_entry(run, step=step).samples
        for item in sample.trace.media
    ]
    assert {item.kind for item in media} == {"video", "audio"}
    assert all(item.times_s for item in media)
    cropped = [item.crop for item in media if item.crop is not None]
    assert len(set(cropped)) > 1
    for top, left, height, width in cropped:
        assert 0 <= top < top + height <= 32
        assert 0 <= left < left + width <= 32


def test_the_verb_prints_the_samples_and_writes_what_the_model_was_shown(run, tmp_path, capfd):
    with_video = next(
        step for step in (3, 5, 7) if read_entry(run, step=step).dataset in ("both", "silent")
    )
    code = main(["replay", "--run", str(run), "--step", str(with_video), "--save", str(tmp_path)])
    out, errors = capfd.readouterr()
    entry = read_entry(run, step=with_video)
    assert code == 0
    assert "8 losses, all equal to the bit" in errors
    for sample in entry.samples:
        assert f"{sample.loss / sample.num_targets:.6f}" in out
    page = json.loads((tmp_path / "step.json").read_text())
    assert [s["trace"]["key"] for s in page["samples"]] == [s.trace.key for s in entry.samples]
    batch = load_file(tmp_path / "batch_000.safetensors")
    assert batch["input_ids"].shape[0] == 2
    frames = batch["media.video.raw"]
    picture = np.asarray(Image.open(sorted(tmp_path.glob("000_*_video_*.png"))[0]))
    height, width = frames.shape[-2:]
    # Shades of grey: what was written is what was decoded, not what it was normalised to.
    assert picture.shape[0] == height
    assert picture.shape[1] % width == 0
    assert np.ptp(picture.astype(int), axis=2).max() <= 2


def test_a_sample_that_is_another_one_here_is_named(run, capfd):
    entry = next(
        entry
        for step in range(1, NUM_STEPS + 1)
        if (entry := read_entry(run, step=step)).dataset == "silent"
        and not all(sample.trace.filled_for for sample in entry.samples)
    )
    path = next(
        Path(sample.trace.media[0].path) for sample in entry.samples if not sample.trace.filled_for
    )
    path = path.rename(path.with_suffix(".elsewhere"))
    try:
        assert main(["replay", "--run", str(run), "--step", str(entry.step), "--as-saved"]) == 0
    finally:
        path.rename(path.with_suffix(".mp4"))
    assert "of 8 samples are not those of the run" in capfd.readouterr().err


def test_weights_of_another_step_are_said_to_be_so(run, capfd):
    assert main(["replay", "--run", str(run), "--step", "4", "--as-saved"]) == 0
    assert "those after step 2 and the run's were those after step 3" in capfd.readouterr().err


def test_a_run_without_a_ledger_can_be_replayed_but_not_compared(run, capfd):
    (run / "ledger").rename(run / "elsewhere")
    try:
        assert main(["replay", "--run", str(run), "--step", "5"]) == 0
    finally:
        (run / "elsewhere").rename(run / "ledger")
    out, errors = capfd.readouterr()
    assert "the run kept no ledger of step 5" in errors
    assert all(sample.trace.key in out for sample in read_entry(run, step=5).samples)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--step", "9"], "has steps 1 to 8"),
        (["--step", "0"], "has steps 1 to 8"),
    ],
)
def test_a_step_that_is_not_there_is_refused(run, capsys, words, told):
    assert main(["replay", "--run", str(run), *words]) == 2
    assert told in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert main(["replay", "--run", str(tmp_path), "--step", "1"]) == 2
    assert "holds no config.yaml" in capsys.readouterr().err
