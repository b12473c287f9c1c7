"""What can be seen of a divided model without dividing one; promises/test_zero.py divides one."""

from __future__ import annotations

import contextlib
from unittest.mock import patch

from models.tiny_model import batch_of, build

from video_llama.common.types import LossOutput
from video_llama.runners import partitioned
from video_llama.runners.partitioned import ANSWER, DONE, LOSS, EvaluatedModel, frozen_heads

FROZEN = ("branches.video.encoder.", "branches.video.stages.norm.", "branches.audio.encoder.")


def names(model):
    return [name for name, _ in model.named_parameters()]


def test_what_stands_before_the_frontier_is_hidden_for_a_while_and_comes_back_to_its_place():
    model = build()
    before = names(model)
    with contextlib.ExitStack() as stack:
        for head in frozen_heads(model):
            stack.enter_context(head.hidden())
        assert names(model) == [name for name in before if not name.startswith(FROZEN)]
    assert names(model) == before


def agreeing_on(*agreed):
    """Stand for other ranks, which say one after the other what they want."""
    wishes = iter(agreed)
    return patch.object(partitioned, "max_over_ranks", lambda own: max(own, next(wishes)))


def evaluated(calls):
    def loss(batch) -> LossOutput:
        calls.append(len(batch.keys[0]))
        return model(batch)

    @contextlib.contextmanager
    def gathered():
        calls.append("gathered")
        yield
        calls.append("divided")

    model = build()
    return EvaluatedModel(model, loss=loss, gathered=gathered())


def test_a_rank_without_a_batch_computes_a_loss_for_each_of_the_others():
    calls = []
    model = evaluated(calls)
    with agreeing_on(LOSS, LOSS, DONE):
        model.meet()
    made_up = 0
    assert calls == [made_up, made_up]


def test_as_soon_as_one_rank_wants_an_answer_all_gather_and_speak_no_more():
    calls = []
    model = evaluated(calls)
    with agreeing_on(ANSWER):
        model(batch_of())
        model(batch_of())
        model.meet()
    model.close()
    assert calls == ["gathered", "divided"]
