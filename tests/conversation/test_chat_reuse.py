"""What a chat does not read again changes nothing; with a real, tiny, untrained model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from models.tiny_model import build
from parrot import LLAMA
from PIL import Image
from torch import Tensor

from video_llama.common.generation import GenerationSettings
from video_llama.conversation.chat import Chat, Shared
from video_llama.conversation.templates import get_template
from video_llama.conversation.tokenizer import load_tokenizer
from video_llama.models.video_llm import VideoLLM
from video_llama.processors.uploads import UploadReader

SETTINGS = GenerationSettings(max_new_tokens=12)
GREY = Image.new("RGB", (20, 30), (90, 90, 90))


def talkative(tree: dict[str, Any]) -> None:
    # An untrained decoder with small weights would repeat one id whatever it sees.
    tree["decoder"]["architecture"] |= {
        "vocab_size": 1000,
        "max_position_embeddings": 240,
        "initializer_range": 1.0,
    }


@pytest.fixture(scope="module")
def model() -> VideoLLM:
    return build(talkative).eval()


@pytest.fixture
def logits(model: VideoLLM, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Scores of the next token, as the decoder gives them."""
    given: list[Tensor] = []
    step = model.decoder.step

    def overheard(*args: Any, **options: Any) -> Tensor:
        given.append(step(*args, **options))
        return given[-1]

    monkeypatch.setattr(model.decoder, "step", overheard)
    return given


def open_chat(model: VideoLLM, *, num_caches: int = 2, template: str = "vicuna_v0") -> Chat:
    return Chat(
        model,
        tokenizer=load_tokenizer(LLAMA),
        template=get_template(template),
        reader=UploadReader(model.branch_specs()),
        settings=SETTINGS,
        shared=Shared(num_caches=num_caches),
    )


@pytest.mark.parametrize("template", ["vicuna_v0", "llama_2_released"])
def test_every_turn_equals_that_of_a_chat_that_reads_everything_again(
    model: VideoLLM, logits: list[Tensor], sounding_clip: Path, template: str
) -> None:
    chat = open_chat(model, template=template)
    chat.upload(sounding_clip)
    history: list[tuple[str, str]] = []
    for number, question in enumerate(["What is it?", "Why?", "Look at this", "And now?"]):
        fresh = open_chat(model, num_caches=0, template=template)
        for each in (fresh, chat):
            if each is fresh:
                each.upload(sounding_clip)
            for position, (asked, answer) in enumerate(history if each is fresh else []):
                if position == 2:
                    each.upload(GREY)
                each.remember(asked, answer)
            if number == 2:
                each.upload(GREY)
        logits.clear()
        answer = chat.ask(question)
        reused = list(logits)
        logits.clear()
        assert fresh.ask(question) == answer
        assert len(reused) == len(logits) > 1
        furthest = max(
            float((ours - theirs).abs().max()) for ours, theirs in zip(reused, logits, strict=True)
        )
        assert furthest <= 1e-4
        assert fresh.last_usage.cached_tokens == 0
        assert (chat.last_usage.cached_tokens > 0) == (number > 0)
        history.append((question, answer))


def test_a_second_turn_reads_only_what_is_new(
    model: VideoLLM, sounding_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    step = model.decoder.step

    def measured(embeds: Tensor, **options: Any) -> Tensor:
        lengths.append(embeds.shape[1])
        return step(embeds, **options)

    monkeypatch.setattr(model.decoder, "step", measured)
    chat = open_chat(model)
    chat.upload(sounding_clip)
    chat.ask("What is it?")
    first = chat.last_usage
    lengths.clear()
    chat.ask("Why?")
    second = chat.last_usage
    assert lengths[0] == second.prompt_tokens - second.cached_tokens
    assert second.cached_tokens >= first.prompt_tokens


def others(chat: Chat) -> Iterator[Chat]:
    """Lead a conversation everywhere else and back to its beginning."""
    yield chat
    chat.undo()
    yield chat
    for _ in chat.stream("Something else altogether?"):
        chat.stop()
    chat.undo()
    chat.undo()
    yield chat
    list(chat.stream("More?", settings=GenerationSettings(max_new_tokens=4, temperature=3.0)))
    chat.undo()
    chat.undo()
    yield chat
    chat.reset()
    chat.upload(GREY)
    yield chat
    other = chat.another()
    other.upload(GREY)
    yield other


def test_the_first_greedy_answer_equals_later_ones(model: VideoLLM) -> None:
    chat = open_chat(model, num_caches=1)
    chat.upload(GREY)
    answers = []
    for each in others(chat):
        answers.append(each.ask("What is it?"))
        answers.append("".join(each.regenerate()))
    assert len(answers) == 12
    assert set(answers) == {answers[0]}
    assert answers[0]


def test_a_conversation_whose_cache_was_taken_away_answers_as_before(model: VideoLLM) -> None:
    chat = open_chat(model, num_caches=1)
    chat.upload(GREY)
    other = chat.another()
    said = [chat.ask("What is it?")]
    other.ask("Who are you?")
    chat.undo()
    said.append(chat.ask("What is it?"))
    assert chat.last_usage.cached_tokens == 0
    assert said[0] == said[1]


def test_questions_side_by_side_are_answered_as_one_by_one(
    model: VideoLLM, sounding_clip: Path
) -> None:
    chat = open_chat(model)
    chat.upload(sounding_clip)
    chat.ask("What is it?")
    questions = ["Why?", "Is there anything else to be seen or heard in it?", "Say something."]
    together = chat.ask_many(questions)
    alone = []
    for question in questions:
        alone.append(chat.ask(question))
        chat.undo()
    assert together == alone
    assert len(set(together)) > 1


def test_seeded_answers_are_drawn_again(model: VideoLLM) -> None:
    settings = GenerationSettings(max_new_tokens=12, temperature=2.0, top_p=1.0, seed=5)
    chat = open_chat(model)
    first = chat.ask("Talk", settings=settings)
    assert "".join(chat.regenerate(settings=settings)) == first
    drawn = {
        "".join(chat.regenerate(settings=GenerationSettings(12, 2.0, 1.0, seed=seed)))
        for seed in (6, 7)
    }
    assert first not in drawn


def test_a_failure_in_the_middle_leaves_nothing_half_read(
    model: VideoLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = open_chat(model)
    chat.upload(GREY)
    expected = chat.ask("What is it?"), chat.ask("Why?")
    chat.undo()
    step, calls = model.decoder.step, []

    def fails(*args: Any, **options: Any) -> Tensor:
        calls.append(1)
        scores = step(*args, **options)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return scores

    with monkeypatch.context() as patch:
        patch.setattr(model.decoder, "step", fails)
        with pytest.raises(torch.OutOfMemoryError):
            chat.ask("Why?")
    assert len(chat.history) == 2
    assert chat.ask("Why?") == expected[1]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_search_for_beams_can_be_stopped_too(
    model: VideoLLM, logits: list[Tensor], monkeypatch: pytest.MonkeyPatch, num_beams: int
) -> None:
    chat = open_chat(model)
    step = model.decoder.step

    def enough(*args: Any, **options: Any) -> Tensor:
        if len(logits) == 3:
            chat.stop()
        return step(*args, **options)

    monkeypatch.setattr(model.decoder, "step", enough)
    chat.ask("Talk", settings=GenerationSettings(max_new_tokens=40, num_beams=num_beams))
    assert len(logits) <= 5
    assert chat.last_usage.finish_reason == "stopped"
