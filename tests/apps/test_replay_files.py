"""What `video-llama replay` says and writes of samples, without a run."""

import json
import math

import torch

from video_llama.apps.replay import _read
from video_llama.apps.replay_files import save_batches
from video_llama.common.types import LossOutput
from video_llama.datasets.trace import MediaTrace, SampleTrace
from video_llama.runners.ledger import samples_of
from video_llama.runners.step import StepRecord


class Traced:
    """As much of a loaded batch as the ledger reads."""

    def __init__(self, *traces):
        self.traces = traces


def a_trace(times_s=(), crop=None):
    item = MediaTrace(kind="video", path="a.mp4", branch="video", times_s=times_s, crop=crop)
    return SampleTrace(key="a", position=0, index=0, media=(item,))


def test_a_medium_without_known_seconds_is_named_all_the_same():
    assert _read(a_trace()) == "video"
    assert _read(a_trace(crop=(1, 2, 30, 40))) == "video crop 40x30+2+1"
    assert _read(a_trace(times_s=(0.5, 1.5))) == "video 2 at 0.5..1.5 s"


def refuse(word):
    raise AssertionError(f"{word} is no JSON")


def test_what_is_not_finite_is_null_in_the_page_of_a_step(tmp_path):
    output = LossOutput(
        torch.tensor(math.nan), torch.tensor(3), torch.tensor([math.nan]), torch.tensor([3])
    )
    record = StepRecord(
        step=1,
        dataset="clips",
        lr=0.1,
        loss_sum=math.nan,
        num_targets=3,
        num_tokens=4,
        num_samples=1,
        grad_norm=math.inf,
        loaded=[Traced(a_trace())],
        outputs=[output],
    )
    (samples,) = samples_of(record)
    bare = StepRecord(**{**vars(record), "loaded": (), "outputs": ()})
    save_batches(tmp_path, record=bare, samples=samples, recorded=None, specs={})
    page = json.loads((tmp_path / "step.json").read_text(), parse_constant=refuse)
    assert (page["loss"], page["grad_norm"], page["samples"][0]["loss"]) == (None, None, None)
