"""What a file is that is not media, told by how it begins, so that a refusal can name it."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Mapping
from pathlib import Path

from video_llama.common.errors import MediaError
from video_llama.processors.containers import SUPPORTED_FORMATS
from video_llama.processors.media_file import MediaFile
from video_llama.processors.pictures import is_folder

HEAD_BYTES = 4096

SIGNATURES: Mapping[bytes, str] = {
    b"%PDF-": "a PDF document",
    b"PK\x03\x04": "a ZIP archive, or a document that is one (docx, xlsx, pptx)",
    b"PK\x05\x06": "an empty ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old Office document",
    b"{\\rtf": "an RTF document",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"\xca\xfe\xba\xbe": "a program",
    b"\xcf\xfa\xed\xfe": "a program",
    b"SQLite format 3\x00": "a database",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF\r\n": "an HDF5 file",
    b"\x80\x02": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"MThd": "a MIDI file, which is notes and no sound",
    b"8BPS": "a Photoshop file",
    b"%!PS": "a PostScript file",
    b"wOFF": "a font",
    b"wOF2": "a font",
}
"""Of formats that people hand over by mistake; none of them is the beginning of one we read."""

TEXTS: Mapping[str, str] = {
    "<!doctype html": "a web page",
    "<html": "a web page",
    "<svg": "an SVG drawing, which is text",
    "<?xml": "an XML file",
    "#extm3u": "a playlist, which is text",
    "{": "text, perhaps JSON",
    "[": "text, perhaps JSON",
}
"""How texts begin, in small letters."""

HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1"})

MEDIA = (*(f"P{i}" for i in range(1, 7)), "GIF8", "RIFF", "OggS", "fLaC", "#!AMR")
"""Beginnings of media that look like text as long as little follows; P: portable pictures."""


def refuse_foreign(media: MediaFile) -> None:
    """Refuse a file that is clearly no media.

    Args:
        media: the file, or the content of one; folders pass.

    Raises:
        MediaError: what it is, and what is supported; or it cannot be read.
    """
    if is_folder(media.source):
        return
    head = head_of(media)
    if not head:
        raise MediaError("the file is empty (0 bytes)", path=media.name)
    found = foreign_name(head)
    if found is not None:
        raise MediaError(f"this is {found}; supported are {SUPPORTED_FORMATS}", path=media.name)


def head_of(media: MediaFile) -> bytes:
    """Return the first bytes of a file."""
    content = media.content
    if isinstance(content, bytes):
        return content[:HEAD_BYTES]
    try:
        with Path(content).open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror})", path=media.name) from error


def foreign_name(head: bytes) -> str | None:
    """Say what a file that begins so is, None if it may be media.

    Args:
        head: its first bytes.
    """
    for signature, name in SIGNATURES.items():
        if head.startswith(signature):
            return name
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[4:8] == b"ftyp" and _is_heic(head):
        # FFmpeg would give one of the tiles it is made of.
        return "a HEIC picture; save it as JPEG"
    text = _text(head)
    if text is None or text.startswith(MEDIA):
        return None
    begin = text.lstrip("\ufeff \t\r\n").lower()
    return next((name for key, name in TEXTS.items() if begin.startswith(key)), "text")


def _is_heic(head: bytes) -> bool:
    """Whether a file of MP4's family is a picture of Apple's kind; AVIF is another one."""
    size = int.from_bytes(head[:4], "big")
    brands = {head[at : at + 4] for at in range(8, min(size, 128), 4)}
    return head[8:12] in HEIC_BRANDS and not brands & {b"avif", b"avis"}


def _text(head: bytes) -> str | None:
    """Return the beginning of a text, None if it is none."""
    # Of text in two bytes a character, which sounds may seem to be, every other one is zero.
    is_wide = head[:2] in (b"\xff\xfe", b"\xfe\xff") and head.count(0) > len(head) // 3
    # The last character may be cut in two.
    decoder = getincrementaldecoder("utf-16" if is_wide else "utf-8")()
    try:
        text = decoder.decode(head, final=len(head) < HEAD_BYTES)
    except UnicodeDecodeError:
        return None
    return None if any(c < " " and c not in "\t\r\n\f\v\x1b" for c in text) else text
