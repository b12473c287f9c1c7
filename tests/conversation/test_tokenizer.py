from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import GOLDENS, golden

from video_llama.common.errors import ConfigError
from video_llama.conversation.engines import _characters
from video_llama.conversation.tokenizer import Tokenizer, load_tokenizer

SPECIAL = ("<s>", "</s>", "<unk>", "<ImageHere>", "<AudioHere>")
PLAIN = [
    case for case in golden("tokenizer")["cases"] if not any(s in case["text"] for s in SPECIAL)
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=30)


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: repr(case["text"]))
def test_a_run_has_the_published_ids(tokenizer: Tokenizer, case: dict) -> None:
    assert tokenizer.encode_run(case["text"]).ids == case["ids_nobos"]


def test_special_tokens_keep_the_ids_of_the_vocabulary(tokenizer: Tokenizer) -> None:
    assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)


def test_a_vocabulary_without_a_pad_token_pads_with_unk(tokenizer: Tokenizer) -> None:
    assert tokenizer.pad_id == 0


def test_spelled_out_special_tokens_are_plain_characters(tokenizer: Tokenizer) -> None:
    assert tokenizer.eos_id not in tokenizer.encode_run("a</s>b").ids


def test_decoding_leaves_special_and_unknown_ids_out(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_run("hello").ids
    assert tokenizer.decode([1, *ids, 2, 999_999]) == "hello"


def test_every_byte_of_a_spelled_out_character_has_its_span(tokenizer: Tokenizer) -> None:
    # "na" + two bytes of i-diaeresis + "ve" + space + three bytes of a kanji, counted by hand.
    run = tokenizer.encode_run("na\u00efve \u65e5")
    assert run.offsets == [(0, 1), (1, 2), (2, 3), (2, 3), (3, 5), (5, 6), (6, 7), (6, 7), (6, 7)]


def test_a_run_that_comes_back_is_not_tokenised_again(tokenizer: Tokenizer) -> None:
    engine = Mock(wraps=tokenizer.engine)
    counting = dataclasses.replace(tokenizer, engine=engine)
    first, second = (counting.encode_run("a red car") for _ in range(2))
    assert (engine.encode.call_count, first) == (1, second)


def test_few_runs_are_remembered_however_many_there_are(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("video_llama.conversation.tokenizer.MAX_KEPT_RUNS", 2)
    engine = Mock(wraps=tokenizer.engine)
    counting = dataclasses.replace(tokenizer, engine=engine)
    for text in ("one", "two", "three", "one"):
        counting.encode_run(text)
    assert engine.encode.call_count == 4


def test_a_long_run_is_not_remembered(tokenizer: Tokenizer) -> None:
    engine = Mock(wraps=tokenizer.engine)
    counting = dataclasses.replace(tokenizer, engine=engine)
    for _ in range(2):
        counting.encode_run("a" * 401)
    assert engine.encode.call_count == 2


def test_a_lone_dummy_prefix_has_an_empty_span_at_the_start(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_run("\u65e5").offsets == [(0, 0), (0, 1), (0, 1), (0, 1)]


@given(st.text(st.characters(max_codepoint=127)), st.data())
def test_in_ascii_a_span_of_bytes_is_the_same_span_of_characters(
    text: str, data: st.DataObject
) -> None:
    places = st.integers(0, len(text))
    span = tuple(sorted((data.draw(places), data.draw(places))))
    assert _characters([span], text) == [span]


@pytest.mark.parametrize("kind", ["tokenizer", "fast_tokenizer"])
def test_text_survives_encoding_and_decoding(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)

    @settings(max_examples=100, deadline=None)
    @given(TEXTS)
    def check(text: str) -> None:
        assert tokenizer.decode(tokenizer.encode_run(text).ids) == text

    check()


@pytest.mark.parametrize("kind", ["tokenizer", "fast_tokenizer"])
def test_offsets_cover_the_text_in_order(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)

    @settings(max_examples=100, deadline=None)
    @given(TEXTS)
    def check(text: str) -> None:
        offsets = tokenizer.encode_run(text).offsets
        assert offsets == sorted(offsets)
        covered = {i for start, end in offsets for i in range(start, end)}
        assert covered == set(range(len(text)))

    check()


@settings(max_examples=50, deadline=None)
@given(text=TEXTS)
def test_a_span_holds_the_characters_of_its_piece(text: str) -> None:
    tokenizer = load_tokenizer(GOLDENS / "llama")
    run = tokenizer.encode_run(text)
    for token_id, (start, end) in zip(run.ids, run.offsets, strict=True):
        decoded = tokenizer.decode([token_id])
        if "\ufffd" not in decoded and not text[start:end].isspace():
            assert text[start:end].lstrip(" ") == decoded


def test_a_fast_vocabulary_without_bos_says_so(fast_tokenizer: Tokenizer) -> None:
    assert fast_tokenizer.bos_id is None


def test_pad_is_a_field_of_its_own(fast_tokenizer: Tokenizer) -> None:
    assert fast_tokenizer.pad_id == fast_tokenizer.engine.id_of("<|pad|>") != fast_tokenizer.eos_id


def test_an_added_pad_row_counts_into_the_vocabulary(tmp_path: Path) -> None:
    shutil.copy(GOLDENS / "llama" / "tokenizer.model", tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[PAD]": 1000}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.pad_id, tokenizer.vocab_size) == (1000, 1001)


def test_a_sentencepiece_model_goes_before_a_guess_of_it(tmp_path: Path, fast_dir: Path) -> None:
    shutil.copy(GOLDENS / "llama" / "tokenizer.model", tmp_path)
    shutil.copy(fast_dir / "tokenizer.json", tmp_path)
    assert load_tokenizer(tmp_path).vocab_size == 1000


def test_a_directory_without_a_tokenizer_is_described(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"missing tokenizer\.model .*found config\.json"):
        load_tokenizer(tmp_path)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: no such directory"):
        load_tokenizer(tmp_path / "nowhere")


def test_a_broken_model_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ConfigError, match=r"tokenizer\.model: not a SentencePiece model"):
        load_tokenizer(tmp_path)


@pytest.fixture
def padded_dir(tmp_path: Path) -> Path:
    """Laid out as Video-LLaVA-7B-hf is: three tokens behind the words, and more rows."""
    shutil.copy(GOLDENS / "llama" / "tokenizer.model", tmp_path)
    added = {"<image>": 1000, "<video>": 1001, "<pad>": 1002}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    return tmp_path


def test_media_tokens_and_rows_without_a_token_are_silent(padded_dir: Path) -> None:
    tokenizer = load_tokenizer(padded_dir)
    assert tokenizer.silent_ids(num_rows=1064, stop=("</s>",)) == frozenset(range(1000, 1064))


def test_rows_that_the_decoder_lacks_are_not_named_silent(padded_dir: Path) -> None:
    tokenizer = load_tokenizer(padded_dir)
    assert tokenizer.silent_ids(num_rows=1001, stop=()) == {1000}


def test_a_stop_string_that_is_one_token_ends_an_answer_and_is_not_silent(padded_dir: Path) -> None:
    tokenizer = load_tokenizer(padded_dir)
    assert tokenizer.end_ids(("<video>", "###")) == {2, 1001}
    assert 1001 not in tokenizer.silent_ids(num_rows=1064, stop=("<video>",))


def test_special_tokens_added_to_a_fast_vocabulary_are_silent_and_added_words_are_not(
    fast_dir: Path, tmp_path: Path
) -> None:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Library

    library = Library.from_file(str(fast_dir / "tokenizer.json"))
    size = library.get_vocab_size()
    library.add_special_tokens([AddedToken("<|im_end|>", special=True)])
    library.add_special_tokens([AddedToken("<|image_pad|>", special=True)])
    library.add_tokens([AddedToken("<think>", special=False)])
    library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.silent_ids(num_rows=size + 5, stop=()) == {size + 1, size + 3, size + 4}
