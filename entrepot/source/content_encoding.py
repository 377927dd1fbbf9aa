"""Bodies that were compressed on the way although no coding was accepted.

Every request has ``Accept-Encoding: identity``. A ``Content-Encoding`` header is of little help:
storage often sets it on a layer that is a gzip file and is sent as it was stored, while a proxy or
CDN that compresses what passes sets the same header. So the header only says that two readings are
possible, as the bytes came and decoded, and the digest says which of them is right.

The standard library decodes gzip and deflate (RFC 9110, section 8.4.1). No request asked for other
codings, and a body with their label may still be right as it came.
"""

from __future__ import annotations

import asyncio
import codecs
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping

DECODED = frozenset({"gzip", "x-gzip", "deflate"})
"""Codings that can be removed."""

MAX_PIECE = 256 * 1024
"""Bytes of one decoded piece at most: what is small when compressed may be large."""

PEEK_SIZE = 64 * 1024
"""Compressed bytes that are read before it is decided how a body is read."""

TAR_HEADER = 512
"""Decoded bytes that are checked: the first header of a tar archive."""

_GZIP = b"\x1f\x8b\x08"
_TAR_AT = 257


class NotDecodable(ValueError):
    """Bytes are not of the coding that their label names, or end within it."""


def coding_of(headers: Mapping[str, str]) -> str | None:
    """The outermost coding that a body is labelled with; None without one.

    It is in lower case and cut to 32 characters.
    """
    codings = [
        coding.strip().lower() for coding in headers.get("content-encoding", "")[:256].split(",")
    ]
    return next(
        (coding[:32] for coding in reversed(codings) if coding not in {"", "identity"}), None
    )


class Decoder:
    """Removes one coding, piece by piece; *coding* is one of `DECODED`."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._inflate: zlib._Decompress | None = None
        self._first = b""
        self._has_ended = False

    def feed(self, content: bytes) -> Iterator[bytes]:
        """The decoded pieces of the next bytes, decoded while they are iterated over.

        Raises `NotDecodable`.
        """
        while True:
            if self._inflate is None:
                content, self._first = self._first + content, b""
                if self._has_ended and not content.strip(b"\0"):
                    return  # padding, or the end
                if len(content) < 2:
                    self._first = content
                    return
                self._inflate = zlib.decompressobj(self._window_bits(content))
            try:
                piece = self._inflate.decompress(content, MAX_PIECE)
            except zlib.error as error:
                raise NotDecodable(str(error)) from None
            content = self._inflate.unconsumed_tail
            if piece:
                yield piece
            if self._inflate.eof:
                # A gzip file may have several members (RFC 1952, section 2.2).
                content = self._inflate.unused_data
                self._inflate = None
                self._has_ended = True
            elif not content and len(piece) < MAX_PIECE:
                return

    def _window_bits(self, content: bytes) -> int:
        if self._coding != "deflate":
            return 16 + zlib.MAX_WBITS
        # With the header of zlib, as it should be, or without, as some send it.
        return (
            zlib.MAX_WBITS
            if content[0] & 0x0F == 8 and int.from_bytes(content[:2], "big") % 31 == 0
            else -zlib.MAX_WBITS
        )

    def close(self) -> None:
        """Raise `NotDecodable` when the compressed bytes ended too early."""
        if self._inflate is not None or self._first or not self._has_ended:
            raise NotDecodable("it ends too early")


def is_json(content: bytes) -> bool:
    """Whether a document begins as the JSON of a registry: with an object or a list.

    White space or a byte order mark may come before.
    """
    return content[:100].removeprefix(codecs.BOM_UTF8).lstrip()[:1] in {b"{", b"["}


def document_coding(content: bytes, coding: str | None) -> str | None:
    """The real coding of a document labelled with *coding*; None where it has none.

    A document with the first bytes of a gzip file is one without a label too: no JSON begins so.
    """
    if content.startswith(_GZIP):
        return "gzip"
    return coding if coding == "deflate" and not is_json(content) else None


def decode_document(content: bytes, coding: str | None, limit: int) -> bytes | None:
    """A document without the *coding* that `document_coding` names, or as it came.

    None when it is larger than *limit* bytes.
    """
    if coding is None:
        return content
    decoder = Decoder(coding)
    pieces: list[bytes] = []
    size = 0
    try:
        for piece in decoder.feed(content):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                return None
        decoder.close()
    except NotDecodable:
        return content
    return b"".join(pieces)


def seems_encoded(first: bytes, coding: str, *, length: int | None, size: int | None) -> bool:
    """Whether a blob was compressed on the way, and not only labelled so.

    It begins with *first*; *length* is that of the body. Where size and length are known and equal
    it was not. Else it was if it can be decoded, unless that gives a tar archive: layers are
    compressed when they are stored, so that is a layer whose label says what it is.
    """
    if (
        coding not in DECODED
        or (length is not None and length == size)
        or (coding != "deflate" and not first.startswith(_GZIP))
    ):
        return False
    decoded = b""
    try:
        for piece in Decoder(coding).feed(first):
            decoded += piece
            if len(decoded) >= TAR_HEADER:
                break
    except NotDecodable:
        return False
    return (length is not None and size is not None) or decoded[_TAR_AT : _TAR_AT + 5] != b"ustar"


async def peek(chunks: AsyncIterator[bytes]) -> bytes:
    """The first `PEEK_SIZE` bytes of a body or somewhat more; fewer if it is shorter."""
    first = b""
    async for chunk in chunks:
        first += chunk
        if len(first) >= PEEK_SIZE:
            break
    return first


async def decode_stream(chunks: AsyncIterator[bytes], coding: str) -> AsyncGenerator[bytes, None]:
    """The bytes of a body, decoded in a thread; raises `NotDecodable`."""
    decoder = Decoder(coding)
    async for chunk in chunks:
        pieces = decoder.feed(chunk)
        while piece := await asyncio.to_thread(next, pieces, b""):
            yield piece
    decoder.close()
