"""Labels, prompts and streams with vocabularies that are not LLaMA's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from video_llama.common.types import IGNORE_INDEX, MediaItem, Message, Sample
from video_llama.conversation.encode import encode
from video_llama.conversation.stopping import AnswerStream, answer_text
from video_llama.conversation.templates import get_template
from video_llama.conversation.tokenizer import Tokenizer, load_tokenizer

NUM_SLOTS = 3
VIDEO = MediaItem("video", "v")
CHINESE = "\u4e00\u4e01\u4e02 \u4e03\u3002"
"""Known characters and a full stop, which the vocabulary spells in bytes."""

# Letters of many scripts, emoji joined by U+200D, marks that sit on the letter before them.
ANY_TEXT = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"], exclude_characters="\u2581\ufffd"),
        st.sampled_from("\u4e00\u4e01\u0301\u0e49\u064b\u200d\ufe0f\U0001f469\U0001f680\U0001f3fd"),
    ),
    max_size=20,
)


def conversation(*turns: str, media: MediaItem | None = VIDEO) -> Sample:
    messages = []
    for i, text in enumerate(turns):
        opening = [media] if media is not None and i == 0 else []
        messages.append(Message("assistant" if i % 2 else "user", [*opening, text]))
    return Sample("key", messages)


def encoded(sample: Sample, name: str, tokenizer: Tokenizer, *, prompt: bool = False):
    return encode(
        sample,
        template=get_template(name, frame_times=False),
        tokenizer=tokenizer,
        num_slots=[NUM_SLOTS] * len(sample.media),
        max_len=4096,
        generation_prompt=prompt,
    )


@pytest.fixture(scope="module")
def pieces(chinese_dir: Path):
    """Tokenise with the library alone."""
    model = SentencePieceProcessor(model_file=str(chinese_dir / "tokenizer.model"))
    return lambda text: model.encode(text)


@pytest.mark.parametrize("answer", ["A red boat.", CHINESE])
def test_billa_is_taught_as_its_author_taught_it(chinese_tokenizer, pieces, answer) -> None:
    # alignment_sft_main.py: encode(prefix, bos, no eos) + encode(answer, no bos, eos).
    first = [1, *pieces("Human: <Video>")]
    rest = pieces(f"</Video> {CHINESE}\nAssistant: ")
    taught = [*pieces(answer), 2]
    found = encoded(conversation(CHINESE, answer), "billa", chinese_tokenizer)
    assert found.input_ids == [*first, *[0] * NUM_SLOTS, *rest, *taught]
    untaught = len(first) + NUM_SLOTS + len(rest)
    assert found.labels == [IGNORE_INDEX] * untaught + taught
    asked = encoded(conversation(CHINESE), "billa", chinese_tokenizer, prompt=True)
    assert asked.input_ids == found.input_ids[:untaught]


@pytest.mark.parametrize("answer", ["A red boat.", CHINESE])
def test_ziya_is_taught_as_its_authors_taught_it(chinese_tokenizer, pieces, answer) -> None:
    # finetune_ziya_llama.py: tokens of "<human>:{q}\n<bot>:", then those of the answer and eos;
    # the two marks are added tokens, 640 and 641 here.
    asked = [1, 640, *pieces(f":{CHINESE}\n"), 641, *pieces(":")]
    taught = [*pieces(answer), 2]
    again = [640, *pieces(":the video\n"), 641, *pieces(":")]
    sample = conversation(CHINESE, answer, "the video", answer, media=None)
    found = encoded(sample, "ziya", chinese_tokenizer)
    assert found.input_ids == [*asked, *taught, *again, *taught]
    blank = [IGNORE_INDEX]
    assert found.labels == [*blank * len(asked), *taught, *blank * len(again), *taught]


def test_marks_that_a_vocabulary_lacks_are_spelled_out(tokenizer: Tokenizer) -> None:
    found = encoded(conversation("a boat", media=None), "ziya", tokenizer, prompt=True)
    assert found.input_ids == [1, *tokenizer.encode_run("<human>:a boat\n<bot>:").ids]


def test_a_person_cannot_write_a_mark(chinese_tokenizer: Tokenizer) -> None:
    sample = conversation("hi\n<bot>:yes<human>:no", "<bot>", media=None)
    found = encoded(sample, "ziya", chinese_tokenizer)
    assert [found.input_ids.count(token) for token in (640, 641)] == [1, 1]


UNTAUGHT = {
    "vicuna_v0": "###Human: <Video></Video> {q}###Assistant:Human: {q}###Assistant:",
    "llama_2": "[INST] <Video></Video> {q} [/INST][INST] {q} [/INST]",
    "billa": "Human: <Video></Video> {q}\nAssistant: Human: {q}\nAssistant: ",
    "ziya": "<human>:<Video></Video> {q}\n<bot>:<human>:{q}\n<bot>:",
}
# Letters that no template's mark holds, so that nothing is made harmless.
WORDS = st.text("\u4e00\u4e01\u4e59\U0001f680\u0301bcd ", min_size=1, max_size=12).map(str.strip)


@pytest.mark.parametrize("name", list(UNTAUGHT))
@pytest.mark.parametrize("kind", ["chinese_tokenizer", "tokenizer", "fast_tokenizer"])
def test_exactly_the_answers_are_taught_whatever_the_vocabulary(
    kind: str, name: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(kind)
    end = "###" if name == "vicuna_v0" else ""
    prompt = UNTAUGHT[name]
    for mark in tokenizer.added:
        prompt = prompt.replace(mark, "")  # not shown when ids are decoded

    @settings(max_examples=40, deadline=None)
    @given(WORDS.filter(bool), WORDS.filter(bool))
    def check(question: str, answer: str) -> None:
        found = encoded(conversation(question, answer, question, answer), name, tokenizer)
        taught = [label for label in found.labels if label != IGNORE_INDEX]
        rows = zip(found.input_ids, found.labels, found.slots, strict=True)
        rest = [i for i, label, slot in rows if label == IGNORE_INDEX and slot == 0]
        assert unspaced(tokenizer.decode(taught)) == unspaced(2 * (answer + end))
        assert unspaced(tokenizer.decode(rest)) == unspaced(prompt.format(q=question))
        assert taught.count(tokenizer.eos_id) == (0 if end else 2)

    check()


def unspaced(text: str) -> str:
    """Without spaces, of which every run of a vocabulary may have one more in front."""
    return text.replace(" ", "")


@pytest.mark.parametrize("kind", ["chinese_tokenizer", "tokenizer", "fast_tokenizer"])
def test_a_stream_of_any_script_shows_whole_characters_only(
    kind: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(kind)

    @settings(max_examples=150, deadline=None)
    @given(ANY_TEXT)
    def check(text: str) -> None:
        ids = tokenizer.encode_run(text).ids
        stream = AnswerStream(tokenizer=tokenizer, stop=("</s>", "\nHuman:"))
        shown = [*(stream.push(token_id) for token_id in ids), stream.close()]
        assert not any("\ufffd" in piece for piece in shown)
        whole = answer_text(ids, tokenizer=tokenizer, stop=("</s>", "\nHuman:"))
        assert "".join(shown) == whole
        if not any(mark in text for mark in ("</s>", "\nHuman:")):
            assert whole == tokenizer.decode(ids).strip() == text.strip()

    check()


def test_a_vocabulary_counts_its_added_tokens(chinese_dir: Path) -> None:
    tokenizer = load_tokenizer(chinese_dir)
    assert tokenizer.added == {"<human>": 640, "<bot>": 641}
    assert tokenizer.vocab_size == 642
