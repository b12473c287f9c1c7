"""Against transformers' `VideoLlavaForConditionalGeneration` at tiny size: the same numbers."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
import torch
from tiny_llava import (
    FRAMES,
    IMAGE_ID,
    LLAMA,
    SIDE,
    TOKENS,
    VIDEO_ID,
    VISION,
    WORDS,
    port,
    port_of,
    tree,
    typed,
    write_hub,
)
from tiny_llava import ROWS as TABLE

from video_llama.common.config import load_preset
from video_llama.common.generation import GenerationSettings
from video_llama.common.types import IGNORE_INDEX, Batch, BatchItem, BranchInput
from video_llama.models.loading import build_model

PICTURE, CLIP = "picture", "clip"
IDS = {PICTURE: IMAGE_ID, CLIP: VIDEO_ID}
BRANCHES = {PICTURE: "image", CLIP: "video"}
NAMES = {
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "ffn_width": "intermediate_size",
    "image_size": "image_size",
    "patch_size": "patch_size",
}
"""Of sizes of a tower: ours and theirs."""
ROWS = {
    "picture": [[1, 5, PICTURE, 9, 7, 30]],
    "clip": [[1, 5, 6, CLIP, 9, 7, 31]],
    "batch of both": [[1, 5, PICTURE, 9], [1, 8, 5, 6, CLIP, 9, 7, 31, 4]],
    "both in one row": [[1, PICTURE, 5, CLIP, 6, PICTURE, 7, 9]],
}


@dataclass(frozen=True)
class Sizes:
    """What decides how many tokens a medium has, and of what shape it is."""

    side: int = SIDE
    tokens: int = TOKENS
    frames: int = FRAMES

    def slots(self, kind: str) -> int:
        """Return the positions of a picture or clip."""
        return self.tokens if kind == PICTURE else self.frames * (self.tokens + 1)


TINY = Sizes()


@dataclass
class Case:
    """One batch, once as ours and once as transformers wants it."""

    ours: Batch
    theirs: dict[str, torch.Tensor]


def case(rows, sizes=TINY) -> Case:
    """Lay rows out, padded on the left."""
    side = sizes.side
    generator = torch.Generator().manual_seed(7)
    media = {PICTURE: [], CLIP: []}
    items, ids, slots, port_ids = [], [], [], []
    for sample, row in enumerate(rows):
        ids.append([])
        slots.append([])
        port_ids.append([])
        for part in row:
            if isinstance(part, int):
                ids[-1].append(part)
                slots[-1].append(0)
                port_ids[-1].append(part)
                continue
            num_frames = 1 if part == PICTURE else sizes.frames
            num_slots = sizes.slots(part)
            pixels = torch.randn(num_frames, 3, side, side, generator=generator)
            items.append(BatchItem(BRANCHES[part], len(media[part]), num_slots, sample))
            media[part].append(pixels)
            ids[-1] += [0] * num_slots
            slots[-1] += [len(items)] * num_slots
            port_ids[-1] += [IDS[part]] * num_slots
    mask = padded([[1] * len(row) for row in ids]).bool()
    inputs = {}
    for kind, found in media.items():
        frames = 1 if kind == PICTURE else sizes.frames
        raw = torch.stack(found) if found else torch.zeros(0, frames, 3, side, side)
        there = torch.ones(raw.shape[:2], dtype=torch.bool)
        inputs[BRANCHES[kind]] = BranchInput(raw, there, torch.arange(len(raw)))
    ours = Batch(
        input_ids=padded(ids),
        attention_mask=mask,
        labels=torch.full(mask.shape, IGNORE_INDEX),
        slots=padded(slots).int(),
        items=items,
        media=inputs,
        keys=[str(number) for number in range(len(rows))],
    )
    theirs = {"input_ids": padded(port_ids), "attention_mask": mask.long()}
    if media[PICTURE]:
        theirs["pixel_values"] = torch.cat(media[PICTURE])
    if media[CLIP]:
        theirs["pixel_values_videos"] = torch.stack(media[CLIP])
    return Case(ours, theirs)


def padded(rows):
    length = max(map(len, rows))
    return torch.tensor([[0] * (length - len(row)) + row for row in rows])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = write_hub(tmp_path_factory.mktemp("hf") / "hub")
    return build_model(typed(tree(directory, temporal_attention=False))).model.eval()


@torch.no_grad()
def logits_of(model, batch):
    outputs = model._run_branches(batch.media)
    hidden = model.decoder(model.embed(batch, outputs), attention_mask=batch.attention_mask)
    return model.decoder.logits(hidden)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@torch.no_grad()
def test_the_logits_are_those_of_transformers(rows, model):
    made = case(rows)
    mask = made.ours.attention_mask
    expected = port()(**made.theirs).logits
    assert (logits_of(model, made.ours) - expected)[mask].abs().max() <= 1e-5
    # Large enough that the bound means something.
    assert expected[mask].std() > 0.1


@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_the_shipped_preset_at_any_size_is_transformers_model(seed, tmp_path):
    drawn = random.Random(seed)
    heads, groups = drawn.choice([2, 4]), drawn.choice([1, 2])
    vision = {
        **VISION, "hidden_size": 8 * heads, "num_attention_heads": heads,
        "num_hidden_layers": drawn.randint(2, 4), "intermediate_size": drawn.choice([20, 40]),
        "image_size": 4 * drawn.randint(3, 5), "patch_size": 4,
    }  # fmt: skip
    llama = {
        **LLAMA, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4 // groups,
        "num_hidden_layers": drawn.randint(1, 3), "intermediate_size": drawn.randint(20, 60),
        "max_position_embeddings": 512,
    }  # fmt: skip
    frames = drawn.choice([2, 3, 5, 8])
    theirs = port_of(vision, llama, num_frames=frames)
    theirs.save_pretrained(tmp_path / "port")
    ours = build_model(load_preset("video_llava", "vicuna7b_hf_compat", options=[
        f"model.released={tmp_path / 'port'}", f"model.branches.video.encoder.num_frames={frames}",
        "model.max_txt_len=512", "model.decoder.dtype=float32",
        f"model.decoder.architecture.vocab_size={TABLE}",
        *(f"model.decoder.architecture.{key}={value}" for key, value in llama.items()),
        *(
            f"model.branches.{branch}.encoder.{ours}={vision[theirs]}"
            for branch in ("image", "video") for ours, theirs in NAMES.items()
        ),
        *(f"model.branches.{branch}.encoder.dtype=float32" for branch in ("image", "video")),
    ])).model.eval()  # fmt: skip
    side = vision["image_size"]
    made = case(ROWS["both in one row"], Sizes(side, (side // 4) ** 2, frames))
    expected = theirs(**made.theirs).logits
    assert (logits_of(ours, made.ours) - expected).abs().max() <= 2e-5
    assert expected.std() > 0.1


@pytest.mark.parametrize("silent", [(), tuple(range(WORDS, TABLE))], ids=["any id", "text only"])
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_greedy_answers_are_those_of_transformers(rows, silent, model, monkeypatch):
    made = case(rows)
    settings = GenerationSettings(max_new_tokens=12)
    monkeypatch.setattr(model.decoder, "silent_ids", frozenset(silent))
    answers = model.generate(made.ours, settings=settings)
    expected = port().generate(
        **made.theirs,
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
        suppress_tokens=list(silent) or None,
    )
    for answer, row in zip(answers, expected[:, made.ours.input_ids.shape[1] :], strict=True):
        assert answer == row.tolist()[: len(answer)]
        assert len(answer) == 12 or answer[-1] == 2
        assert not set(answer) & set(silent)


@torch.no_grad()
def test_the_port_sees_frame_by_frame_and_so_does_this_wiring(model):
    clip = torch.randn(1, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    other = clip.clone()
    other[:, 1:] += 1.0
    there = torch.ones(1, FRAMES, dtype=torch.bool)
    first, second = (
        model.branches["video"](BranchInput(raw, there, torch.arange(1))).features.tokens
        for raw in (clip, other)
    )
    assert torch.equal(first[:, 0], second[:, 0])
    assert not torch.allclose(first[:, 1], second[:, 1])
