"""The ledger: what is kept of every sample, on any number of ranks, after kills and resumes."""

import gzip
import json
from dataclasses import replace

import pytest
import torch
from tiny_run import TinyDataset, build, config_of

from video_llama.common.dist import World
from video_llama.common.types import LossOutput, MediaItem
from video_llama.datasets.collate import EncodedSample, RoutedItem, Skip
from video_llama.datasets.trace import trace_of
from video_llama.runners.ledger import (
    STEPS_PER_FILE,
    Entry,
    Ledger,
    SampleEntry,
    drop_entries_after,
    read_entry,
)
from video_llama.runners.metrics import read_lines
from video_llama.runners.step import StepRecord

ALONE = World()


def a_sample(key="clip-1", **keys):
    item = MediaItem("video", "a.mp4", times_s=(0.0, 1 / 3), crop=(1, 2, 30, 40), **keys)
    return EncodedSample(
        key=key,
        dataset="clips",
        input_ids=[1],
        labels=[1],
        slots=[0],
        media=(RoutedItem(item, "video", 4),),
        skips=(Skip("clips", "clip-0", "b.mp4", "no video stream", 7, 0, 1),),
        position=7,
        index=1,
    )


class Traced:
    """As much of a loaded batch as the ledger reads."""

    def __init__(self, *samples):
        self.traces = tuple(trace_of(sample) for sample in samples)


def a_record(step, *, keys=("a", "b"), losses=(3.0, 0.1)):
    output = LossOutput(
        torch.tensor(sum(losses)), torch.tensor(5), torch.tensor(losses), torch.tensor([4, 1])
    )
    return StepRecord(
        step=step,
        dataset="clips",
        lr=0.25,
        loss_sum=sum(losses),
        num_targets=5,
        num_tokens=9,
        num_samples=2,
        grad_norm=1.5,
        loaded=[Traced(*(a_sample(key) for key in keys))],
        outputs=[output],
    )


def written(folder, steps):
    ledger = Ledger(folder, world=ALONE, reader="pyav", is_kept=True)
    for step in steps:
        ledger.add(a_record(step))
    ledger.flush()


def steps_in(folder, upto):
    return [step for step in range(1, upto + 1) if read_entry(folder, step=step) is not None]


def test_an_entry_comes_back_as_it_was(tmp_path):
    written(tmp_path, [4])
    trace = trace_of(a_sample("a"))
    assert trace.media[0].times_s == (0.0, 0.333)
    assert trace.media[0].crop == (1, 2, 30, 40)
    assert trace.filled_for == (("clip-0", "no video stream"),)
    first = SampleEntry(trace, 3.0, 4)
    # A float32 is kept to its last bit.
    second = SampleEntry(replace(trace, key="b"), float(torch.tensor(0.1)), 1)
    assert read_entry(tmp_path, step=5) == Entry(
        5, "clips", 0.25, 1.5, "pyav", num_ranks=1, accum=1, samples=(first, second)
    )


def test_a_part_of_a_clip_is_kept_with_its_seconds():
    trace = trace_of(a_sample(start_s=2.0)).media[0]
    assert trace.span_s == (2.0, None)


def test_a_loss_that_is_not_finite_is_no_number(tmp_path):
    ledger = Ledger(tmp_path, world=ALONE, reader="pyav", is_kept=True)
    ledger.add(a_record(0, losses=(float("nan"), 1.0)))
    ledger.flush()
    assert [sample.loss for sample in read_entry(tmp_path, step=1).samples] == [None, 1.0]


def test_what_a_kill_cut_off_is_no_entry_and_hides_none(tmp_path):
    written(tmp_path, [0, 1])
    written(tmp_path, [2])
    path = next((tmp_path / "ledger").iterdir())
    path.write_bytes(path.read_bytes()[:-9])
    assert steps_in(tmp_path, 4) == [1, 2]
    drop_entries_after(tmp_path, step=2)
    written(tmp_path, [2, 3])
    assert steps_in(tmp_path, 4) == [1, 2, 3, 4]


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_going_back_drops_later_entries(tmp_path, kept):
    written(tmp_path, range(3))
    drop_entries_after(tmp_path, step=kept)
    assert steps_in(tmp_path, 4) == list(range(1, kept + 1))


def test_a_file_holds_so_many_steps_and_later_files_go_whole(tmp_path):
    last = STEPS_PER_FILE
    written(tmp_path, [last - 2, last - 1, last, last + 1])
    names = sorted(path.name for path in (tmp_path / "ledger").iterdir())
    assert names == ["steps_0000001.jsonl.gz", "steps_0001001.jsonl.gz"]
    drop_entries_after(tmp_path, step=last)
    assert [path.name for path in (tmp_path / "ledger").iterdir()] == names[:1]
    assert read_entry(tmp_path, step=last) is not None


def test_every_gzip_reads_it(tmp_path):
    written(tmp_path, [0])
    written(tmp_path, [1])
    with gzip.open(next((tmp_path / "ledger").iterdir()), "rt") as file:
        assert [json.loads(line)["step"] for line in file] == [1, 2]


def test_a_run_keeps_the_samples_of_the_plan_and_their_losses(tmp_path):
    config = config_of(tmp_path, accum_grad_iters=2, iters_per_epoch=4, batch_size_train=2)
    runner = build(config, ALONE, dataset=TinyDataset(broken=["clips-1"]))
    runner.train()
    lines = [line for line in read_lines(tmp_path / "metrics.jsonl") if line["kind"] == "train"]
    reasons = set()
    for line in lines:
        entry = read_entry(tmp_path, step=line["step"])
        refs = runner.data.plan.step(line["step"] - 1)
        traces = [sample.trace for sample in entry.samples]
        assert [trace.key for trace in traces] == [f"{r.dataset}-{r.index}" for r in refs]
        assert [trace.position for trace in traces] == [ref.position for ref in refs]
        num_targets = sum(sample.num_targets for sample in entry.samples)
        loss = sum(sample.loss for sample in entry.samples) / num_targets
        assert loss == pytest.approx(line["loss"], rel=1e-5)
        reasons |= {reason for trace in traces for _, reason in trace.filled_for}
    assert reasons == {"no video stream"}


def entries_of(folder):
    return [read_entry(folder, step=step) for step in range(1, 9)]


def test_after_a_resume_the_ledger_is_that_of_an_uninterrupted_run(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    build(config_of(whole), ALONE).train()
    build(config_of(parts), ALONE, stop_before_step=5).train()
    # As if it had been killed after the checkpoint of step 4.
    back = str(parts / "checkpoints/step_0000004")
    build(config_of(parts, resume_ckpt_path=back), ALONE).train()
    assert entries_of(whole) == entries_of(parts)
    assert None not in entries_of(whole)


def test_a_run_may_keep_none(tmp_path):
    build(config_of(tmp_path, ledger=False), ALONE).train()
    assert not (tmp_path / "ledger").exists()
