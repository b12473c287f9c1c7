"""Pretraining of the toy decoder: a small LLaMA that can look facts up.

Texts only: the facts of a scene are written out where its media will stand, in exactly the token
layout the decoder will meet (the same `conversation.encode`, the slots filled with the tokens of
the facts). First the model learns to look random word pairs up; then questions, captions and
ever fewer drills. Without the first stage two things in one scene are told apart no better than
by a coin. See docs/toy_world.md for the numbers.

Shapes: B batch, L text.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from video_llama.common.logger import get_logger
from video_llama.common.rng import fold
from video_llama.common.types import IGNORE_INDEX
from video_llama.conversation.tokenizer import Tokenizer, load_tokenizer
from video_llama.foundations.fit import Curve, write_curve
from video_llama.foundations.text_gate import gate_texts, measure
from video_llama.foundations.text_layout import LaidOut, collate, lay_out
from video_llama.foundations.tokenizer import train_tokenizer
from video_llama.toy.corpus import drill_sample, sample_scenes, scene_sample, tokenizer_lines
from video_llama.toy.drills import recall_list
from video_llama.toy.texts import TextSample

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

# Every quarter of a second counts on two cores, so batches are cut from this many at a time,
# sorted by length.
_BATCHES_SORTED_TOGETHER = 8


@dataclass(frozen=True)
class DecoderRecipe:
    """Size and training of the toy decoder.

    Attributes:
        width: of the residual stream.
        num_layers: transformer blocks.
        num_heads: of attention.
        ffn_width: inner width of the gated feed-forward part.
        rope_theta: small, since contexts are short; 10,000 learns three times slower.
        init_std: of all weights; the usual .02 learns three times slower at this width.
        recall_steps: steps of bare look-ups.
        recall_batch: lists a step.
        recall_lr: constant after the warm-up.
        mixed_steps: steps of scenes and drills.
        mixed_batch: texts a step.
        mixed_lr: falls linearly to 0.
        warmup_steps: of either stage.
        drill_share: of drills among the texts, at the beginning and from the middle on.
        num_scenes: scenes the texts are about.
        probe_every: steps between points of the curve.
        probe_texts: held-out texts of each kind for such a point.
    """

    width: int = 128
    num_layers: int = 4
    num_heads: int = 4
    ffn_width: int = 352
    rope_theta: float = 200.0
    init_std: float = 0.06
    recall_steps: int = 1000
    recall_batch: int = 64
    recall_lr: float = 3e-3
    mixed_steps: int = 4000
    mixed_batch: int = 48
    mixed_lr: float = 2.5e-3
    warmup_steps: int = 50
    drill_share: tuple[float, float] = (0.8, 0.3)
    num_scenes: int = 20_000
    probe_every: int = 250
    probe_texts: int = 100


DEFAULT_RECIPE = DecoderRecipe()


def train_decoder(
    out_dir: Path, *, seed: int, recipe: DecoderRecipe = DEFAULT_RECIPE, curve_path: Path | None
) -> Curve:
    """Train tokenizer and decoder and write them as a Hugging Face LLaMA directory.

    One thread and one seed give the same weights on the same machine.

    Args:
        out_dir: made if missing.
        seed: of everything drawn.
        recipe: size and training.
        curve_path: where the curve goes as JSON lines; None for nowhere.

    Returns:
        The curve: stage, step, cpu_s of this process, mean loss, and exact answers on held-out
        texts by kind (see `text_gate`).
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    train_tokenizer(out_dir, lines=tokenizer_lines(seed=seed))
    tokenizer = load_tokenizer(out_dir)
    torch.manual_seed(fold(seed, "decoder weights"))
    model = build_decoder(recipe, vocab_size=tokenizer.vocab_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.02)
    probes = gate_texts(split="valid", seed=seed, per_kind=recipe.probe_texts)
    rng = random.Random(fold(seed, "recall probe"))
    lists = {"recall": [recall_list(rng=rng, num_queries=1) for _ in range(256)]}

    def probe(texts: dict[str, list[TextSample]]) -> dict[str, float]:
        rows = measure(model, texts=texts, tokenizer=tokenizer)
        return {row.kind: round(row.accuracy, 3) for row in rows}

    recall = _Stage(
        "recall",
        recipe.recall_steps,
        batches=_recall_batches(recipe, tokenizer=tokenizer, seed=seed),
        lr_of=lambda done: recipe.recall_lr,
        probe=lambda: probe(lists),
    )
    mixed = _Stage(
        "mixed",
        recipe.mixed_steps,
        batches=_mixed_batches(recipe, tokenizer=tokenizer, seed=seed),
        lr_of=lambda done: recipe.mixed_lr * (1 - done),
        probe=lambda: probe(lists | probes),
    )
    curve: Curve = []
    for stage in (recall, mixed):
        curve += _train_stage(model, optimizer=optimizer, stage=stage, recipe=recipe)
    model.eval()
    model.save_pretrained(out_dir)
    if curve_path is not None:
        write_curve(curve_path, curve)
    return curve


def build_decoder(recipe: DecoderRecipe, *, vocab_size: int) -> LlamaForCausalLM:
    """Build the untrained model from torch's global random state."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=recipe.width,
        intermediate_size=recipe.ffn_width,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        max_position_embeddings=512,
        initializer_range=recipe.init_std,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config)


@dataclass
class _Stage:
    """One part of the training."""

    name: str
    num_steps: int
    batches: Iterator[list[LaidOut]]
    lr_of: Callable[[float], float]
    probe: Callable[[], dict[str, float]]


def _train_stage(
    model: LlamaForCausalLM,
    *,
    optimizer: torch.optim.Optimizer,
    stage: _Stage,
    recipe: DecoderRecipe,
) -> Curve:
    """Run one stage; returns its part of the curve."""
    from rich.progress import track

    curve: Curve = []
    losses: list[float] = []
    start_s = time.process_time()
    for step in track(range(stage.num_steps), description=f"decoder, {stage.name}"):
        lr = stage.lr_of(step / stage.num_steps) * min(1.0, (step + 1) / recipe.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = answer_loss(model, batch=next(stage.batches))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % recipe.probe_every == 0 or step + 1 == stage.num_steps:
            point = {"step": step + 1, "cpu_s": round(time.process_time() - start_s, 1)}
            point["loss"] = round(sum(losses) / len(losses), 4)
            point |= stage.probe()
            get_logger().info("decoder, %s: %s", stage.name, point)
            curve.append(point)
            losses.clear()
    return curve


def answer_loss(model: LlamaForCausalLM, *, batch: list[LaidOut]) -> Tensor:
    """Mean cross entropy of the answer tokens; the output layer runs at those alone."""
    ids, labels = collate(batch)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    answers = wanted != IGNORE_INDEX
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[answers]), wanted[answers])


def _recall_batches(
    recipe: DecoderRecipe, *, tokenizer: Tokenizer, seed: int
) -> Iterator[list[LaidOut]]:
    """Draw batches of bare look-ups without end."""
    rng = random.Random(fold(seed, "recall"))
    while True:
        texts = [recall_list(rng=rng) for _ in range(recipe.recall_batch)]
        yield [lay_out(text, tokenizer=tokenizer) for text in texts]


def _mixed_batches(
    recipe: DecoderRecipe, *, tokenizer: Tokenizer, seed: int
) -> Iterator[list[LaidOut]]:
    """Draw batches of scenes and drills without end, texts of like length together."""
    rng = random.Random(fold(seed, "mixed"))
    scenes = sample_scenes(recipe.num_scenes, seed=seed, split="train")
    first, last = recipe.drill_share
    step = 0
    while True:
        share = first + (last - first) * min(1.0, 2 * step / recipe.mixed_steps)
        texts: list[TextSample] = [
            drill_sample(rng=rng)
            if rng.random() < share
            else scene_sample(rng.choice(scenes), rng=rng)
            for _ in range(recipe.mixed_batch * _BATCHES_SORTED_TOGETHER)
        ]
        laid_out = [lay_out(text, tokenizer=tokenizer) for text in texts]
        laid_out.sort(key=lambda text: len(text.ids))
        starts = list(range(0, len(laid_out), recipe.mixed_batch))
        rng.shuffle(starts)
        for start in starts:
            yield laid_out[start : start + recipe.mixed_batch]
        step += len(starts)
