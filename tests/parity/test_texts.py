"""Ids, prompts and stops: identical to what the published code makes of the same texts.

Conversations and chat prompts are compared in tests/conversation; here is what is left: special
tokens inside a text, marks inside an answer, and the prompts and stops nobody uses.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from video_llama.common.types import IGNORE_INDEX, MediaItem, Message, Sample
from video_llama.conversation.encode import encode
from video_llama.conversation.layouts import Text
from video_llama.conversation.rendering import Slot, render
from video_llama.conversation.stopping import StopRule, answer_text
from video_llama.conversation.templates import get_template

GOLDENS = Path(__file__).parents[1] / "goldens" / "conversation"
TEXTS = json.loads((GOLDENS / "tokenizer.json").read_text())
CONVERSATIONS = json.loads((GOLDENS / "preprocess.json").read_text())
SECONDS = (0.0, 1.2, 2.5, 3.8, 5.0, 6.2, 7.5, 8.8)
WORDS = {"<unk>": 0, "<s>": 1, "</s>": 2}
PLACEHOLDERS = {"<ImageHere>": 1000, "<AudioHere>": 1001}


def ids_of(text, tokenizer):
    """A text whose special tokens are real: what is between two of them is one run.

    As the renderer places media, a placeholder takes the white space around it away.
    """
    text = re.sub(r"\s*(<(?:Image|Audio)Here>)\s*", r"\1", text)
    special = WORDS | PLACEHOLDERS
    ids = []
    for part in re.split("(" + "|".join(map(re.escape, special)) + ")", text):
        ids += [special[part]] if part in special else tokenizer.encode_run(part).ids
    return ids


class TestTokenizer:
    @pytest.mark.parametrize("case", TEXTS["cases"], ids=lambda case: repr(case["text"]))
    def test_runs_between_special_tokens_have_the_published_ids(self, case, tokenizer):
        assert ids_of(case["text"], tokenizer) == case["ids_nobos"]
        assert [tokenizer.bos_id, *case["ids_nobos"]] == case["ids_bos"]

    @pytest.mark.parametrize("case", TEXTS["decode"], ids=lambda case: case["text_skip"])
    def test_decoding_gives_the_published_text(self, case, tokenizer):
        # The placeholder is no entry of our vocabulary: it is a slot.
        assert tokenizer.decode(case["ids"]) == case["text_skip"].replace(" <ImageHere>", "")

    def test_the_tokens_of_the_vocabulary_are_the_published_ones(self, tokenizer):
        assert tokenizer.pad_id == TEXTS["pad_token_id"]
        assert tokenizer.vocab_size + len(PLACEHOLDERS) == TEXTS["len"]


class TestForgedAnswers:
    """An answer may hold a mark; published, it then forges a turn, and here it is broken up."""

    def encoded(self, name, tokenizer, *, harmless):
        case = CONVERSATIONS[name]
        template = get_template(
            "vicuna_v0_released" if name.endswith("vicuna") else "llama_2_released",
            frame_times="|msg|" in name,
        )
        if not harmless:
            template = dataclasses.replace(template, forgeable=())
            tokenizer = dataclasses.replace(tokenizer, special_texts=())
        messages = []
        for turn in case["conv"]:
            item = MediaItem("video", "v", times_s=SECONDS)
            messages.append(Message("user", [turn["q"]] if messages else [item, turn["q"]]))
            messages.append(Message("assistant", [turn["a"]]))
        encoded = encode(
            Sample("key", messages),
            template=template,
            tokenizer=tokenizer,
            num_slots=[case["num_query_token"]],
            max_len=512,
        )
        ids = zip(encoded.input_ids, encoded.slots, strict=True)
        return [1000 if slot else i for i, slot in ids], encoded.labels

    @pytest.mark.parametrize("message", ["msg", "nomsg"])
    def test_hashes_read_as_published_if_they_are_left_alone(self, message, tokenizer):
        name = f"video|hash_in_answer|{message}|vicuna"
        ids, labels = self.encoded(name, tokenizer, harmless=False)
        assert ids == CONVERSATIONS[name]["input_ids"]
        assert labels == CONVERSATIONS[name]["labels"]

    @pytest.mark.parametrize("message", ["msg", "nomsg"])
    def test_a_mark_of_llama_2_costs_the_whole_sample_its_labels_as_published_only(
        self, message, tokenizer
    ):
        name = f"video|inst_in_answer|{message}|llama_v2"
        ids, labels = self.encoded(name, tokenizer, harmless=False)
        assert ids == CONVERSATIONS[name]["input_ids"]
        assert set(CONVERSATIONS[name]["labels"]) == {IGNORE_INDEX}
        assert tokenizer.decode([i for i in labels if i != IGNORE_INDEX]) == (
            "He said [/INST] and left.  Dunno. "
        )

    @pytest.mark.parametrize("style", ["vicuna", "llama_v2"])
    @pytest.mark.parametrize("message", ["msg", "nomsg"])
    def test_only_the_template_ends_a_text(self, message, style, tokenizer):
        name = f"video|eos_in_answer|{message}|{style}"
        ids, _ = self.encoded(name, tokenizer, harmless=True)
        num_rounds = len(CONVERSATIONS[name]["conv"])
        of_template = {"vicuna": 0, "llama_v2": num_rounds}[style]
        assert ids.count(tokenizer.eos_id) == of_template
        assert CONVERSATIONS[name]["input_ids"].count(tokenizer.eos_id) == of_template + 1


def spelled(pieces):
    return "".join(
        piece.text if isinstance(piece, Text) else "<ImageHere>" if isinstance(piece, Slot) else ""
        for piece in pieces
    )


class TestPrompts:
    @pytest.mark.parametrize("turn", [1, 2])
    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_the_style_that_no_demo_uses_is_vicunas_with_a_system_text(self, number, turn, record):
        style = record("conversation/conv_prompts")["vision"]
        case = style["cases"][number]
        system = style["default_system"] if case["system"] is None else case["system"]
        texts = [text for _, text in case["messages"]][: 2 * turn - 1]
        item = MediaItem("video", "v", times_s=SECONDS)
        texts[0] = texts[0].split("seconds.  ")[1]
        messages = [Message("system", [system])]
        for index, text in enumerate(texts):
            content = [text] if index else [item, text]
            messages.append(Message("assistant" if index % 2 else "user", content))
        sample = Sample("key", messages, form="chat")
        template = get_template("vicuna_v0_released")
        # The text of the template holds a mark that a text from outside must not.
        template = dataclasses.replace(template, forgeable=())
        prompt = spelled(render(sample, template=template, generation_prompt=True))
        assert prompt == case[f"turn{turn}"]

    @pytest.mark.parametrize("name", ["vicuna_v0_released", "llama_2_released"])
    def test_the_sentence_for_a_video_with_sound_is_the_published_one(self, name, record):
        media = [MediaItem("video", "v", times_s=SECONDS), MediaItem("audio", "v")]
        sample = Sample("key", [Message("user", [*media, "Why?"])], form="chat")
        prompt = spelled(render(sample, template=get_template(name), generation_prompt=True))
        assert record("conversation/conv_prompts")["audio_message"] + " Why?" in prompt


@pytest.mark.parametrize("number", range(7))
def test_an_answer_stops_at_the_token_at_which_it_stops_as_published(number, record, tokenizer):
    """The published rule compares the last ids, ours reads the text that was said so far."""
    case = record("conversation/stopping")[number]
    # The numbers of the case stand for: A, child, ###, hel, lo, ou.
    ids_by_number = {1: 281, 2: 524, 835: 835, 5: 902, 6: 362, 7: 319}
    stop = [tokenizer.decode([ids_by_number[i] for i in ids]) for ids in case["stops"]]
    ids = [ids_by_number[i] for i in case["ids"]]
    rule = StopRule(tokenizer, stop)
    stops_now = rule(0, ids) and not rule(0, ids[:-1])
    assert stops_now == case["stop"]


@pytest.mark.parametrize("scenario", ["vicuna_video", "llama_v2_video", "vicuna_audiovideo"])
def test_recorded_ids_read_as_the_published_answer(scenario, record, tokenizer):
    stop = ("###",) if scenario.startswith("vicuna") else ("</s>",)
    for turn in record("conversation/chat")[scenario]["turns"]:
        text = answer_text(turn["generated_ids"][1:], tokenizer=tokenizer, stop=stop)
        assert text == turn["text"]
