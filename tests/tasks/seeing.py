"""A model that answers by what it is shown, with everything around it real.

It sees brightness: the first frame's decides "red" (dark) or "blue" (bright), the sound's mean
decides nothing but is counted. The tokenizer, the template, collate and the encoder of samples are
those of the package, so what reaches the model is what would reach a real one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from video_llama.common.errors import MediaError
from video_llama.common.types import (
    AudioSpec,
    BranchSpec,
    LossOutput,
    MediaItem,
    Message,
    Sample,
    Shape,
    VideoSpec,
)
from video_llama.conversation.templates import get_template
from video_llama.conversation.tokenizer import load_tokenizer
from video_llama.datasets.sample_encoder import SampleEncoder, TextSettings
from video_llama.tasks.prompting import Prompter
from video_llama.tasks.questions import read_question

TOKENIZER = Path(__file__).parents[1] / "goldens" / "conversation" / "llama"
VIDEO = VideoSpec(num_frames=4, image_size=2, mean=(0.0,) * 3, std=(1.0,) * 3)
AUDIO = AudioSpec(
    num_clips=2,
    clip_s=0.25,
    sample_rate_hz=16000,
    num_mel_bins=8,
    num_mel_frames=25,
    mean=0.0,
    std=1.0,
    clip_policy="consecutive",
)


def one_slot(num_steps):
    return 1


SPECS = {
    "video": BranchSpec("video", ("video",), VIDEO, Shape(4, 1, 1), one_slot, "frozen"),
    "audio": BranchSpec("audio", ("audio",), AUDIO, Shape(2, 1, 1), one_slot, "frozen"),
}


class MediaFromNames:
    """Reads "dark 1.mp4": a clip of dark frames that get bright; "broken" cannot be read."""

    def __init__(self):
        self.num_read = 0

    def load_all(self, requests):
        return [self._read(request.item) for request in requests]

    def _read(self, item):
        name = Path(item.path).name
        if name.startswith("broken"):
            raise MediaError("no video stream", path=item.path)
        self.num_read += 1
        if item.kind == "audio":
            return replace(item, mel=torch.ones(2, 1, 8, 25), times_s=(0.0, 0.25))
        first = 0.0 if name.startswith("dark") else 1.0
        frames = torch.tensor([first, 1 - first, 1 - first, 1 - first])
        pixels = frames[:, None, None, None].expand(4, 3, 2, 2).clone()
        return replace(item, pixels=pixels, times_s=(0.0, 0.5, 1.0, 1.5))


class SeeingModel:
    """Answers "red" for a dark first frame, "blue" for a bright one, "nothing" without a clip."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.num_encoded = 0
        self.batch_sizes = []
        self.num_scored = []

    def __call__(self, batch):
        return self._losses(batch.labels, self._answers(batch), self._frontier(batch))

    def score(self, prompts, *, continuations, rows):
        self.num_scored.append((len(prompts.keys), len(rows)))
        assert prompts.attention_mask[:, -1].all(), "prompts are padded on the left"
        answers = self._answers(prompts)
        return self._losses(continuations.labels, [answers[row] for row in rows], {})

    def _losses(self, all_labels, answers, frontier):
        sums, counts = [], []
        for labels, answer in zip(all_labels, answers, strict=True):
            ids = labels[labels != -100].tolist()
            said = self.tokenizer.decode(ids)
            # The more tokens, the larger the sum; the mean alone tells right from wrong.
            sums.append(len(ids) * (0.5 if said.strip().startswith(answer) else 2.0))
            counts.append(len(ids))
        return LossOutput(
            loss_sum=torch.tensor(sum(sums)),
            num_targets=torch.tensor(sum(counts)),
            sample_loss=torch.tensor(sums),
            sample_targets=torch.tensor(counts),
            frontier=frontier,
        )

    def generate(self, batch, *, settings, stop=None):
        self.batch_sizes.append(len(batch.keys))
        assert batch.attention_mask[:, -1].all(), "prompts are padded on the left"
        return [self.tokenizer.encode_run(f"{a}###Human: more").ids for a in self._answers(batch)]

    def _frontier(self, batch):
        found = {}
        for name, media in batch.media.items():
            for item in batch.items:
                raw_rows = media.raw_rows.tolist()
                if item.branch == name and item.row in raw_rows:
                    self.num_encoded += 1
                    raw = media.raw[raw_rows.index(item.row)]
                    found[item.feature_key] = raw.mean(dim=(1, 2, 3))[:, None, None]
        return found

    def _answers(self, batch):
        answers = ["nothing"] * len(batch.keys)
        for item in batch.items:
            if item.branch != "video":
                continue
            media = batch.media["video"]
            if media.cached_rows is not None and item.row in media.cached_rows.tolist():
                first = media.cached[media.cached_rows.tolist().index(item.row)][0, 0, 0]
            else:
                first = media.raw[media.raw_rows.tolist().index(item.row)][0].mean()
            answers[item.sample] = "blue" if first > 0.5 else "red"
        return answers


def a_prompter(cache=None):
    text = TextSettings(get_template("vicuna_v0"), load_tokenizer(TOKENIZER), max_len=512)
    return Prompter(SampleEncoder(SPECS, text=text, reader=MediaFromNames(), cache=cache))


def a_question(key, name, *, streams=("video",), **meta):
    media = [MediaItem(kind, f"/clips/{name}.mp4") for kind in streams]
    answer = "red" if name.startswith("dark") else "blue"
    meta = {"kind": "colour", "answer": answer, **meta}
    return read_question(
        Sample(key, [Message("user", [*media, "What colour?"])], form="chat", meta=meta)
    )
