"""Is a tokenizer the decoder's own? What is certain is refused, what is doubtful is said."""

from __future__ import annotations

import logging

import pytest
from released_project import TOKENIZER

from video_llama.apps.vocabulary import check_vocabulary
from video_llama.common.errors import ConfigError
from video_llama.conversation.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TOKENIZER)


@pytest.fixture
def doubts(tokenizer, caplog):
    """Check the tokenizer of 1,000 tokens against a decoder; return what was warned of."""

    def run(rows, end_ids=()):
        logger = logging.getLogger("video_llama")
        logger.addHandler(caplog.handler)
        try:
            check_vocabulary(tokenizer, rows=rows, end_ids=frozenset(end_ids))
        finally:
            logger.removeHandler(caplog.handler)
        return caplog.text

    return run


@pytest.mark.parametrize("rows", [1000, 1001, 1024, 2024])
def test_its_own_rows_and_ordinary_padding_are_nothing_to_speak_of(rows, doubts):
    assert doubts(rows, end_ids=[2]) == ""


def test_fewer_rows_than_tokens_are_refused(tokenizer):
    with pytest.raises(ConfigError, match="1,000 tokens and the decoder's embedding 999 rows"):
        check_vocabulary(tokenizer, rows=999)


def test_thousands_of_rows_without_a_token_are_doubtful(doubts):
    assert "7,410 of the decoder's 8,410 embedding rows belong to no token" in doubts(8410)


def test_another_end_token_is_doubtful(doubts):
    assert "its end token is 2, the decoder ends at 1, 7" in doubts(1000, end_ids=[7, 1])
