"""Decoders released as something to be put together with LLaMA: the rules, tensor by tensor.

    vicuna  vicuna-{7b,13b}-delta-v0 and StableVicuna: base + delta; where the delta's vocabulary
            has one word more ([PAD]), LLaMA counts as zero there. FastChat 0.1.10, apply_delta.py.
    ziya    Ziya-LLaMA-13B: base + delta, but embedding and output layer are released whole, for a
            vocabulary of their own. IDEA-CCNL/Fengshenbang-LM 8ddfc84, utils/apply_delta.py.
    billa   BiLLa-7B: whole weights, but LLaMA's embedding was added to the embedding and has to be
            subtracted. Neutralzz/BiLLa 0cf5267, embedding_convert.py.

A state is a lazy mapping from name to tensor; one tensor of each is looked at at a time. Nothing is
written here. Rotary frequencies, which old files hold, are computed from config.json and left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from video_llama.common.errors import CheckpointMismatch
from video_llama.common.shard_writer import DTYPE_NAMES, TensorSpec
from video_llama.common.weights import LLAMA_WIDTHS
from video_llama.models.decoders.coverage import INVERSE_FREQUENCIES

RuleName = Literal["vicuna", "ziya", "billa"]
RULES: tuple[RuleName, ...] = get_args(RuleName)

State = Mapping[str, Tensor]

EMBEDDING = "model.embed_tokens.weight"
VOCABULARY = (EMBEDDING, "lm_head.weight")
"""Tensors with one row for every word."""

META_EMBEDDING = "tok_embeddings.weight"
"""The embedding in Meta's own files, `consolidated.*.pth`."""

NORM_SUFFIX = "norm.weight"

MAX_DELTA_NORM = 0.1
"""Norm weights of a difference lie around 0, far below this; LLaMA's last norm lies above 1."""

BILLA_WORDS = 46943
BILLA_SUM = -3756.94
"""Sum of the restored embedding of BiLLa-7B-SFT, as its own script states it."""

ROWS_AT_A_TIME = 4096


def is_difference(state: State) -> bool:
    """Say whether weights are a difference between two LLaMAs: all norm weights are near zero.

    Args:
        state: weights in Hugging Face's layout; anything else gives False.
    """
    norms = [name for name in state if name.endswith(NORM_SUFFIX)]
    if EMBEDDING not in state or not norms:
        return False
    return all(_size(state[name]) < MAX_DELTA_NORM for name in norms)


def choose_rule(base: State, release: State) -> RuleName:
    """Tell from the tensors which rule a release needs.

    Args:
        base: LLaMA.
        release: what was published.

    Raises:
        CheckpointMismatch: the two are swapped, or nothing has to be put together.
    """
    if is_difference(base):
        raise CheckpointMismatch(
            "the weights given as base are themselves a difference (all norm weights are near "
            "zero); base is LLaMA, delta is what was published: exchange the two"
        )
    grown = _release_rows(release) - len(base_embedding(base))
    if is_difference(release):
        return "vicuna" if grown <= 1 else "ziya"
    if grown > 1:
        return "billa"
    raise CheckpointMismatch(
        "the weights given as delta are whole, not a difference (norm weights are not near zero, "
        "and the vocabulary is not a larger one); they need no merging, use them as they are"
    )


def plan_merge(base: State, release: State, *, rule: RuleName) -> dict[str, TensorSpec]:
    """Check that two states go together and say what will come out.

    Args:
        base: LLaMA; for "billa" Meta's own file will do.
        release: what was published.
        rule: see the module.

    Returns:
        Shape and dtype of every merged tensor, in the order of the release.

    Raises:
        CheckpointMismatch: names or shapes disagree.
    """
    names = [name for name in release if not name.endswith(INVERSE_FREQUENCIES)]
    if rule != "billa":
        _refuse_other_names({n for n in base if not n.endswith(INVERSE_FREQUENCIES)}, set(names))
    specs = {}
    for name in names:
        shape, dtype = tuple(release[name].shape), release[name].dtype
        if rule != "billa":
            _check_shape(name, tuple(base[name].shape), shape, rule=rule)
            dtype = torch.float16
        elif name == EMBEDDING:
            _check_shape(name, tuple(base_embedding(base).shape), shape, rule=rule)
            dtype = torch.float16
        if dtype not in DTYPE_NAMES:
            raise CheckpointMismatch(f"'{name}' holds {dtype}; expected floating point weights")
        specs[name] = TensorSpec(shape, dtype)
    return specs


def merged_tensor(name: str, *, base: State, release: State, rule: RuleName) -> Tensor:
    """Compute one tensor of the usable decoder.

    Args:
        name: a name of `plan_merge`.
        base: LLaMA.
        release: what was published.
        rule: see the module.

    Returns:
        As planned: float16 where something was added, as in the published scripts.
    """
    published = release[name]
    if rule == "billa":
        return _restored(published, base_embedding(base)) if name == EMBEDDING else published
    merged = published.to(torch.float16, copy=True)
    if rule == "vicuna" or name not in VOCABULARY:
        ours = base[name]
        merged[: len(ours)] += ours.to(torch.float16)
    return merged


def base_embedding(base: State) -> Tensor:
    """Return LLaMA's embedding under Hugging Face's name or Meta's.

    Raises:
        CheckpointMismatch: there is none.
    """
    for name in (EMBEDDING, META_EMBEDDING):
        if name in base:
            return base[name]
    raise CheckpointMismatch(
        f"the base holds no '{EMBEDDING}'; expected LLaMA in Hugging Face's layout"
    )


def embedding_sum(embedding: Tensor) -> float:
    """Add all numbers of an embedding up in float64, some rows at a time."""
    return sum(float(rows.double().sum()) for rows in embedding.split(ROWS_AT_A_TIME))


def is_restored_billa(embedding: Tensor) -> bool:
    """Say whether an embedding is the restored one of BiLLa-7B-SFT, by its published sum."""
    # Rounding to float16 moves the sum of 192 million numbers by some hundredths.
    return len(embedding) == BILLA_WORDS and abs(embedding_sum(embedding) - BILLA_SUM) < 1.0


def _restored(published: Tensor, ours: Tensor) -> Tensor:
    """Subtract LLaMA's rows in float32, some at a time; the other rows stay."""
    restored = published.to(torch.float16, copy=True)
    for into, theirs, minus in zip(
        restored[: len(ours)].split(ROWS_AT_A_TIME),
        published[: len(ours)].split(ROWS_AT_A_TIME),
        ours.split(ROWS_AT_A_TIME),
        strict=True,
    ):
        into.copy_(theirs.float() - minus.float())
    return restored


def _size(tensor: Tensor) -> float:
    return float(tensor.float().abs().mean())


def _release_rows(release: State) -> int:
    if EMBEDDING not in release:
        raise CheckpointMismatch(
            f"the delta holds no '{EMBEDDING}'; expected weights in Hugging Face's layout"
        )
    return len(release[EMBEDDING])


def _refuse_other_names(base: set[str], release: set[str]) -> None:
    if base == release:
        return
    sides = {"base": sorted(base - release), "delta": sorted(release - base)}
    only = "; ".join(
        f"{len(names)} only in the {side}, e.g. '{names[0]}'"
        for side, names in sides.items()
        if names
    )
    raise CheckpointMismatch(
        f"base and delta hold different tensors: {only}; they belong to models of different "
        "depth or kind, take LLaMA of the delta's size"
    )


def _check_shape(
    name: str, base: tuple[int, ...], release: tuple[int, ...], *, rule: RuleName
) -> None:
    """Refuse shapes that the rule cannot join; only the number of words may differ."""
    grown = release[0] - base[0]
    if base[1:] == release[1:]:
        grows = name in VOCABULARY and grown >= 0
        if grown == 0 or (grows and (rule != "vicuna" or grown == 1)):
            return
    sizes = [LLAMA_WIDTHS.get(shape[-1]) for shape in (base, release)]
    if base[1:] == release[1:] and name in VOCABULARY:
        cause = (
            f"base has {base[0]:,} words, the delta {release[0]:,}; the rule '{rule}' allows "
            + ("one more, for [PAD]" if rule == "vicuna" else "more, not fewer")
        )
    elif all(sizes) and sizes[0] != sizes[1]:
        cause = f"a base of {sizes[0]} and a delta for {sizes[1]}; take LLaMA of the delta's size"
    else:
        cause = "base and delta belong to models of different size; take LLaMA of the delta's size"
    raise CheckpointMismatch(f"'{name}' is {base} in the base and {release} in the delta: {cause}")
