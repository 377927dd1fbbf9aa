"""Blobs of a source registry, as streams that can be resumed, and their sizes.

A blob that was compressed on the way is read as its digest says: see
`entrepot.source.content_encoding`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Protocol

from entrepot.core.reference import Digest, Repository
from entrepot.formatting import printable
from entrepot.source.content_encoding import (
    DECODED,
    NotDecodable,
    decode_stream,
    peek,
    seems_encoded,
)
from entrepot.source.decoding import parse_content_range, parse_unsatisfied_range
from entrepot.source.errors import SourceAnswerInvalid, SourceBrokeOff, SourceMisread
from entrepot.source.http import COMPRESSED_HINT, SourceResponse
from entrepot.source.registry_api import RegistryApi

MAX_MISREAD = 1000
"""Blobs of which it is remembered that the first reading of their compressed body was wrong."""

_log = logging.getLogger("entrepot.source")


class ThreadedBody(Protocol):
    """The rest of a blob's body, read in a thread, by one thread at a time."""

    def read_into(self, buffer: memoryview, before_waiting: Callable[[], None]) -> int:
        """Read 1 to ``len(buffer)`` bytes as they come; 0 at the end of the body.

        Blocks. It fills as much of *buffer* as has arrived (several TLS records), but does not
        wait to fill it. It calls *before_waiting* once before it waits longer than a few
        milliseconds for the network. Raises `SourceBrokeOff`.
        """

    def interrupt(self) -> None:
        """Let a running or later `read_into` raise `SourceBrokeOff` soon.

        Called in the thread of the event loop.
        """


class BlobStream:
    """A blob as a source sends it, to iterate over once.

    Its bytes are not decoded, and their digest is not checked. A reader may take some of them from
    *body* in a thread, and then iterate over the rest. Who closes the stream first interrupts its
    thread, and waits for it.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        *,
        offset: int,
        size: int | None,
        validator: str | None,
        body: ThreadedBody | None = None,
    ) -> None:
        self.offset = offset
        """Where in the blob the first byte of the stream belongs; 0 when the source ignored the
        requested range."""
        self.size = size
        """The size of the whole blob in bytes, if the source states it."""
        self.validator = validator
        """The entity tag to resume with; None when the source gives none that is strong."""
        self.body = body
        """The same bytes for a thread; None where they must be decoded, or their length is not
        stated."""
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks


class MisreadBlobs:
    """Blobs labelled as compressed whose first reading was wrong.

    The next reading is the other way.
    """

    def __init__(self) -> None:
        self._decoded: dict[tuple[str, Digest], bool] = {}
        """By login server and digest: whether they were wrongly decoded, or wrongly not."""

    def wrongly_decoded(self, login_server: str, digest: Digest) -> bool | None:
        """Whether the blob was wrongly decoded, or wrongly not; None: neither."""
        return self._decoded.get((login_server, digest))

    def add(self, login_server: str, digest: Digest, *, decoded: bool) -> None:
        """Remember a wrong reading."""
        self._decoded[login_server, digest] = decoded
        while len(self._decoded) > MAX_MISREAD:
            del self._decoded[next(iter(self._decoded))]

    def discard(self, login_server: str, digest: Digest) -> None:
        """Forget a blob of which both readings were wrong."""
        self._decoded.pop((login_server, digest), None)


@asynccontextmanager
async def open_blob(
    api: RegistryApi,
    misread: MisreadBlobs,
    repository: Repository,
    digest: Digest,
    *,
    offset: int = 0,
    validator: str | None = None,
    size: int | None = None,
) -> AsyncGenerator[BlobStream, None]:
    """A blob from *offset* on, as a stream.

    *validator* is that of an earlier stream of it, *size* what its manifest states, in bytes. A
    blob that was compressed on the way comes decoded, and from its first byte on.
    """
    about = api.describe(repository, digest)
    headers = {"Accept": "application/octet-stream, */*;q=0.5"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if validator is not None and not validator.startswith("W/"):
            headers["If-Range"] = validator
    accepted = {200, 206, 416} if offset else {200}
    async with api.request(
        "GET",
        f"{repository}/blobs/{digest}",
        repository,
        headers,
        about=about,
        accepted=accepted,
        for_blob=True,
    ) as response:
        if response.status != 416:
            api.refuse_page(response, about, unless=digest)
        start, stated_size = _position(api.login_server, response, offset, about)
        is_part_of_coding = (
            response.status == 206
            and response.coding is not None
            and (size is None or stated_size != size)
        )
        if not is_part_of_coding:
            if response.status == 200 and response.coding is not None:
                encoded = _EncodedBlob(api, misread, response, digest, size, about)
                async with encoded.open() as stream:
                    yield stream
                return
            # The body of a 416 is not the blob: nothing was left to come.
            async with aclosing(
                response.chunks() if response.status != 416 else _no_chunks()
            ) as chunks:
                try:
                    yield BlobStream(
                        chunks,
                        offset=start,
                        size=stated_size,
                        validator=_strong_validator(response.headers.get("etag")),
                        body=response if response.is_threaded and response.status != 416 else None,
                    )
                except SourceBrokeOff as error:
                    api.condition.record(error)
                    raise
            return
    # A part of what is compressed says nothing about a part of the blob.
    async with open_blob(api, misread, repository, digest, size=size) as stream:
        yield stream


async def blob_size(api: RegistryApi, repository: Repository, digest: Digest) -> int:
    """The size of a blob in bytes."""
    about = api.describe(repository, digest)
    path = f"{repository}/blobs/{digest}"
    # A presigned URL may be valid for GET only, and some registries support no HEAD: then a GET of
    # the first byte shows the size.
    async with api.request(
        "HEAD", path, repository, {}, about=about, accepted={200, 400, 403, 405, 501}
    ) as response:
        if response.status == 200:
            api.refuse_page(response, about, unless=digest)
            # Some registries put "Content-Length: 0" on every HEAD.
            if response.coding is None and (
                response.length or (response.length == 0 and digest.matches(b""))
            ):
                return response.length
        elif response.status == 403 and not response.redirected:
            raise await api.refusal(response, about)
    async with api.request(
        "GET", path, repository, {"Range": "bytes=0-0"}, about=about, accepted={200, 206}
    ) as response:
        api.refuse_page(response, about, unless=digest)
        content_range = parse_content_range(response.headers.get("content-range", ""))
        if response.status == 206 and content_range is not None and content_range[2] is not None:
            return content_range[2]
        if response.status == 200 and response.length is not None and response.coding is None:
            return response.length
    raise SourceAnswerInvalid(
        f"{api.login_server} does not say how large {about} is.",
        "Nothing can be done here: the fault is at the source.",
    )


def _position(
    server: str, response: SourceResponse, offset: int, about: str
) -> tuple[int, int | None]:
    """Where the body of a blob's response belongs, and the size of the whole blob."""
    stated_range = response.headers.get("content-range", "")
    if response.status == 200:
        return 0, response.length
    if response.status == 416:
        if parse_unsatisfied_range(stated_range) == offset:
            return offset, offset
        raise SourceAnswerInvalid(
            f"{server} has no byte {offset:,} of {about}.",
            "It is another blob than before, or cut short there: pull again.",
        )
    part = parse_content_range(stated_range)
    first, last, size = part if part is not None else (None, -1, None)
    if first != offset or last < offset or (size is not None and last >= size):
        raise SourceAnswerInvalid(
            f"{server} sent another part of {about} than the one from byte {offset:,} on.",
            "Nothing of it was kept; pull again.",
        )
    return offset, size


def _strong_validator(etag: str | None) -> str | None:
    """An entity tag that can be sent in If-Range (RFC 9110, section 13.1.5)."""
    if (
        etag is not None
        and etag.startswith('"')
        and len(etag) < 256
        and etag.isascii()
        and etag.isprintable()
    ):
        return etag
    return None


class _EncodedBlob:
    """A response with a whole blob that is labelled as compressed (F85).

    It is read as its digest matched the last time, else as it seems to be: as it came, or decoded.
    """

    def __init__(
        self,
        api: RegistryApi,
        misread: MisreadBlobs,
        response: SourceResponse,
        digest: Digest,
        size: int | None,
        about: str,
    ) -> None:
        self._api = api
        self._misread = misread
        self._response = response
        self._coding = response.coding or ""
        self._digest = digest
        self._size = size
        self._about = about

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[BlobStream, None]:
        """The blob from its first byte on; its digest is checked at its end."""
        wrongly_decoded = self._misread.wrongly_decoded(self._api.login_server, self._digest)
        async with aclosing(self._response.chunks()) as chunks:
            first = await peek(chunks)
            decodes = (
                not wrongly_decoded
                if wrongly_decoded is not None
                else seems_encoded(
                    first, self._coding, length=self._response.length, size=self._size
                )
            )
            body = _prepend(first, chunks)
            content = self._verified(
                decode_stream(body, self._coding) if decodes else body, decodes=decodes
            )
            # A length that is not the blob's own says nothing about its size.
            is_size_stated = not decodes and self._response.length == self._size
            try:
                async with aclosing(content):
                    yield BlobStream(
                        content,
                        offset=0,
                        size=self._size if is_size_stated else None,
                        validator=None,
                    )
            except SourceBrokeOff as error:
                self._api.condition.record(error)
                raise

    async def _verified(
        self, chunks: AsyncGenerator[bytes, None], *, decodes: bool
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of the blob; raises `SourceMisread` at their end for another digest.

        Then the other reading may be right, and is remembered for the next attempt.
        """
        hasher, received = self._digest.hasher(), 0
        # The reader bounds what comes as it is, for it may be the manifest that states a wrong
        # size.
        limit = self._size if decodes else None
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    received += len(chunk)
                    if limit is not None and received > limit:
                        break
                    await asyncio.to_thread(hasher.update, chunk)
                    yield chunk
                else:
                    if hasher.hexdigest() == self._digest.hex:
                        return
        except NotDecodable as error:
            _log.info("%s: %s", self._about, error)
        raise self._wrong_digest(decodes=decodes)

    def _wrong_digest(self, *, decodes: bool) -> SourceAnswerInvalid:
        server = self._api.login_server
        labelled = (
            f"{server} sends {self._about} labelled as compressed "
            f"({printable(self._coding, 32)}), which Entrepot did not ask for"
        )
        is_last_reading = (
            self._misread.wrongly_decoded(server, self._digest) is not None
            or self._coding not in DECODED
        )
        if is_last_reading:
            self._misread.discard(server, self._digest)
            return SourceAnswerInvalid(
                f"{labelled}, and neither what came nor what can be made of it has its digest.",
                COMPRESSED_HINT,
            )
        self._misread.add(server, self._digest, decoded=decodes)
        return SourceMisread(
            f"{labelled}, and {'decoded' if decodes else 'as it came'} it has another digest.",
            f"Pull again: it is read {'as it comes' if decodes else 'decoded'} then. "
            f"{COMPRESSED_HINT}",
        )


async def _prepend(first: bytes, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    if first:
        yield first
    async for chunk in chunks:
        yield chunk


async def _no_chunks() -> AsyncGenerator[bytes, None]:
    return
    yield b""
