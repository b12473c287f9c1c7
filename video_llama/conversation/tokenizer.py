"""Text to token ids and back, with the exact characters every token came from.

A `tokenizer.model` is read by SentencePiece and a `tokenizer.json` by tokenizers; a directory that
holds a `tokenizer.model` never falls through to a newer class's guess of it, because those guess
wrongly about spaces. What is special is said by ids, never by scanning text: `encode_run` treats
"</s>" as four characters. This module knows no template and adds no beginning-of-text token.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    special: tuple[str, ...]
    """Texts that the library takes for special tokens wherever they stand."""

    def encode(self, text: str) -> Run:
        """Encode a text without special tokens."""

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids that are all known to the library."""

    def id_of(self, token: str) -> int | None:
        """Return the id of a token, None if there is none."""


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary and its special tokens.

    Attributes:
        engine: the library that does the work.
        bos_id: opens every text; None for a vocabulary that has no such token.
        eos_id: closes a text.
        unk_id: stands for what cannot be spelled; None if everything can.
        pad_id: fills a row; the unknown token's id, else `eos_id`, where a vocabulary has none.
        vocab_size: ids there are, added tokens included.
        special_texts: how special and added tokens look when spelled out, without those of one
            character or with white space, which nothing could be told apart from.
        added: ids of the tokens that were added after the vocabulary was made, by their text.
    """

    engine: Engine
    bos_id: int | None
    eos_id: int
    unk_id: int | None
    pad_id: int
    vocab_size: int
    special_texts: tuple[str, ...]
    added: Mapping[str, int] = field(default_factory=dict)

    def encode_run(self, text: str) -> Run:
        """Encode one run of text; no special token is added or recognised.

        Args:
            text: any text; a vocabulary with a dummy prefix puts one in front of each run.

        Returns:
            The ids and their character spans; both empty for an empty text.
        """
        return self.engine.encode(text) if text else Run([], [])

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids into text, leaving special tokens and ids without a meaning out.

        Args:
            ids: token ids in reading order.

        Returns:
            Text without the dummy prefix; the end of a half-finished character reads U+FFFD.
        """
        hidden = {self.bos_id, self.eos_id, self.pad_id, self.unk_id}
        known = [i for i in ids if i not in hidden and 0 <= i < self.engine.size]
        return self.engine.decode(known)


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
        self.special: tuple[str, ...] = ()

    def encode(self, text: str) -> Run:
        """Encode a text; see `Run` for the spans."""
        from sentencepiece import sentencepiece_pb2

        message = sentencepiece_pb2.SentencePieceText()  # type: ignore[attr-defined]
        message.ParseFromString(self._model.encode(text, out_type="serialized_proto"))
        # The message counts bytes; `ends[i]` is the number of bytes up to character i's end.
        ends = list(accumulate(len(char.encode()) for char in text))
        ids = [piece.id for piece in message.pieces]
        offsets = [
            (bisect.bisect_right(ends, piece.begin), bisect.bisect_left(ends, piece.end) + 1)
            if piece.end > piece.begin
            else (bisect.bisect_right(ends, piece.begin),) * 2
            for piece in message.pieces
        ]
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
        for i in reversed(range(len(ids) - 1)):
            start, end = whole[i]
            if start == end and self._model.is_byte(ids[i]):
                whole[i] = whole[i + 1]
        return whole


class FastEngine:
    """A `tokenizer.json`, run by the tokenizers library."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Library

        # Checked here because the library raises nothing narrower than Exception.
        if "model" not in _read_json(path):
            raise ConfigError("holds no tokenizer (no 'model' entry)", where=str(path))
        self._model = Library.from_file(str(path))
        self._model.no_truncation()
        self._model.no_padding()
        self.size = self._model.get_vocab_size()
        added = self._model.get_added_tokens_decoder().values()
        self.special: tuple[str, ...] = tuple(token.content for token in added if token.special)

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


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Read the tokenizer of a decoder directory in the Hugging Face layout.

    Args:
        directory: holds `tokenizer.model` (preferred) or `tokenizer.json`, and usually
            `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`.

    Returns:
        The tokenizer, with the special tokens those files name.

    Raises:
        ConfigError: files are missing or cannot be read, or no end-of-text token is named.
    """
    folder = Path(directory)
    engine: Engine
    if (folder / "tokenizer.model").is_file():
        engine = SentencePieceEngine(folder / "tokenizer.model")
    elif (folder / "tokenizer.json").is_file():
        engine = FastEngine(folder / "tokenizer.json")
    else:
        raise ConfigError(_nothing_found(folder))
    added = _added_tokens(folder)
    named = _named_tokens(folder)

    def id_of(role: str, fallback: str) -> int | None:
        token = named.get(role, fallback)
        found = engine.id_of(token)
        return added.get(token) if found is None else found

    eos_id = id_of("eos_token", "</s>")
    if eos_id is None:
        raise ConfigError(
            f"no end-of-text token: '{named.get('eos_token', '</s>')}' is not in the vocabulary; "
            "name the right one as eos_token in tokenizer_config.json",
            where=str(folder),
        )
    unk_id = id_of("unk_token", "<unk>")
    pad_id = id_of("pad_token", "") if "pad_token" in named else None
    if pad_id is None:
        pad_id = eos_id if unk_id is None else unk_id
    texts = {*named.values(), *added, *engine.special, "<s>", "</s>", "<unk>"}
    return Tokenizer(
        engine=engine,
        bos_id=id_of("bos_token", "<s>"),
        eos_id=eos_id,
        unk_id=unk_id,
        pad_id=pad_id,
        vocab_size=max([engine.size, *(i + 1 for i in added.values())]),
        special_texts=tuple(sorted(text for text in texts if _is_mark(text))),
        added=added,
    )


def _is_mark(text: str) -> bool:
    """Say whether a space inside a text would make another one of it."""
    return len(text) > 1 and not any(char.isspace() for char in text)


def _nothing_found(folder: Path) -> str:
    """Say what a directory lacks and what it has instead."""
    if not folder.is_dir():
        return f"{folder}: no such directory; expected a decoder with its tokenizer.model"
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:12]) or "nothing"
    return (
        f"{folder}: missing tokenizer.model (or tokenizer.json); found {found}; "
        "copy it from the release the decoder's weights came from"
    )


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing file is an empty one."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"not valid JSON ({error})", where=str(path)) from error
    return content if isinstance(content, dict) else {}


def _added_tokens(folder: Path) -> dict[str, int]:
    """Collect the tokens added after the vocabulary was made, id by text."""
    config = _read_json(folder / "tokenizer_config.json")
    decoder = config.get("added_tokens_decoder", {})
    added = {str(entry["content"]): int(i) for i, entry in decoder.items()}
    listed = _read_json(folder / "added_tokens.json")
    return added | {token: int(i) for token, i in listed.items()}


def _named_tokens(folder: Path) -> dict[str, str]:
    """Collect which token plays which role; the tokenizer's own config speaks last."""
    named: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        for role, value in _read_json(folder / file).items():
            text = value.get("content") if isinstance(value, dict) else value
            if role.endswith("_token") and isinstance(text, str) and text:
                named[role] = text
    return named
