"""The libraries behind a tokenizer: SentencePiece for a `.model`, tokenizers for a `.json`.

What is special is known to them by ids; SentencePiece reads "</s>" as four characters, while a
`tokenizer.json` lists texts that become one token wherever they stand.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from video_llama.common.errors import ConfigError

Span = tuple[int, int]


@dataclass(frozen=True)
class Run:
    """One stretch of text, encoded in one go.

    Attributes:
        ids: token ids, no special tokens among them.
        offsets: per token the characters [start, end) it came from. A space put in front by the
            vocabulary has the empty span (0, 0); every byte of a character that was spelled out
            in bytes has that character's span.
    """

    ids: list[int]
    offsets: list[Span]


class Engine(Protocol):
    """The library behind a tokenizer."""

    size: int
    scanned: Mapping[str, int]
    """Texts that the library takes for one token wherever they stand, and their ids."""
    silent_ids: frozenset[int]
    """Special tokens that came after the words; the library shows them as nothing."""

    def encode(self, text: str) -> Run:
        """Encode a text without special tokens."""

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids that are all known to the library."""

    def id_of(self, token: str) -> int | None:
        """Return the id of a token, None if there is none."""


class SentencePieceEngine:
    """A `tokenizer.model`, with the behaviour LLaMA was trained on."""

    def __init__(self, path: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        self._model = SentencePieceProcessor()
        try:
            self._model.load(str(path))
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"not a SentencePiece model ({error}); is it a Git LFS pointer or half a download?",
                where=str(path),
            ) from error
        self.size = self._model.get_piece_size()
        self.scanned: Mapping[str, int] = {}
        self.silent_ids: frozenset[int] = frozenset()

    def encode(self, text: str) -> Run:
        """Encode a text; see `Run` for the spans."""
        from sentencepiece import sentencepiece_pb2

        message = sentencepiece_pb2.SentencePieceText()  # type: ignore[attr-defined]
        message.ParseFromString(self._model.encode(text, out_type="serialized_proto"))
        pieces = list(message.pieces)
        ids = [piece.id for piece in pieces]
        spans = [(piece.begin, piece.end) for piece in pieces]
        offsets = spans if text.isascii() else _characters(spans, text)
        return Run(ids, self._whole_characters(ids, offsets))

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids."""
        return str(self._model.decode(list(ids)))

    def id_of(self, token: str) -> int | None:
        """Return the id of a piece, None if there is none."""
        piece_id = int(self._model.piece_to_id(token))
        return piece_id if self._model.id_to_piece(piece_id) == token else None

    def _whole_characters(self, ids: list[int], offsets: list[Span]) -> list[Span]:
        """Give the leading bytes of a character, which come without a span, that character's."""
        whole = list(offsets)
        empty = [i for i, (start, end) in enumerate(offsets[:-1]) if start == end]
        for i in reversed(empty):
            if self._model.is_byte(ids[i]):
                whole[i] = whole[i + 1]
        return whole


def _characters(spans: Sequence[Span], text: str) -> list[Span]:
    """Return the characters of spans that were counted in bytes of UTF-8."""
    # `ends[i]` is the number of bytes up to character i's end.
    ends = list(accumulate(len(char.encode()) for char in text))
    return [
        (bisect.bisect_right(ends, begin), bisect.bisect_left(ends, end) + 1)
        if end > begin
        else (bisect.bisect_right(ends, begin),) * 2
        for begin, end in spans
    ]


class FastEngine:
    """A `tokenizer.json`, run by the tokenizers library."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Library

        # Checked here because the library raises nothing narrower than Exception.
        if "model" not in read_json(path):
            raise ConfigError("holds no tokenizer (no 'model' entry)", where=str(path))
        self._model = Library.from_file(str(path))
        self._model.no_truncation()
        self._model.no_padding()
        self.size = self._model.get_vocab_size()
        num_words = self._model.get_vocab_size(with_added_tokens=False)
        tokens = self._model.get_added_tokens_decoder()
        self.scanned: Mapping[str, int] = {token.content: i for i, token in tokens.items()}
        self.silent_ids = frozenset(i for i, t in tokens.items() if t.special and i >= num_words)

    def encode(self, text: str) -> Run:
        """Encode a text; see `Run` for the spans."""
        encoding = self._model.encode(text, add_special_tokens=False)
        return Run(list(encoding.ids), list(encoding.offsets))

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids."""
        return str(self._model.decode(list(ids), skip_special_tokens=True))

    def id_of(self, token: str) -> int | None:
        """Return the id of a token, None if there is none."""
        return self._model.token_to_id(token)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing file is an empty one."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"not valid JSON ({error})", where=str(path)) from error
    return content if isinstance(content, dict) else {}
