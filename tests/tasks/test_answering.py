"""Options weighed behind a prompt that is read once, against one full reading per option."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.tiny_model import build
from seeing import TOKENIZER, SeeingModel, a_prompter, a_question

from video_llama.common.errors import ContextOverflow, VideoLlamaError
from video_llama.common.generation import GenerationSettings
from video_llama.common.types import MediaItem, Message, Sample
from video_llama.conversation.templates import get_template
from video_llama.conversation.tokenizer import load_tokenizer
from video_llama.datasets.sample_encoder import SampleEncoder, TextSettings
from video_llama.tasks.answering import answer_questions, weigh_options
from video_llama.tasks.prompting import Prompter
from video_llama.tasks.questions import Question

WORDS = st.lists(st.sampled_from(["a", "red", "blue", "ball", "-", "2", "."]), min_size=1)
OPTIONS = st.lists(WORDS.map(" ".join), min_size=1, max_size=5)
STREAMS = st.sampled_from([(), ("video",), ("audio",), ("video", "audio")])
QUESTIONS = st.lists(st.tuples(WORDS.map(" ".join), STREAMS, OPTIONS), min_size=1, max_size=4)


def a_model():
    """The tiny model with the tokenizer's words, and weights that make options differ."""

    def sized(tree):
        architecture = tree["decoder"]["architecture"]
        vocab_size = load_tokenizer(TOKENIZER).vocab_size
        architecture.update(vocab_size=vocab_size, max_position_embeddings=512)

    model = build(sized).eval()
    for parameter in model.decoder.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    return model


MODEL = a_model()
PROMPTER = Prompter(
    SampleEncoder(
        MODEL.branch_specs(),
        text=TextSettings(get_template("vicuna_v0"), load_tokenizer(TOKENIZER), max_len=512),
        reader=None,
    )
)

SHARING = dataclasses.replace(PROMPTER, shares_beginnings=True)


def an_item(kind, *, seed):
    generator = torch.Generator().manual_seed(seed)
    if kind == "video":
        pixels = torch.randn(3, 3, 16, 16, generator=generator)
        return MediaItem(kind, "a.mp4", pixels=pixels, times_s=(0.0, 0.5, 1.0))
    mel = torch.randn(2, 1, 16, 16, generator=generator)
    return MediaItem(kind, "a.mp4", mel=mel, times_s=(0.0, 0.25))


def asked(text, streams, options, *, seed=0):
    media = [an_item(kind, seed=seed) for kind in streams]
    sample = Sample(f"q{seed}", [Message("user", [*media, text])], form="chat")
    return Question(sample, "k", "multiple_choice", options[0], tuple(options))


def read_in_full(question):
    """Return minus the mean losses of all options, each read with its question."""
    samples = [question.answered_with(option) for option in question.candidates]
    output = MODEL(PROMPTER.collate(samples))
    return (-output.sample_loss.double() / output.sample_targets).tolist()


@torch.no_grad()
def assert_as_read_in_full(questions):
    answers = weigh_options(MODEL, questions, prompter=PROMPTER)
    for question, answer in zip(questions, answers, strict=True):
        expected = read_in_full(question)
        torch.testing.assert_close(list(answer.scores), expected, atol=1e-5, rtol=0)
        # Of options with the same text, any may be a hair better.
        best = max(expected)
        near = {o for o, s in zip(question.candidates, expected, strict=True) if s > best - 1e-5}
        assert answer.text in near


@settings(max_examples=20, deadline=None)
@given(QUESTIONS)
def test_scores_are_those_of_reading_every_option_with_its_question(questions):
    assert_as_read_in_full([asked(*question, seed=i) for i, question in enumerate(questions)])


def about_clips(options=()):
    """Ask two things about one clip and its sound, one about another clip, one about nothing."""
    form = "multiple_choice" if options else "open"
    one, two = asked("what?", ("video", "audio"), [""], seed=1), asked("", ("video",), [""], seed=2)
    texts = [(one, "is it red?"), (two, "a ball or a blue ball?"), (one, "and?"), (None, "what?")]
    questions = []
    for number, (clip, text) in enumerate(texts):
        media = clip.sample.media if clip else []
        sample = Sample(f"q{number}", [Message("user", [*media, text])], form="chat")
        questions.append(Question(sample, "k", form, "", tuple(options)))
    return questions


@torch.no_grad()
def test_scores_behind_shared_beginnings_are_those_of_reading_everything():
    questions = about_clips(["red", "a blue ball"])
    for question, answer in zip(
        questions, weigh_options(MODEL, questions, prompter=SHARING), strict=True
    ):
        torch.testing.assert_close(list(answer.scores), read_in_full(question), atol=1e-5, rtol=0)


def test_answers_behind_shared_beginnings_are_those_of_every_question_alone():
    questions = about_clips()
    batch = SHARING.collate([question.sample for question in questions])
    assert batch.beginnings.rows == [0, 1, 0, 2]
    assert not batch.items
    settings = GenerationSettings(max_new_tokens=6)
    alone = [
        MODEL.generate(PROMPTER.collate([question.sample]), settings=settings)[0]
        for question in questions
    ]
    assert MODEL.generate(batch, settings=settings) == alone


def test_a_prompt_that_is_too_long_with_its_beginning_is_named():
    questions = about_clips()
    long = asked("a ball " * 600, (), [""])
    sharing = dataclasses.replace(
        SHARING,
        encoder=SampleEncoder(
            MODEL.branch_specs(),
            text=dataclasses.replace(PROMPTER.encoder.text, max_len=4096),
            reader=None,
        ),
    )
    batch = sharing.collate([q.sample for q in (*questions, long)])
    with pytest.raises(ContextOverflow, match="context holds 512"):
        MODEL.generate(batch, settings=GenerationSettings(max_new_tokens=2))


def test_an_option_that_begins_another_keeps_its_own_score():
    question = asked("what?", ("video",), ["a red", "a red ball", "a red ball"])
    assert_as_read_in_full([question])
    (answer,) = weigh_options(MODEL, [question], prompter=PROMPTER)
    assert answer.scores[0] != answer.scores[1]


def test_the_only_option_is_scored_too():
    assert_as_read_in_full([asked("what?", ("video",), ["a red ball"])])


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_losses_that_are_not_finite_choose_no_option(loss):
    class Overflowing(SeeingModel):
        """Its loss of the last option is not finite."""

        def score(self, prompts, *, continuations, rows):
            output = super().score(prompts, continuations=continuations, rows=rows)
            losses = torch.cat([output.sample_loss[:-1], torch.tensor([loss])])
            return dataclasses.replace(output, sample_loss=losses)

    prompter = a_prompter()
    model = Overflowing(prompter.encoder.text.tokenizer)
    questions = [
        a_question(key, "dark", streams=(), candidates=["nothing", "red"]) for key in ("q1", "q2")
    ]
    with pytest.raises(VideoLlamaError, match=r"question q2: .* not finite .*run\.precision"):
        weigh_options(model, questions, prompter=prompter)


def test_an_earlier_round_is_part_of_every_option():
    question = asked("what?", ("video",), ["red", "blue ball"])
    question.sample.messages += [Message("assistant", ["a ball"]), Message("user", ["its colour?"])]
    assert_as_read_in_full([question])


def test_a_long_question_does_not_pad_the_short_ones():
    prompter = a_prompter()
    model = SeeingModel(prompter.encoder.text.tokenizer)
    questions = [a_question(f"q{i}", "dark", streams=()) for i in range(4)]
    questions[1].sample.messages[0] = Message("user", ["Which of these colours is it? " * 3])
    settings = GenerationSettings()
    answers = answer_questions(model, questions, prompter=prompter, settings=settings, batch_size=4)
    assert model.batch_sizes == [3, 1]
    assert [answer.text for answer in answers] == ["nothing"] * 4


def test_each_question_is_read_once_and_a_batch_counts_its_options():
    prompter = a_prompter()
    model = SeeingModel(prompter.encoder.text.tokenizer)
    questions = [
        a_question(f"q{i}", "dark", streams=(), candidates=["nothing", "red", "blue"])
        for i in range(5)
    ]
    answers = answer_questions(
        model,
        questions,
        prompter=prompter,
        settings=GenerationSettings(),
        batch_size=6,
    )
    assert model.num_scored == [(2, 6), (2, 6), (1, 3)]
    assert {answer.text for answer in answers} == {"nothing"}


def test_prompts_and_continuations_put_together_are_the_samples():
    question = asked("what?", ("video", "audio"), ["red", "a blue ball"])
    samples = [question.answered_with(option) for option in question.candidates]
    forks = PROMPTER.collate_forks([samples])
    whole = PROMPTER.collate(samples)
    for name in ("input_ids", "labels", "attention_mask"):
        prompts = getattr(forks.prompts, name)[forks.rows]
        together = torch.cat([prompts, getattr(forks.continuations, name)], dim=1)
        assert together.equal(getattr(whole, name))
    num_slots = int((whole.slots[0] > 0).sum())
    assert int((forks.prompts.slots > 0).sum()) == num_slots
    assert not forks.continuations.items
    # Nothing but the last token of the question and the answer is left.
    assert (forks.continuations.labels[:, 0] == -100).all()
    assert (forks.continuations.labels[:, 1] != -100).all()
