"""The prompts of LLaVA: text, ids and labels as the published code computes them, written out here.

Source: PKU-YuanGroup/Video-LLaVA at 984e65b, videollava/conversation.py (get_prompt), mm_utils.py
(tokenizer_image_token), train/train.py (preprocess_v1, preprocess_plain).
"""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import GOLDENS
from sentencepiece import SentencePieceProcessor

from video_llama.common.types import IGNORE_INDEX, MediaItem, Message, Sample
from video_llama.conversation.encode import Encoded, encode
from video_llama.conversation.layouts import Text
from video_llama.conversation.rendering import render
from video_llama.conversation.stopping import answer_text
from video_llama.conversation.templates import get_template
from video_llama.conversation.tokenizer import Tokenizer, load_tokenizer

SYSTEMS = {
    "vicuna_v1": (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    ),
    "llava_v1": (
        "A chat between a curious human and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the human's questions. "
    ),
    "llava_hf": "",
}
LLAMA_2_PROMPT = (
    "[INST] <<SYS>>\nYou are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language.\n<</SYS>>\n\n"
    "<image>\nwhat? [/INST] a boat </s><s>[INST] sure? [/INST] yes </s>"
)
VIDEO, PICTURE = MediaItem("video", "v"), MediaItem("image", "i")
NUM_FRAMES = 8
WORDS = st.text("ab\u65e5.,?! \n\u00e9", max_size=12)
QA = st.tuples(WORDS, WORDS.map(str.strip).filter(bool))


@pytest.fixture(scope="module")
def pieces() -> SentencePieceProcessor:
    """The library alone."""
    return SentencePieceProcessor(model_file=str(GOLDENS / "llama" / "tokenizer.model"))


def talk(rounds: list[tuple[str, str]], *, media: tuple[MediaItem, ...] = (VIDEO,)) -> Sample:
    messages = []
    for number, (question, answer) in enumerate(rounds):
        opening = list(media) if number == 0 else []
        messages.append(Message("user", [*opening, question]))
        messages.append(Message("assistant", [answer]))
    return Sample("key", messages)


def published_prompt(name: str, rounds: list[tuple[str, str]], *, media: str) -> str:
    """`get_prompt` of separator style TWO: seps are a space and the end token."""
    text = SYSTEMS[name]
    for number, (question, answer) in enumerate(rounds):
        opening = f"{media}\n" if number == 0 and media else ""
        text += f"USER: {opening}{question} ASSISTANT: {answer}</s>"
    return text


def legacy_ids(text: str, pieces: SentencePieceProcessor) -> list[int]:
    """A slow tokenizer: text between special tokens is encoded by itself; no opening token."""
    ids: list[int] = []
    for number, part in enumerate(text.split("</s>")):
        ids += [2] if number else []
        ids += pieces.encode(part) if part else []
    return ids


def published_ids(prompt: str, pieces: SentencePieceProcessor) -> list[int]:
    """`tokenizer_image_token`: chunks around every "<image>", each without its opening token."""
    ids = [1]
    for number, chunk in enumerate(prompt.split("<image>")):
        ids += [-200] if number else []
        ids += legacy_ids(chunk, pieces)
    return ids


def published_labels(prompt: str, ids: list[int], pieces: SentencePieceProcessor) -> list[int]:
    """`preprocess_v1`: counts tokens of every round, its question, and " ASSISTANT: "."""
    labels = [IGNORE_INDEX, *ids[1:]]
    place = 1
    for text in prompt.split("</s>"):
        if not text:
            break
        # The opening token of a round that is tokenised alone stands in for its end token.
        round_len = len(published_ids(text, pieces))
        question = text.split(" ASSISTANT: ")[0] + " ASSISTANT: "
        instruction_len = len(published_ids(question, pieces)) - 2
        labels[place : place + instruction_len] = [IGNORE_INDEX] * instruction_len
        place += round_len
    assert place == len(ids), "the published code would drop this sample"
    return labels


def encoded(sample: Sample, name: str, tokenizer: Tokenizer, *, prompt: bool = False) -> Encoded:
    counts = {"video": NUM_FRAMES, "image": 1}
    return encode(
        sample,
        template=get_template(name),
        tokenizer=tokenizer,
        num_slots=[counts[item.kind] for item in sample.media],
        max_len=100_000,
        generation_prompt=prompt,
    )


def with_slots(found: Encoded) -> list[int]:
    """Ids with the published mark of a place for features."""
    return [-200 if slot else i for i, slot in zip(found.input_ids, found.slots, strict=True)]


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize(
    ("media", "text"),
    [
        ((VIDEO,), "<image>" * NUM_FRAMES),
        ((PICTURE,), "<image>"),
        ((VIDEO, PICTURE), "<image>" * (NUM_FRAMES + 1)),
        ((), ""),
    ],
)
def test_ids_and_labels_are_the_published_ones(name, media, text, tokenizer, pieces) -> None:
    @settings(max_examples=15, deadline=None)
    @given(st.lists(QA, min_size=1, max_size=3))
    def check(rounds: list[tuple[str, str]]) -> None:
        # Words that open with white space get no line feed in front; the published readers strip.
        rounds = [(question.strip() or "what?", answer) for question, answer in rounds]
        prompt = published_prompt(name, rounds, media=text)
        expected = published_ids(prompt, pieces)
        found = encoded(talk(rounds, media=media), name, tokenizer)
        assert with_slots(found) == expected
        labels = published_labels(prompt, expected, pieces)
        assert found.labels == [IGNORE_INDEX if i == -200 else i for i in labels]

    check()


def test_a_toy_prompt_by_hand(tokenizer: Tokenizer, pieces: SentencePieceProcessor) -> None:
    found = encoded(talk([("what?", "a boat")], media=(PICTURE,)), "llava_hf", tokenizer)
    opening, rest = pieces.encode("USER: "), pieces.encode("\nwhat? ASSISTANT: a boat")
    assert pieces.id_to_piece(opening[-1]) == "\u2581"
    assert [pieces.id_to_piece(i) for i in rest[:2]] == ["\u2581", "<0x0A>"]
    assert with_slots(found) == [1, *opening, -200, *rest, 2]
    taught = [label for label in found.labels if label != IGNORE_INDEX]
    assert taught == [*pieces.encode("a boat"), 2]


@pytest.mark.parametrize("name", [*SYSTEMS, "llava_llama_2"])
def test_a_chat_prompt_is_the_beginning_of_the_training_text(name: str, tokenizer) -> None:
    rounds = [("what?", "a boat"), ("sure?", "yes"), ("why?", "so")]
    whole = encoded(talk(rounds), name, tokenizer)
    for number in range(3):
        sample = talk(rounds[: number + 1])
        sample.form = "chat"
        asked = encoded(sample, name, tokenizer, prompt=True)
        assert asked.input_ids == whole.input_ids[: len(asked)]
        assert whole.labels[len(asked)] != IGNORE_INDEX


def test_the_prompt_of_llama_2_reads_as_published() -> None:
    sample = talk([("what?", "a boat"), ("sure?", "yes")], media=(PICTURE,))
    names = {"bos": "<s>", "eos": "</s>"}
    written = "".join(
        piece.text
        if isinstance(piece, Text)
        else names[piece.name]
        if hasattr(piece, "name")
        else "<image>"
        for piece in render(sample, template=get_template("llava_llama_2"))
    )
    assert written == f"<s>{LLAMA_2_PROMPT}"


def test_the_labels_of_llama_2_are_answers_with_their_end_tokens(tokenizer, pieces) -> None:
    found = encoded(talk([("what?", "a boat"), ("sure?", "yes")]), "llava_llama_2", tokenizer)
    taught = [label for label in found.labels if label != IGNORE_INDEX]
    # preprocess_llama_2 leaves the answer, the space behind it and the end token.
    assert taught == [*pieces.encode("a boat "), 2, *pieces.encode("yes "), 2]


@pytest.mark.parametrize("media", [(PICTURE,), (VIDEO,), (VIDEO, PICTURE)])
@pytest.mark.parametrize("form", ["instruct", "caption"])
def test_plain_is_media_caption_and_a_line_feed(media, form, tokenizer, pieces) -> None:
    # preprocess_plain: the user's turn becomes "<image>"; a clip has a place for each frame here.
    sample = talk([("Describe it briefly.", "a red boat")], media=media)
    if form == "caption":
        sample = Sample("key", [Message("assistant", [*media, "a red boat"])], form="caption")
    found = encoded(sample, "plain", tokenizer)
    num_slots = sum(NUM_FRAMES if item is VIDEO else 1 for item in media)
    caption = pieces.encode("a red boat\n")
    assert with_slots(found) == [1, *[-200] * num_slots, *caption]
    assert found.labels == [*[IGNORE_INDEX] * (1 + num_slots), *caption]


def test_a_plain_caption_ends_at_the_line_feed(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_run("a red boat\nUSER").ids
    stop = get_template("plain").stop
    assert answer_text(ids, tokenizer=tokenizer, stop=stop) == "a red boat"


@pytest.fixture(scope="module")
def flavours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """One vocabulary in every form it is shipped in."""
    from transformers import LlamaTokenizer

    root = tmp_path_factory.mktemp("flavours")
    found = {}
    for legacy in (True, False):
        slow = root / f"slow_{legacy}"
        slow.mkdir()
        shutil.copy(GOLDENS / "llama" / "tokenizer.model", slow)
        (slow / "tokenizer_config.json").write_text(json.dumps({"legacy": legacy}))
        fast = root / f"fast_{legacy}"
        LlamaTokenizer.from_pretrained(GOLDENS / "llama", legacy=legacy).save_pretrained(fast)
        found |= {folder.name: load_tokenizer(folder) for folder in (slow, fast)}
    return found


@pytest.mark.parametrize("name", [*SYSTEMS, "llava_llama_2", "plain"])
def test_the_targets_of_three_rounds_are_the_same_in_every_flavour(name: str, flavours) -> None:
    rounds = [("what?", "a red boat."), ("USER or ASSISTANT", "yes"), ("why?", "</s> it is")]
    spans = {}
    for flavour, tokenizer in flavours.items():
        found = encoded(talk(rounds), name, tokenizer)
        spans[flavour] = [[]]
        for label in found.labels:
            spans[flavour][-1] += [label] if label not in (IGNORE_INDEX, 2) else []
            spans[flavour] += [[]] if label == 2 else []
        spans[flavour] = [tokenizer.decode(ids).strip() for ids in spans[flavour]]
    expected = ["a red boat.", "yes", "</s > it is", ""]
    if name == "plain":
        expected = ["\n".join(expected[:3])]
    assert spans == dict.fromkeys(("slow_True", "fast_True", "slow_False", "fast_False"), expected)


def test_every_flavour_that_has_it_gives_the_same_ids(flavours) -> None:
    # A line feed behind the media, and no round begins with a space: no flavour's own habit shows.
    rounds = [("what?", "a red boat."), ("sure?", "yes"), ("why?", "it is")]
    ids = [tuple(encoded(talk(rounds), "llava_hf", t).input_ids) for t in flavours.values()]
    assert len(set(ids)) == 1
