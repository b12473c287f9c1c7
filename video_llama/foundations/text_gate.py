"""What the toy decoder answers from text alone: the ceiling of every model built on it.

Facts of held-out scenes stand in place of the media; an answer counts if every token of it,
evidence included, is the most likely one, which is what greedy decoding would write.

Shapes: B batch, L text.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from video_llama.common.types import IGNORE_INDEX
from video_llama.conversation.tokenizer import Tokenizer, load_tokenizer
from video_llama.foundations.text_layout import LaidOut, collate, lay_out
from video_llama.toy.corpus import TEXT_MIX, caption_sample, question_sample
from video_llama.toy.questions import MULTIPLE_CHOICE_KINDS, ask, letter_choice
from video_llama.toy.scenes import sample_scene
from video_llama.toy.texts import TextSample

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

_BATCH = 64
_MEDIA = {"video": ("video",), "audio": ("audio",), "joint": ("video", "audio")}


@dataclass(frozen=True)
class GateRow:
    """One line of the table.

    Attributes:
        kind: of question; "caption_video" and kin for captions, "letter_colour" and kin for
            options in the question.
        count: texts asked.
        accuracy: share answered exactly.
        low: lower end of the 95 % interval (Wilson) of the accuracy.
        high: its upper end.
    """

    kind: str
    count: int
    accuracy: float
    low: float
    high: float


def text_gate(
    decoder_dir: Path, *, split: str = "test", seed: int = 0, per_kind: int = 800
) -> list[GateRow]:
    """Measure a decoder directory on scenes it has not been trained on.

    Args:
        decoder_dir: as `train_decoder` writes it.
        split: "test", or "composition" for triples never told in training.
        seed: of the scenes.
        per_kind: questions of each kind.

    Returns:
        One row per kind, in a fixed order.
    """
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(decoder_dir)
    texts = gate_texts(split=split, seed=seed, per_kind=per_kind)
    return measure(model, texts=texts, tokenizer=load_tokenizer(decoder_dir))


def gate_texts(*, split: str, seed: int, per_kind: int) -> dict[str, list[TextSample]]:
    """Draw the texts of the gate: one question each, with or without the other medium's facts."""
    rng = random.Random(f"text gate/{split}/{seed}")
    texts: dict[str, list[TextSample]] = defaultdict(list)

    def put(kind: str, text: TextSample) -> None:
        if len(texts[kind]) < per_kind:
            texts[kind].append(text)

    # The rarest kind of all, who moves first, comes in about every fifth scene.
    for index in range(10 * per_kind):
        scene = sample_scene(index, seed=seed, split=split, mix=TEXT_MIX)
        name = rng.choice(list(_MEDIA))
        put(f"caption_{name}", caption_sample(scene, media=_MEDIA[name], rng=rng))
        for question in ask(scene):
            media = rng.choice((question.needs, _MEDIA["joint"]))
            alone = question_sample(scene, media=media, questions=[question], rng=rng)
            put(question.kind, alone)
            if question.kind in MULTIPLE_CHOICE_KINDS:
                lettered = letter_choice(question, rng=rng)
                text = question_sample(scene, media=media, questions=[lettered], rng=rng)
                put(lettered.kind, text)
    return dict(sorted(texts.items()))


def measure(
    model: LlamaForCausalLM, *, texts: dict[str, list[TextSample]], tokenizer: Tokenizer
) -> list[GateRow]:
    """Score a model on texts by kind."""
    rows = []
    for kind, samples in texts.items():
        laid_out = [lay_out(sample, tokenizer=tokenizer) for sample in samples]
        right = sum(_exact(model, texts=laid_out))
        low, high = wilson(right, total=len(laid_out))
        rows.append(GateRow(kind, len(laid_out), right / len(laid_out), low, high))
    return rows


def _exact(model: LlamaForCausalLM, *, texts: Sequence[LaidOut]) -> list[bool]:
    """Tell for each text whether all answer tokens are the most likely ones; order is lost."""
    by_length = sorted(texts, key=lambda text: len(text.ids))
    exact: list[bool] = []
    for start in range(0, len(by_length), _BATCH):
        ids, labels = collate(by_length[start : start + _BATCH])
        with torch.inference_mode():
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
            wanted = labels[:, 1:]
            agrees = wanted == IGNORE_INDEX
            asked = ~agrees
            agrees[asked] = model.lm_head(hidden[asked]).argmax(-1) == wanted[asked]
        exact += agrees.all(dim=1).tolist()
    return exact


def wilson(right: int, *, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    z = 1.96
    share = right / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total**2))
    spread /= 1 + z * z / total
    return max(0.0, centre - spread), min(1.0, centre + spread)
