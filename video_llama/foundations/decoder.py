"""Pretraining of the toy decoder: a small LLaMA that can look facts up.

Texts only: the facts of a scene are written out where its media will stand, in exactly the token
layout the decoder will meet (the same `conversation.encode`, the slots filled with the tokens of
the facts). First the model learns to look random word pairs up; then questions, captions and
ever fewer drills. Without the first stage two things in one scene are told apart no better than
by a coin.

Shapes: B batch, L text.
"""

from __future__ import annotations

import copy
import json
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
from video_llama.foundations.decoder_start import DEFAULT_RECIPE, DecoderRecipe, build_decoder
from video_llama.foundations.text_gate import gate_texts, measure
from video_llama.foundations.text_layout import LaidOut, collate, lay_out
from video_llama.foundations.tokenizer import train_tokenizer
from video_llama.toy.corpus import drill_sample, sample_scenes, scene_sample, tokenizer_lines
from video_llama.toy.drills import copy_list, recall_list
from video_llama.toy.texts import TextSample

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

# Texts of like length share a batch, so that little is padding: so many batches are drawn at once.
_BATCHES_SORTED_TOGETHER = 8

Curve = list[dict[str, float | str]]


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
    curve: Curve = []
    trainer = _Trainer(model)
    for stage in _stages(recipe, model=model, tokenizer=tokenizer, seed=seed):
        if stage.forget:
            trainer = _Trainer(model)
        curve += _train_stage(trainer, stage=stage, recipe=recipe)
    model.eval()
    model.save_pretrained(out_dir)
    # safetensors makes files only their owner can read, which an installed package must not hold.
    (out_dir / "model.safetensors").chmod(0o644)
    if curve_path is not None:
        curve_path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(point) + "\n" for point in curve]
        curve_path.write_text("".join(lines), encoding="ascii")
    return curve


@dataclass
class _Stage:
    """One part of the training; `forget` starts it with a new optimizer."""

    name: str
    num_steps: int
    batches: Iterator[list[LaidOut]]
    lr_of: Callable[[float], float]
    probe: Callable[[], dict[str, float]]
    forget: bool = False


def _stages(
    recipe: DecoderRecipe, *, model: LlamaForCausalLM, tokenizer: Tokenizer, seed: int
) -> list[_Stage]:
    """List the parts of the training in order."""
    rng = random.Random(fold(seed, "recall probe"))
    lists = {"recall": [recall_list(rng=rng, num_queries=1) for _ in range(256)]}
    texts = lists | gate_texts(split="valid", seed=seed, per_kind=recipe.probe_texts)

    def probe(samples: dict[str, list[TextSample]]) -> dict[str, float]:
        rows = measure(model, texts=samples, tokenizer=tokenizer)
        return {row.kind: round(row.accuracy, 3) for row in rows}

    return [
        _Stage(
            "recall",
            recipe.recall_steps,
            batches=_recall_batches(recipe, tokenizer=tokenizer, seed=seed),
            lr_of=lambda done: recipe.recall_lr,
            probe=lambda: probe(lists),
        ),
        _Stage(
            "mixed",
            recipe.mixed_steps,
            batches=_mixed_batches(recipe, tokenizer=tokenizer, seed=seed),
            lr_of=lambda done: recipe.mixed_lr * (1 - done),
            probe=lambda: probe(texts),
        ),
        _Stage(
            "order",
            recipe.order_steps,
            batches=_order_batches(recipe, tokenizer=tokenizer, seed=seed),
            lr_of=lambda done: recipe.order_lr * (1 - done),
            probe=lambda: probe(texts),
            forget=True,
        ),
    ]


class _Trainer:
    """Trains a model through a copy in bfloat16, which takes half the time of single precision."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.model = model
        self._fast = copy.deepcopy(model).bfloat16()
        # On CPU the fused attention is slower than the plain one in bfloat16.
        self._fast.config._attn_implementation = "eager"
        self._pairs = list(zip(model.parameters(), self._fast.parameters(), strict=True))
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.02
        )

    def step(self, batch: list[LaidOut], *, lr: float) -> float:
        """Take one optimizer step; returns the loss."""
        with torch.no_grad():
            for exact, fast in self._pairs:
                fast.copy_(exact)
                fast.grad = None
        loss = answer_loss(self._fast, batch=batch)
        loss.backward()
        for exact, fast in self._pairs:
            assert fast.grad is not None
            exact.grad = fast.grad.float()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        return loss.item()


def _train_stage(trainer: _Trainer, *, stage: _Stage, recipe: DecoderRecipe) -> Curve:
    """Run one stage; returns its part of the curve."""
    from rich.progress import track

    curve: Curve = []
    losses: list[float] = []
    start_s = time.process_time()
    for step in track(range(stage.num_steps), description=f"decoder, {stage.name}"):
        lr = stage.lr_of(step / stage.num_steps) * min(1.0, (step + 1) / recipe.warmup_steps)
        losses.append(trainer.step(next(stage.batches), lr=lr))
        if (step + 1) % recipe.probe_every == 0 or step + 1 == stage.num_steps:
            point: dict[str, float | str] = {"stage": stage.name, "step": step + 1}
            point["cpu_s"] = round(time.process_time() - start_s, 1)
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
    """Draw batches of copies and look-ups without end, with ever longer lists."""
    rng = random.Random(fold(seed, "recall"))
    step = 0
    while True:
        done = min(1.0, step / recipe.recall_steps)
        max_pairs = 2 + int(3 * done)
        texts = [
            copy_list(rng=rng) if rng.random() < 0.4 else recall_list(rng=rng, max_pairs=max_pairs)
            for _ in range(recipe.batch_size)
        ]
        yield [lay_out(text, tokenizer=tokenizer) for text in texts]
        step += 1


def _mixed_batches(
    recipe: DecoderRecipe, *, tokenizer: Tokenizer, seed: int
) -> Iterator[list[LaidOut]]:
    """Draw batches of scenes and ever fewer drills without end."""
    rng = random.Random(fold(seed, "mixed"))
    scenes = sample_scenes(recipe.num_scenes, seed=seed, split="train")
    first, last = recipe.drill_share
    step = 0
    while True:
        share = first + (last - first) * min(1.0, 2 * step / recipe.mixed_steps)
        texts = [
            drill_sample(rng=rng)
            if rng.random() < share
            else scene_sample(rng.choice(scenes), rng=rng)
            for _ in range(recipe.batch_size * _BATCHES_SORTED_TOGETHER)
        ]
        yield from _batches_by_length(texts, recipe=recipe, tokenizer=tokenizer, rng=rng)
        step += _BATCHES_SORTED_TOGETHER


def _order_batches(
    recipe: DecoderRecipe, *, tokenizer: Tokenizer, seed: int
) -> Iterator[list[LaidOut]]:
    """Draw batches of scenes and drills with the focus on order without end."""
    rng = random.Random(fold(seed, "order"))
    scenes = sample_scenes(recipe.num_scenes, seed=seed, split="train")
    while True:
        texts = [
            drill_sample(rng=rng, focus="order")
            if rng.random() < recipe.drill_share[1]
            else scene_sample(rng.choice(scenes), rng=rng, focus="order")
            for _ in range(recipe.batch_size * _BATCHES_SORTED_TOGETHER)
        ]
        yield from _batches_by_length(texts, recipe=recipe, tokenizer=tokenizer, rng=rng)


def _batches_by_length(
    texts: list[TextSample], *, recipe: DecoderRecipe, tokenizer: Tokenizer, rng: random.Random
) -> Iterator[list[LaidOut]]:
    """Cut texts into batches of like length, in random order."""
    laid_out = [lay_out(text, tokenizer=tokenizer) for text in texts]
    laid_out.sort(key=lambda text: len(text.ids))
    starts = list(range(0, len(laid_out), recipe.batch_size))
    rng.shuffle(starts)
    for start in starts:
        yield laid_out[start : start + recipe.batch_size]
