"""A conversation about pictures, clips and sounds with a model that is handed in.

Files are read by the same loader and text is laid out by the same renderer as in training. An
upload is encoded once and its tokens are kept. One `Chat` is one conversation of one person;
several may share a model, but only one of them should generate at a time.
"""

from __future__ import annotations

import dataclasses
import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from video_llama.common.errors import ConfigError, MediaError
from video_llama.common.generation import GenerationSettings
from video_llama.common.types import BranchSpec, MediaItem, MediaKind, Message, Sample
from video_llama.conversation.compat import ChatCompat
from video_llama.conversation.encode import Encoded, encode
from video_llama.conversation.layouts import Template
from video_llama.conversation.stopping import AnswerStream, StopRule
from video_llama.conversation.tokenizer import Tokenizer
from video_llama.processors.media import MediaLoader, probe

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class ChatModel(Protocol):
    """What a chat asks of a model, in eval mode; nothing here keeps a graph."""

    @property
    def max_context(self) -> int:
        """Decoder positions there are, prompt and answer together."""

    def branch_specs(self) -> Mapping[str, BranchSpec]:
        """Return the branches by name; no kind of media is taken by two of them."""

    def encode_items(self, items: Sequence[MediaItem]) -> list[Tensor]:
        """Run loaded media items through the branches that take their kinds.

        Args:
            items: with `pixels` or `mel`; a short clip has fewer steps than its branch's spec.

        Returns:
            Per item float[S, H]: S decoder positions of width H.
        """

    def stream_prompt(
        self,
        *,
        input_ids: Sequence[int],
        slots: Sequence[int],
        media: Sequence[Tensor],
        settings: GenerationSettings,
        stop: StopRule,
    ) -> Iterator[int]:
        """Yield the ids of an answer one by one, until it ends or the limit is reached.

        Args:
            input_ids: int[L] of one prompt; 0 at media positions.
            slots: int[L], 0 for text, k for a token of `media[k - 1]`; fewer than it has tokens
                where the prompt was cut, then for its last ones.
            media: float[S, H] per item, as `encode_items` returned them.
            settings: length, temperature, seed.
            stop: called with row 0 and its ids after each token.

        Yields:
            Token ids; closing the iterator ends the generation.
        """


@dataclass(frozen=True)
class Upload:
    """What became of an uploaded file.

    Attributes:
        items: as the model sees and hears them, with pixels or mel and their seconds.
        specs: of the branch of each item.
        notes: what the person should know, in full sentences.
    """

    items: tuple[MediaItem, ...]
    specs: tuple[BranchSpec, ...]
    notes: tuple[str, ...] = ()


class Chat:
    """A conversation.

    Args:
        model: anything that speaks `ChatModel`.
        tokenizer: of the decoder.
        template: the prompt format the model was trained with.
        loader: reads media for the model's branches.
        settings: of answers, unless a question brings its own; by default greedy, with at most
            the published 300 tokens, or a quarter of a context that is short.
        compat: quirks to keep for released weights.
    """

    def __init__(
        self,
        model: ChatModel,
        *,
        tokenizer: Tokenizer,
        template: Template,
        loader: MediaLoader,
        settings: GenerationSettings | None = None,
        compat: ChatCompat | None = None,
    ) -> None:
        self._compat = compat or ChatCompat()
        self._max_context = min(model.max_context, self._compat.max_length or model.max_context)
        self.settings = settings or GenerationSettings(
            max_new_tokens=max(1, min(300, self._max_context // 4))
        )
        self._model = model
        self._tokenizer = tokenizer
        self.template = template
        self._loader = loader
        self._branches = {
            kind: spec for spec in model.branch_specs().values() for kind in spec.media
        }
        self._tokens: dict[tuple[str, str], Tensor] = {}
        self._stopped = threading.Event()
        self.reset()

    @property
    def history(self) -> tuple[Message, ...]:
        """All turns so far; media stand where they were uploaded, without their pixels."""
        return tuple(self._messages)

    def another(self) -> Chat:
        """Return a fresh conversation with the same model, for another person."""
        return Chat(
            self._model,
            tokenizer=self._tokenizer,
            template=self.template,
            loader=self._loader,
            settings=self.settings,
            compat=self._compat,
        )

    def reset(self) -> None:
        """Forget the conversation and its media."""
        self.stop()
        self._messages: list[Message] = []
        self._uploads: list[MediaItem] = []
        self._notes: list[str] = []
        self._num_dropped = 0
        self._tokens.clear()

    def stop(self) -> None:
        """End the answer being generated after the next token; may be called from any thread."""
        self._stopped.set()

    def take_notes(self) -> list[str]:
        """Return what the person should be told since the last call, e.g. forgotten turns."""
        notes, self._notes = self._notes, []
        return notes

    def upload(self, source: str | Path | bytes | Image) -> Upload:
        """Show the model a file; it belongs to the next question.

        What it is, is decided by its content. A video with sound is seen and heard if the model
        has a branch for each, otherwise the missing half is named in the notes.

        Args:
            source: a file, the content of one, or a PIL image.

        Raises:
            MediaError: it cannot be read, or the model takes nothing that is in it.
        """
        data = _content(source)
        path = "upload" if data is not None else str(source)
        kinds, notes = self._kinds_in(path if data is None else data, path=path)
        items: list[MediaItem] = []
        for kind in kinds:
            try:
                items.append(
                    self._loader.load(MediaItem(kind, path), branch=self._branches[kind], data=data)
                )
            except MediaError as error:
                # A broken track must not hide the pictures, but it is said.
                if kind != "audio" or not items:
                    raise
                notes.append(f"Left out: its sound ({error.reason}).")
        self._encode_new(items)
        self._uploads += [dataclasses.replace(item, pixels=None, mel=None) for item in items]
        specs = tuple(self._branches[item.kind] for item in items)
        return Upload(items=tuple(items), specs=specs, notes=tuple(notes))

    def ask(self, question: str, *, settings: GenerationSettings | None = None) -> str:
        """Ask and wait for the whole answer; see `stream`."""
        return "".join(self.stream(question, settings=settings))

    def stream(self, question: str, *, settings: GenerationSettings | None = None) -> Iterator[str]:
        """Ask and return the answer's pieces as they are generated.

        The question joins the files uploaded since the last one. If the conversation no longer
        fits the decoder, whole old rounds are left out (their media stay), and a note says so.

        Args:
            question: any text; template marks in it are made harmless.
            settings: for this answer only.

        Raises:
            ConfigError: the question is empty, or no room is left for an answer.
            ContextOverflow: the media and this question alone do not fit.
        """
        question = question.strip()
        if not question:
            raise ConfigError("the question is empty; type one, or upload a file first")
        settings = settings or self.settings
        asked = Message("user", [*self._uploads, question])
        prompt = self._prompt([*self._messages, asked], settings=settings)
        self._stopped.clear()
        return self._answer(asked, prompt, settings)

    def _answer(
        self, asked: Message, prompt: Encoded, settings: GenerationSettings
    ) -> Iterator[str]:
        """Generate; the turn enters the history with what was said until the end or a stop."""
        answer = AnswerStream(tokenizer=self._tokenizer, stop=self.template.stop)
        messages = self._messages  # `reset` starts another list, which this turn must not enter
        said: str | None = None
        ids = self._model.stream_prompt(
            input_ids=prompt.input_ids,
            slots=prompt.slots,
            media=[self._tokens[_key(item)] for turn in [*messages, asked] for item in turn.media],
            settings=settings,
            stop=StopRule(self._tokenizer, self.template.stop),
        )
        try:
            for token_id in ids:
                piece = answer.push(token_id)
                said = (said or "") + piece
                if piece:
                    yield piece
                if answer.finished or self._stopped.is_set():
                    break
            rest = answer.close()
            said = (said or "") + rest
            if rest:
                yield rest
        finally:
            # Also reached when the listener goes away in the middle of an answer.
            if said is not None:
                messages += [asked, Message("assistant", [said])]
                if messages is self._messages:
                    self._uploads = []

    def _prompt(self, messages: list[Message], *, settings: GenerationSettings) -> Encoded:
        """Lay the conversation out and note what had to be left out."""
        room = self._max_context - settings.max_new_tokens
        if room < 1:
            raise ConfigError(
                f"max_new_tokens is {settings.max_new_tokens}, but the decoder's context holds "
                f"{self._max_context} positions in all; lower it"
            )
        sample = Sample("conversation", messages, form="chat")
        encoded = encode(
            sample,
            template=self.template,
            tokenizer=self._tokenizer,
            num_slots=[len(self._tokens[_key(item)]) for item in sample.media],
            max_len=room,
            generation_prompt=True,
            overflow=self._compat.overflow,
        )
        if encoded.dropped_rounds > self._num_dropped:
            self._notes.append(
                f"The conversation no longer fits the model's {self._max_context} "
                f"positions: its first {encoded.dropped_rounds} question(s) are forgotten."
            )
        self._num_dropped = encoded.dropped_rounds
        return encoded

    def _kinds_in(self, source: str | bytes, *, path: str) -> tuple[list[MediaKind], list[str]]:
        """Say which kinds of items a file gives this model, pictures first, and what is lost."""
        info = probe(source)
        present: list[MediaKind] = [info.kind]
        if info.kind == "video" and info.has_audio:
            present.append("audio")
        taken = [kind for kind in present if kind in self._branches]
        if not taken:
            takes = ", ".join(sorted(self._branches)) or "no media at all"
            raise MediaError(
                f"this is {' with '.join(present)}; the model takes {takes}", path=path
            )
        words = {"image": "picture", "video": "moving pictures", "audio": "sound"}
        notes = [
            f"Left out: its {words[kind]}, the model has no branch for {kind}."
            for kind in present
            if kind not in taken
        ]
        return taken, notes

    def _encode_new(self, items: Sequence[MediaItem]) -> None:
        """Turn items into tokens unless the very same content was uploaded before."""
        new = [item for item in items if _key(item) not in self._tokens]
        for item, tokens in zip(new, self._model.encode_items(new) if new else [], strict=True):
            self._tokens[_key(item)] = tokens


def _content(source: str | Path | bytes | Image) -> bytes | None:
    """Return the bytes of what is not a file."""
    if isinstance(source, bytes):
        return source
    if isinstance(source, str | Path):
        return None
    buffer = io.BytesIO()
    source.save(buffer, format="PNG")
    return buffer.getvalue()


def _key(item: MediaItem) -> tuple[str, str]:
    """Identity of an item's tokens within one model."""
    return item.kind, item.content_hash or item.path
