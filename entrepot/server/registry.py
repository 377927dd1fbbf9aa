"""``/v2/``: the pull side of the OCI distribution specification 1.1, as a plain ASGI application.

Bytes that are in a file leave through the server's ``http.response.zerocopysend`` where it has it,
and so never come through Python. Nothing can be pushed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlencode

import msgspec

from entrepot import __version__
from entrepot.cache.cache import ArtifactCache
from entrepot.cache.results import (
    CachedBlob,
    ListAnswer,
    ManifestAnswer,
    ManifestDescription,
    Origin,
)
from entrepot.causes import CauseCode, at_fault
from entrepot.core.media_types import OCI_INDEX
from entrepot.core.reference import Digest, Repository, Tag, parse_reference, parse_repository
from entrepot.engine.health import EngineHealth
from entrepot.engine.repositories import RepositoryService
from entrepot.engine.routing import Routing
from entrepot.engine.traffic import Traffic
from entrepot.errors import (
    EngineBusy,
    EngineError,
    EntrepotError,
    LoopDetected,
    ManifestUnknown,
    PushRefused,
    RangeUnsatisfiable,
    RepositoryUnknown,
)
from entrepot.formatting import printable
from entrepot.httpd.accept import Accept
from entrepot.httpd.asgi import ON_SENT_KEY, REASON_KEY, Disconnected, Receive, Scope, Send
from entrepot.httpd.ranges import (
    BlobPieces,
    ByteRange,
    MultipartBody,
    ReadBlob,
    coalesced,
    parse_ranges,
    parts_within,
)
from entrepot.httpd.sendfile import FileCutShort, OpenFile, chunks, spans
from entrepot.httpd.server import RETRY_AFTER
from entrepot.server.paging import page_size
from entrepot.source.errors import (
    SourceAvoided,
    SourceBusy,
    SourceError,
    SourceRateLimited,
    SourceUnreachable,
)
from entrepot.source.loop_detection import Via, came_through

Headers = list[tuple[bytes, bytes]]

PAGE = 1000
"""Tags or repositories in a page of a listing at the most; a client that asks for more gets this
many and a link to the next page."""

UNKNOWN_WAIT = 3
"""Seconds that a client is asked to wait, at least, when a source lets us pull no more and does not
say for how long."""

LONGEST_WAIT = 24 * 3600
"""Seconds that a client is asked to wait, at most, however long the source wants."""

LEAST_SPREAD = 5
"""Seconds over which the return of clients that were sent away is spread, at least; a fifth of
their wait where that is longer."""

WARNING_LIMIT = 500
"""Characters of a warning that says why an answer may be stale. All of an answer may have 4,096
bytes."""

REASON_LIMIT = 500
"""Characters of an error in a status line. Proxies take lines of 4 kB and more."""

ALWAYS_ANSWERED = ("/healthz",)
"""What is answered however many requests are under way: a supervisor that gets no answer would
restart the engine, which helps nobody."""

_ADDRESS = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs|referrers)/(?P<reference>[^/]++)")
_TAGS = re.compile(r"/v2/(?P<name>.+)/tags/list")

_HEALTH = frozenset({"/healthz", "/readyz"})

_IN_ASCII = str.maketrans(
    {'"': "'", "\u2026": "...", "\u2018": "'", "\u2019": "'", "\u201c": "'", "\u201d": "'"}
)

_OF_CONTENT = frozenset({b"content-length", b"content-type", b"content-range"})
"""Headers that a 304 does not have, because it has no content (RFC 9110, 15.4.5)."""

_log = logging.getLogger("entrepot.registry")


class RegistryApp:
    """The registry that container clients see."""

    def __init__(
        self,
        *,
        cache: ArtifactCache,
        routing: Routing,
        repositories: RepositoryService,
        health: EngineHealth,
        traffic: Traffic,
        via: Via,
    ) -> None:
        """*via* knows the requests that this engine itself sent."""
        self._cache = cache
        self._routing = routing
        self._repositories = repositories
        self._health = health
        self._traffic = traffic
        self._via = via
        self._answering: set[asyncio.Task[Any]] = set()
        self._ending = False

    def cut(self) -> None:
        """Break off every answer under way because the engine ends: a client sees an error or a
        broken transfer, never a short blob."""
        self._ending = True
        for each in self._answering:
            each.cancel()

    async def refuse_busy(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request while too many others are under way: 503 with ``Retry-After``."""
        busy = EngineBusy(
            "Too many requests are under way.",
            "Pull again in a few seconds.",
            retry_after=RETRY_AFTER,
        )
        await _Response(scope, receive, send).error(busy)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. The server cancels it when its client leaves, whatever it waits for:
        fetches that others may share go on."""
        if scope["type"] != "http":
            return
        response = _Response(scope, receive, send)
        try:
            await self._until_cut(self._answer(scope, response))
        except EntrepotError as error:
            if response.started:
                # The promised length can't be kept. Raising makes the server cut the connection:
                # the client sees a broken transfer and not a short blob.
                raise
            await response.error(error)
        except Disconnected:
            raise
        except Exception:
            _log.exception(
                "%s %s failed in an unforeseen way", scope["method"], printable(scope["path"], 200)
            )
            if response.started:
                raise
            await response.error(
                EntrepotError(
                    "The engine failed in a way that it did not foresee.",
                    "Its log has the details.",
                )
            )

    async def _until_cut(self, answer: Coroutine[Any, Any, None]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        try:
            await answer
        except asyncio.CancelledError:
            if not self._ending:
                raise
            task.uncancel()
            raise EngineError("The engine is stopping.", "Pull again when it runs.") from None
        finally:
            self._answering.discard(task)

    async def _answer(self, scope: Scope, response: _Response) -> None:
        path: str = scope["path"]
        via = response.headers.get(b"via")
        if via is not None and path not in _HEALTH and self._via.leads_here(via):
            raise self._loop(path)
        with came_through(via):
            await self._answer_here(scope, path, response)

    def _loop(self, path: str) -> LoopDetected:
        match = _ADDRESS.fullmatch(path) or _TAGS.fullmatch(path)
        route = self._routing.route(match["name"]) if match is not None else None
        rule = "one of its cache rules" if route is None else f"its cache rule {route.rule.name}"
        error = LoopDetected(
            f"An engine is its own source through {rule}: a request of its own came back to it.",
            "Let the endpoint of the source, or the cache rule, lead to the registry itself.",
        )
        # Whose request came back has the same advice for its client.
        error.source_message = error.what
        return error

    async def _answer_here(self, scope: Scope, path: str, response: _Response) -> None:
        if scope["method"] not in {"GET", "HEAD"}:
            raise PushRefused(
                "Entrepot is a cache: nothing can be pushed to it, and nothing deleted through the registry.",
                "Push to the source registry; to delete what is cached, use the dashboard or: entrepot repository delete",
            )
        if path in {"/v2/", "/v2"}:
            await response.json(b"{}")
        elif match := _ADDRESS.fullmatch(path):
            repository = parse_repository(match["name"], field="name")
            if match["kind"] == "manifests":
                await self._manifest(repository, match["reference"], response)
            elif match["kind"] == "blobs":
                await self._blob(repository, Digest.parse(match["reference"]), response)
            else:
                await self._referrers(repository, Digest.parse(match["reference"]), response)
        elif match := _TAGS.fullmatch(path):
            await self._tags(parse_repository(match["name"], field="name"), response)
        elif path == "/v2/_catalog":
            await self._catalog(response)
        elif path == "/healthz":
            # That it is answered is the answer.
            await response.json(b'{"status":"alive"}')
        elif path == "/readyz":
            problems = self._health.problems()
            document = {"status": "unready" if problems else "ready", "problems": problems}
            await response.json(msgspec.json.encode(document), status=503 if problems else 200)
        else:
            raise RepositoryUnknown(
                f"There is nothing at {printable(path, 200)}.",
                "The registry's addresses begin with /v2/ and a repository.",
            )

    async def _manifest(
        self, repository: Repository, reference_text: str, response: _Response
    ) -> None:
        reference = parse_reference(reference_text)
        accept = Accept.parse(response.headers.get(b"accept"))
        if response.head:
            described = await self._cache.describe_manifest(repository, reference)
            if isinstance(reference, Digest) or accept.accepts(described.media_type):
                await response.empty(
                    200,
                    self._manifest_headers(
                        described.digest, described.media_type, described.size, described
                    ),
                )
                return
        answer = await self._cache.manifest(repository, reference)
        answer = await self._acceptable(repository, reference, accept, answer)
        manifest = answer.manifest
        headers = self._manifest_headers(
            manifest.digest, manifest.media_type, len(manifest.content), answer
        )
        await response.content(manifest.content, headers, etag=str(manifest.digest))

    async def _acceptable(
        self,
        repository: Repository,
        reference: Tag | Digest,
        accept: Accept,
        answer: ManifestAnswer,
    ) -> ManifestAnswer:
        """What the client accepts: a digest is answered as it is, and a client that knows no
        indexes gets the image for linux/amd64 of a tag.

        The latter is what the CNCF's registry does for clients of schema 2 only.
        """
        if isinstance(reference, Digest) or accept.accepts(answer.manifest.media_type):
            return answer
        child = answer.manifest.child_for("linux/amd64") if answer.manifest.is_index else None
        if child is None or not accept.accepts(child.media_type):
            wanted = printable(", ".join(sorted(accept.media_types)), 500)
            raise ManifestUnknown(
                f"{repository}:{reference} is a {answer.manifest.media_type}, and the client accepts only {wanted}.",
                "Use a newer client.",
            )
        return await self._cache.manifest(repository, child.digest)

    def _manifest_headers(
        self,
        digest: Digest,
        media_type: str,
        size: int,
        answer: ManifestAnswer | ManifestDescription,
    ) -> Headers:
        headers: Headers = [
            (b"content-type", media_type.encode()),
            (b"content-length", str(size).encode()),
            (b"docker-content-digest", str(digest).encode()),
            (b"etag", f'"{digest}"'.encode()),
            *_origin_headers(answer),
        ]
        return headers

    async def _blob(
        self, repository: Repository, digest: Digest, response: _Response, *, retry: bool = True
    ) -> None:
        if response.head:
            described = await self._cache.describe_blob(repository, digest)
            await response.empty(200, _blob_headers(digest, described.size, described.origin))
            return
        requested_ranges = parse_ranges(response.headers.get(b"range"))
        blob = await self._cache.blob(repository, digest, asked_by=response.client)
        size = blob.size
        parts = parts_within(requested_ranges, size) if response.range_applies(str(digest)) else ()
        origin = Origin.CACHE if isinstance(blob, CachedBlob) else Origin.UPSTREAM
        answer = _BlobAnswer(digest, size, origin, parts)
        if isinstance(blob, CachedBlob):
            try:
                await self._cached_blob(blob, response, answer)
            except FileNotFoundError:
                if not retry:
                    raise EngineError(
                        f"The cached copy of {digest} was removed a moment ago.",
                        "Pull again: it is fetched from its source.",
                    ) from None
                # It was evicted or damaged a moment ago: now it is fetched.
                await self._blob(repository, digest, response, retry=False)
            return
        # Until the first byte is here the answer can still be an error with a status of its own.
        try:
            await blob.wait_beyond(min(answer.start, max(0, size - 1)))
        except SourceError as error:
            raise self._cache.blob_failed(repository, error) from error
        if blob.size != size and retry:
            # Its source states another size than the manifest (F82): now the length of the answer
            # and its range are known.
            await self._blob(repository, digest, response, retry=False)
            return
        body = answer.body(lambda start, end: blob.read(start, end, size))
        await response.stream(
            answer.status, answer.headers, body, etag=str(digest), sent=self._count
        )

    async def _cached_blob(
        self, blob: CachedBlob, response: _Response, answer: _BlobAnswer
    ) -> None:
        etag = str(blob.digest)
        if answer.is_whole:
            blob.record_request(response.client)
        try:
            async with blob.open() as file:
                if answer.multipart is None:
                    await response.file(
                        answer.status,
                        answer.headers,
                        file,
                        answer.start,
                        answer.end,
                        etag=etag,
                        sent=self._count,
                    )
                else:
                    body = coalesced(answer.body(lambda start, end: spans(file, start, end)))
                    await response.stream(
                        answer.status, answer.headers, body, etag=etag, sent=self._count
                    )
        except FileCutShort as error:
            _log.error(
                "The cached file of %s became shorter while it was sent to %s: the transfer is cut.",
                blob.digest,
                response.client,
            )
            raise error.with_traceback(None) from None
        except (FileNotFoundError, ConnectionError):
            raise
        except OSError as error:
            _log.error(
                "The cached file of %s can't be read (%s): the transfer to %s is cut.",
                blob.digest,
                error.strerror,
                response.client,
            )
            blob.check_in_background()
            raise EngineError(
                f"The cached copy of {blob.digest} can't be read: {error.strerror}.",
                "Pull again, and look at the disk.",
            ) from None
        if answer.is_whole:
            blob.record_delivery(response.client)

    def _count(self, sent: int) -> None:
        self._traffic.served(sent)

    async def _tags(self, repository: Repository, response: _Response) -> None:
        n, last = response.page()
        answer = await self._cache.tags(repository, n=n, last=last)
        headers = [
            *_origin_headers(answer),
            *_next_page(f"/v2/{repository}/tags/list", n, answer.listing.next_last),
        ]
        await response.json(answer.listing.body, headers)

    async def _catalog(self, response: _Response) -> None:
        n, last = response.page()
        if n == 0:
            await response.json(b'{"repositories":[]}')
            return
        names = [name for name in await self._repositories.names() if last is None or name > last]
        page = names[: n or PAGE]
        await response.json(
            msgspec.json.encode({"repositories": page}),
            _next_page("/v2/_catalog", n, page[-1] if len(page) < len(names) else None),
        )

    async def _referrers(self, repository: Repository, digest: Digest, response: _Response) -> None:
        artifact_type = response.query.get("artifactType", [None])[0]
        if artifact_type is not None:
            # A "+" that was not quoted: no media type has a blank, and "none of this type" would be
            # the wrong answer.
            artifact_type = artifact_type.replace(" ", "+")
        answer = await self._cache.referrers(repository, digest, artifact_type)
        headers = [(b"content-type", OCI_INDEX.encode()), *_origin_headers(answer)]
        if answer.listing.filtered:
            headers.append((b"oci-filters-applied", b"artifactType"))
        await response.json(answer.listing.body, headers)


class _BlobAnswer:
    """Status, headers and body of an answer with a blob of *size* bytes: the whole, or *parts* of
    it."""

    def __init__(
        self, digest: Digest, size: int, origin: Origin, parts: Sequence[ByteRange]
    ) -> None:
        self.is_whole = not parts
        self.status = 206 if parts else 200
        self.start, self.end = (parts[0].start, parts[0].end) if parts else (0, size)
        """The first part. Only a multipart body has more."""
        self.multipart = MultipartBody(parts, size) if len(parts) > 1 else None
        self.headers = _blob_headers(
            digest,
            self.end - self.start if self.multipart is None else self.multipart.length,
            origin,
        )
        if self.multipart is not None:
            self.headers[0] = (b"content-type", self.multipart.content_type)
        elif parts:
            self.headers.append((b"content-range", parts[0].header(size)))

    def body(self, read: ReadBlob) -> BlobPieces:
        """The body, from what *read* gives of the blob."""
        return read(self.start, self.end) if self.multipart is None else self.multipart.pieces(read)


class _Response:
    """The answer to one request. It knows whether it has begun: after that an error can only cut it
    short."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.head = scope["method"] == "HEAD"
        self.headers: Mapping[bytes, bytes] = _joined(scope["headers"])
        query = scope["query_string"]
        self.query = parse_qs(query.decode("latin-1")) if query else {}
        self.client: str | None = scope["client"][0] if scope.get("client") else None
        self._sends_files = "http.response.zerocopysend" in (scope.get("extensions") or {})
        self.started = False
        self._reason = b""

    def page(self) -> tuple[int | None, str | None]:
        """``n``, at most `PAGE`, and ``last`` of a listing's query; raises `RequestInvalid`."""
        return page_size(self.query.get("n", [None])[0], PAGE), self.query.get("last", [None])[0]

    def range_applies(self, digest: str) -> bool:
        """Whether a Range counts: not when If-Range names other content (RFC 9110, 13.1.5)."""
        condition = self.headers.get(b"if-range")
        return condition is None or condition.decode("latin-1").strip('"') == digest

    def _is_known_to_client(self, etag: str | None) -> bool:
        known = self.headers.get(b"if-none-match")
        return (
            etag is not None
            and known is not None
            and (known.strip() == b"*" or f'"{etag}"'.encode() in known)
        )

    async def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.started = True
        common = [
            (b"docker-distribution-api-version", b"registry/2.0"),
            (b"server", f"entrepot/{__version__}".encode()),
        ]
        start: dict[str, Any] = {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, *common],
        }
        if self._reason:
            start[REASON_KEY] = self._reason
        await self._send(start)

    async def empty(self, status: int, headers: Headers) -> None:
        """Headers only: the answer to a HEAD, or that nothing has changed."""
        await self._start(status, headers)
        await self._send({"type": "http.response.body", "body": b""})

    async def content(
        self, content: bytes, headers: Headers, *, etag: str | None = None, status: int = 200
    ) -> None:
        """A whole body from memory."""
        if self._is_known_to_client(etag):
            await self.empty(
                304, [(name, value) for name, value in headers if name not in _OF_CONTENT]
            )
            return
        await self._start(status, headers)
        await self._send({"type": "http.response.body", "body": b"" if self.head else content})

    async def json(
        self, content: bytes, headers: Headers | None = None, *, status: int = 200
    ) -> None:
        """A JSON document, with a content type of its own where *headers* has one."""
        headers = list(headers or ())
        if not any(name == b"content-type" for name, _ in headers):
            headers.append((b"content-type", b"application/json"))
        await self.content(
            content, [*headers, (b"content-length", str(len(content)).encode())], status=status
        )

    async def error(self, error: EntrepotError) -> None:
        """An error as an OCI client expects it: ``{"errors": [{"code", "message", "detail"}]}``."""
        detail: dict[str, str] = {"code": error.code}
        if error.cause is not None:
            detail |= {"cause": error.cause, "atFault": at_fault(CauseCode(error.cause))}
        if error.source_message:
            # For an engine whose source this one is: it quotes that and not what is built around it
            # here.
            detail["sourceMessage"] = error.source_message
        document = {
            "errors": [{"code": error.oci_code, "message": error.message, "detail": detail}]
        }
        if error.oci_status >= 500:
            # docker, podman and skopeo show no body of a 5xx, but the status line (RFC 9112,
            # section 4).
            self._reason = printable(error.message, REASON_LIMIT).encode("ascii", "replace")
        headers: Headers = []
        if isinstance(error, PushRefused):
            headers.append((b"allow", b"GET, HEAD"))
        if isinstance(error, RangeUnsatisfiable):
            headers.append((b"content-range", f"bytes */{error.size}".encode()))
        if isinstance(error, (SourceRateLimited, SourceAvoided, SourceBusy, EngineBusy)):
            headers.append((b"retry-after", str(_retry_after(error.retry_after)).encode()))
        elif isinstance(error, SourceUnreachable):
            # It is tried again after a second. An engine whose source this one is needs to hear so.
            headers.append((b"retry-after", str(_retry_after(1.0)).encode()))
        await self.json(msgspec.json.encode(document), headers, status=error.oci_status)

    async def file(
        self,
        status: int,
        headers: Headers,
        file: OpenFile,
        start: int,
        end: int,
        *,
        etag: str | None,
        sent: Callable[[int], None],
    ) -> None:
        """The bytes *start* (inclusive) to *end* (exclusive) of a file; *sent* is told each number
        of bytes."""
        if self._is_known_to_client(etag):
            await self.content(b"", headers, etag=etag)
            return
        await self._start(status, headers)
        await self._send_part(file, start, end, sent)
        await self._send({"type": "http.response.body", "body": b""})

    async def _send_part(
        self, file: OpenFile, start: int, end: int, sent: Callable[[int], None]
    ) -> None:
        if self._sends_files:
            # ON_SENT_KEY is told while the file goes out: a client may leave in the middle of it.
            await self._send(
                {
                    "type": "http.response.zerocopysend",
                    "file": file,
                    "offset": start,
                    "count": end - start,
                    "more_body": True,
                    ON_SENT_KEY: sent,
                }
            )
            return
        async for chunk in chunks(file, start, end - start):
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
            sent(len(chunk))

    async def stream(
        self,
        status: int,
        headers: Headers,
        body: BlobPieces,
        *,
        etag: str | None,
        sent: Callable[[int], None],
    ) -> None:
        """A body as it comes; *sent* is told each number of bytes. It ends early, without an error,
        when the client leaves."""
        if self._is_known_to_client(etag):
            await self.content(b"", headers, etag=etag)
            return
        await self._start(status, headers)
        sending = asyncio.ensure_future(self._send_all(body, sent))
        leaving = asyncio.ensure_future(self._left())
        try:
            # send() does not fail when the client is gone, so somebody has to listen for it.
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send_all(self, body: BlobPieces, sent: Callable[[int], None]) -> None:
        async for piece in body:
            if isinstance(piece, bytes):
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
                sent(len(piece))
            else:
                await self._send_part(piece.file, piece.offset, piece.offset + piece.count, sent)
        await self._send({"type": "http.response.body", "body": b""})

    async def _left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    # docker and containerd send one Accept header for each media type: together they are one list
    # (RFC 9110, 5.3).
    joined: dict[bytes, bytes] = {}
    for name, value in headers:
        joined[name] = joined[name] + b", " + value if name in joined else value
    return joined


def _origin_headers(answer: ManifestAnswer | ManifestDescription | ListAnswer) -> Headers:
    """Where an answer came from, and why it may be stale."""
    headers: Headers = [(b"entrepot-origin", answer.origin.value.encode())]
    if answer.warning is not None:
        headers.append((b"warning", _warning(answer.warning)))
    return headers


def _warning(text: str) -> bytes:
    """The value of a Warning header (OCI distribution specification 1.1, "Warnings").

    It says ``299 -`` and has no date. The text is ASCII, because clients disagree on everything
    else, and has no quotation mark: regctl would read only what stands before the first.
    """
    line = printable(text, WARNING_LIMIT).translate(_IN_ASCII).encode("ascii", "replace").decode()
    return b'299 - "' + line.replace("\\", "\\\\").encode() + b'"'


def _blob_headers(digest: Digest, size: int, origin: Origin) -> Headers:
    return [
        (b"content-type", b"application/octet-stream"),
        (b"content-length", str(size).encode()),
        (b"docker-content-digest", str(digest).encode()),
        (b"etag", f'"{digest}"'.encode()),
        (b"accept-ranges", b"bytes"),
        # The content of a digest never changes.
        (b"cache-control", b"max-age=31536000, immutable"),
        (b"entrepot-origin", origin.value.encode()),
    ]


def _retry_after(seconds: float | None) -> int:
    """What a client is told to wait: a little longer than the source wants, at random, so that not
    all come back at once."""
    least = UNKNOWN_WAIT if seconds is None else max(1, math.ceil(min(seconds, LONGEST_WAIT)))
    return least + random.randint(0, max(LEAST_SPREAD, least // 5))


def _next_page(path: str, n: int | None, last: str | None) -> Headers:
    if last is None:
        return []
    query = urlencode({"n": n or PAGE, "last": last})
    return [(b"link", f'<{path}?{query}>; rel="next"'.encode("latin-1"))]
