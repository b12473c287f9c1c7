"""From what a person hands in to the tokens of an upload."""

from __future__ import annotations

import io
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from video_llama.common.errors import ConfigError, ContextOverflow, MediaError
from video_llama.common.types import BranchSpec, MediaItem
from video_llama.conversation.chat_model import ChatModel
from video_llama.conversation.rounds import Conversation, Upload, keys_in
from video_llama.conversation.shared import MediaTokens
from video_llama.processors.uploads import ReadUpload, UploadRequest

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

IN_MEMORY = "upload"
"""What content without a file is called."""


def content_of(source: bytes | bytearray | Image) -> bytes:
    """Return the content of what is not a file; a picture becomes a PNG.

    Raises:
        ConfigError: it is something else.
        MediaError: the picture was opened from a file that is damaged.
    """
    from PIL import Image

    if isinstance(source, bytes | bytearray):
        return bytes(source)
    if not isinstance(source, Image.Image):
        raise ConfigError(
            f"`upload` takes a path, the bytes of a file or a PIL image; this is "
            f"{type(source).__name__}"
        )
    buffer = io.BytesIO()
    # Whatever else Pillow can hold in memory, a PNG holds only these without loss.
    storable = source.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    try:
        (source if storable else source.convert("RGB")).save(buffer, format="PNG")
    except (OSError, SyntaxError, ValueError) as error:
        raise MediaError(f"a picture in memory cannot be read ({error})", path=IN_MEMORY) from error
    return buffer.getvalue()


def received(read: ReadUpload, *, request: UploadRequest) -> Upload:
    """Describe what was read."""
    keys = (token_key(item, spec=spec) for item, spec in zip(read.items, read.specs, strict=True))
    return Upload(
        items=tuple(read.items),
        specs=tuple(read.specs),
        notes=tuple(read.notes),
        name=Path(request.source).name or request.source,
        keys=tuple(keys),
        request=request,
    )


def token_key(item: MediaItem, *, spec: BranchSpec) -> str:
    """Return the identity of an item's tokens within one model: its content and how it is seen."""
    content = item.content_hash or _digest_of(item)
    seen = repr((item.kind, content, spec.name, spec.spec, item.times_s))
    return blake2b(seen.encode(), digest_size=16).hexdigest()


def check_room(upload: Upload, *, conversation: Conversation, max_context: int) -> None:
    """Refuse media that no prompt could ever hold.

    Raises:
        ContextOverflow: all media of the conversation together leave no position for a word.
    """
    needed = sum(
        spec.slots(len(item.times_s)) for item, spec in zip(upload.items, upload.specs, strict=True)
    )
    shown = [*(entry.content for entry in conversation.rounds), tuple(conversation.waiting)]
    taken = sum(len(conversation.tokens[key]) for key in keys_in(shown))
    if taken + needed >= max_context:
        raise ContextOverflow(
            f"{upload.name}: takes {needed} positions, the media shown before take {taken}, and "
            f"the decoder's context holds {max_context} in all; take fewer frames, or begin a new "
            "conversation"
        )


def encode_upload(upload: Upload, *, model: ChatModel, tokens: MediaTokens) -> dict[str, Tensor]:
    """Return the tokens of an upload's items by key; only what nobody has is encoded."""
    items = dict(zip(upload.keys, upload.items, strict=True))
    held = {key: found for key in items if (found := tokens.get(key)) is not None}
    new = [key for key in items if key not in held]
    encoded = model.encode_items([items[key] for key in new]) if new else []
    for key, fresh in zip(new, encoded, strict=True):
        tokens.put(key, fresh)
        held[key] = fresh
    return held


def _digest_of(item: MediaItem) -> str:
    """Return the identity of pixels or mel."""
    raw = item.mel if item.pixels is None else item.pixels
    assert raw is not None, f"{item.path} was not read"
    return blake2b(raw.contiguous().cpu().numpy().tobytes(), digest_size=16).hexdigest()
