"""Text to token ids and back, with the exact characters every token came from.

A `tokenizer.model` is read by SentencePiece and a `tokenizer.json` by tokenizers; a directory that
holds a `tokenizer.model` never falls through to a newer class's guess of it, because those guess
wrongly about spaces. This module knows no template, though it finds the directory's own, and adds
no beginning-of-text token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from video_llama.common.errors import ConfigError
from video_llama.conversation.engines import (
    Engine,
    FastEngine,
    Run,
    SentencePieceEngine,
    read_json,
)

CHAT_FILE = "chat_template.jinja"

MAX_KEPT_RUNS, MAX_KEPT_CHARACTERS = 1024, 400
"""How many runs are kept with their ids, of what length at most: the words of a template come back
in every sample; long texts do not, and would fill the memory of every data worker."""


@dataclass(frozen=True)
class ChatSource:
    """A chat template as it lies in a tokenizer's directory.

    Attributes:
        text: Jinja, as transformers understands it.
        names: special tokens by the names that the text may use, e.g. "eos_token".
        folder: the directory.
        strips_before: tokens that swallow the white space in front of them.
        strips_after: tokens that swallow the white space behind them.
    """

    text: str
    names: Mapping[str, str]
    folder: str
    strips_before: frozenset[str] = frozenset()
    strips_after: frozenset[str] = frozenset()


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
        chat: the directory's own prompt format, None if it has none.
    """

    engine: Engine
    bos_id: int | None
    eos_id: int
    unk_id: int | None
    pad_id: int
    vocab_size: int
    special_texts: tuple[str, ...]
    added: Mapping[str, int] = field(default_factory=dict)
    chat: ChatSource | None = None
    _runs: dict[str, Run] = field(default_factory=dict, init=False, repr=False, compare=False)

    def id_of(self, text: str) -> int | None:
        """Return the id of a special or added token by its text; None if there is none."""
        if text in self.added:
            return self.added[text]
        return self.engine.id_of(text) if text in self.special_texts else None

    def must_be_told(self, text: str) -> bool:
        """Say whether a text is one token which `encode_run` would not make of it."""
        return text not in self.engine.scanned and self.id_of(text) is not None

    def end_ids(self, stop: Sequence[str]) -> frozenset[int]:
        """Return the ids that end an answer: the end token, and stop strings that are a token."""
        ids = {self.eos_id, *map(self.id_of, stop)}
        return frozenset(i for i in ids if i is not None)

    def silent_ids(self, *, num_rows: int, stop: Sequence[str]) -> frozenset[int]:
        """Return the ids that no answer consists of.

        Args:
            num_rows: of the decoder's embedding, which may have more than there are tokens.
            stop: the template's stop strings.

        Returns:
            Rows without a token, and special tokens that were added behind the words, among them
            those for media; what ends an answer is not among them.
        """
        wordless = {*range(self.engine.size, num_rows), *self.engine.silent_ids}
        return frozenset(i for i in wordless if i < num_rows) - self.end_ids(stop)

    def encode_run(self, text: str) -> Run:
        """Encode one run of text; no special token is added or recognised.

        Args:
            text: any text; a vocabulary with a dummy prefix puts one in front of each run.

        Returns:
            The ids and their character spans, to be read only; both empty for an empty text.
        """
        if not text:
            return Run([], [])
        run = self._runs.get(text)
        if run is None:
            run = self.engine.encode(text)
            if len(text) <= MAX_KEPT_CHARACTERS:
                if len(self._runs) >= MAX_KEPT_RUNS:
                    self._runs.clear()
                self._runs[text] = run
        return run

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
    added = {**engine.scanned, **_added_tokens(folder)}
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
    texts = {*named.values(), *added, "<s>", "</s>", "<unk>"}
    return Tokenizer(
        engine=engine,
        bos_id=id_of("bos_token", "<s>"),
        eos_id=eos_id,
        unk_id=unk_id,
        pad_id=pad_id,
        vocab_size=max([engine.size, *(i + 1 for i in added.values())]),
        special_texts=tuple(sorted(text for text in texts if _is_mark(text))),
        added=added,
        chat=_chat_source(folder, named),
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


def _added_tokens(folder: Path) -> dict[str, int]:
    """Collect the tokens added after the vocabulary was made, id by text."""
    config = read_json(folder / "tokenizer_config.json")
    decoder = config.get("added_tokens_decoder", {})
    added = {str(entry["content"]): int(i) for i, entry in decoder.items()}
    listed = read_json(folder / "added_tokens.json")
    return added | {token: int(i) for token, i in listed.items()}


def _named_tokens(folder: Path) -> dict[str, str]:
    """Collect which token plays which role; the tokenizer's own config speaks last."""
    named: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        for role, value in read_json(folder / file).items():
            text = value.get("content") if isinstance(value, dict) else value
            if role.endswith("_token") and isinstance(text, str) and text:
                named[role] = text
    return named


def _chat_source(folder: Path, named: Mapping[str, str]) -> ChatSource | None:
    """Find the chat template: a file of its own, or an entry of a config; None without one."""
    config = read_json(folder / "tokenizer_config.json")
    file = folder / CHAT_FILE
    text: Any = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    text = text or read_json(folder / "chat_template.json").get("chat_template")
    if isinstance(text, list):
        # Several under names, as tokenizers for tools and retrieval have them.
        text = {entry["name"]: entry["template"] for entry in text}.get("default")
    if not isinstance(text, str):
        return None
    tokens = config.get("added_tokens_decoder", {}).values()
    return ChatSource(
        text,
        names=dict(named),
        folder=str(folder),
        strips_before=frozenset(str(t["content"]) for t in tokens if t.get("lstrip")),
        strips_after=frozenset(str(t["content"]) for t in tokens if t.get("rstrip")),
    )
