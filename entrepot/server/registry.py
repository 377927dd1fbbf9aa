"""``/v2/``: the pull side of the OCI distribution specification 1.1, in ASGI.

It decides which answer a request gets; `entrepot.server.registry_response` sends it. Pushes are
refused.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import msgspec

from entrepot.cache.cache import ArtifactCache
from entrepot.cache.results import (
    CachedBlob,
    ListAnswer,
    ManifestAnswer,
    ManifestDescription,
    Origin,
)
from entrepot.core.media_types import OCI_INDEX
from entrepot.core.readers import Reader
from entrepot.core.reference import Digest, Repository, Tag, parse_reference, parse_repository
from entrepot.engine.health import EngineHealth
from entrepot.engine.repositories import RepositoryService
from entrepot.engine.routing import Routing
from entrepot.engine.source_names import SourceNames
from entrepot.engine.traffic import Traffic
from entrepot.errors import (
    EngineBusy,
    EngineError,
    EntrepotError,
    LoopDetected,
    ManifestUnknown,
    PushRefused,
    RepositoryUnknown,
)
from entrepot.formatting import printable
from entrepot.httpd.accept import Accept
from entrepot.httpd.asgi import Disconnected, Receive, Scope, Send
from entrepot.httpd.ranges import (
    BlobPieces,
    ByteRange,
    MultipartBody,
    ReadBlob,
    coalesced,
    parse_ranges,
    parts_within,
)
from entrepot.httpd.sendfile import FileCutShort, spans
from entrepot.httpd.server import RETRY_AFTER
from entrepot.server.registry_response import PAGE_SIZE, Headers, RegistryResponse
from entrepot.server.requested_names import (
    RequestedNamespace,
    RequestedRepository,
    requested_namespace,
)
from entrepot.source.errors import SourceError
from entrepot.source.loop_detection import Via, came_through

WARNING_LENGTH = 500
"""Characters of a warning that says why an answer may be stale. All warnings of a response may have
4,096 bytes."""

ALWAYS_ANSWERED = ("/healthz",)
"""Paths that are answered however many requests are under way: without an answer a supervisor would
restart the engine, which does not help."""

_ADDRESS = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs|referrers)/(?P<reference>[^/]++)")
_TAGS = re.compile(r"/v2/(?P<name>.+)/tags/list")

_HEALTH = frozenset({"/healthz", "/readyz"})

_IN_ASCII = str.maketrans(
    {'"': "'", "\u2026": "...", "\u2018": "'", "\u2019": "'", "\u201c": "'", "\u201d": "'"}
)

_log = logging.getLogger("entrepot.registry")


class RegistryApp:
    """The registry that container clients use."""

    def __init__(
        self,
        *,
        cache: ArtifactCache,
        routing: Routing,
        source_names: SourceNames,
        repositories: RepositoryService,
        health: EngineHealth,
        traffic: Traffic,
        via: Via,
    ) -> None:
        """*via* recognises the requests that this engine itself sent."""
        self._cache = cache
        self._routing = routing
        self._source_names = source_names
        self._repositories = repositories
        self._health = health
        self._traffic = traffic
        self._via = via
        self._answer_tasks: set[asyncio.Task[Any]] = set()
        self._stopping = False

    def cut(self) -> None:
        """Cut every response under way because the engine stops.

        A client sees an error or a broken transfer, never a short blob.
        """
        self._stopping = True
        for task in self._answer_tasks:
            task.cancel()

    async def refuse_busy(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request while too many others are under way: 503 with ``Retry-After``."""
        busy = EngineBusy(
            "Too many requests are under way.",
            "Pull again in a few seconds.",
            retry_after=RETRY_AFTER,
        )
        await RegistryResponse(scope, receive, send).error(busy)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        The server cancels it when its client disconnects; fetches that other clients may share go
        on.
        """
        if scope["type"] != "http":
            return
        response = RegistryResponse(scope, receive, send)
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
                    "The engine failed in an unforeseen way.",
                    "Its log has the details.",
                )
            )

    async def _until_cut(self, answer: Coroutine[Any, Any, None]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._answer_tasks.add(task)
        try:
            await answer
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            task.uncancel()
            raise EngineError("The engine is stopping.", "Pull again when it runs.") from None
        finally:
            self._answer_tasks.discard(task)

    async def _answer(self, scope: Scope, response: RegistryResponse) -> None:
        path: str = scope["path"]
        via = response.headers.get(b"via")
        namespace = requested_namespace(scope) if path.startswith("/v2") else None
        if via is not None and path not in _HEALTH and self._via.leads_here(via):
            raise await self._loop(path, namespace, response)
        with came_through(via):
            await self._answer_request(scope, path, namespace, response)

    async def _loop(
        self, path: str, namespace: RequestedNamespace | None, response: RegistryResponse
    ) -> LoopDetected:
        match = _ADDRESS.fullmatch(path) or _TAGS.fullmatch(path)
        route = None
        if match is not None:
            with suppress(EntrepotError):
                requested = await self._find(match["name"], namespace, response)
                if self._cache.access.admits(requested.target, response.reader):
                    route = self._routing.route(requested.target)
        rule = "one of its cache rules" if route is None else f"its cache rule {route.rule.name}"
        error = LoopDetected(
            f"An engine is its own source through {rule}: a request of its own came back to it.",
            "Let the endpoint of the source, or the cache rule, lead to the registry itself.",
        )
        # The engine whose request came back has the same advice for its client.
        error.source_message = error.what
        return error

    async def _find(
        self, name: str, namespace: RequestedNamespace | None, response: RegistryResponse
    ) -> RequestedRepository:
        """The repository that a name means; raises `RepositoryNameInvalid`, `RepositoryUnknown`."""
        target = parse_repository(name, field="name")
        if namespace is not None:
            access, reader = self._cache.access, response.reader
            try:
                target = await self._source_names.resolve(
                    namespace.login_server,
                    target,
                    lambda rule: access.admits_rule(rule, reader),
                    lambda repository: access.admits(repository, reader),
                )
            except RepositoryUnknown as unknown:
                raise access.unknown(name, reader, unknown) from None
            response.namespace = namespace.login_server
        return RequestedRepository(name, target, namespace)

    async def _answer_request(
        self,
        scope: Scope,
        path: str,
        namespace: RequestedNamespace | None,
        response: RegistryResponse,
    ) -> None:
        if scope["method"] not in {"GET", "HEAD"}:
            raise PushRefused(
                "Entrepot is a cache: nothing can be pushed to it, and nothing deleted through the "
                "registry.",
                "Push to the source registry; to delete cached content, use the dashboard or: "
                "entrepot repository delete",
            )
        if path in {"/v2/", "/v2"}:
            await response.json(b"{}")
        elif match := _ADDRESS.fullmatch(path):
            requested = await self._find(match["name"], namespace, response)
            digest_or_tag = match["reference"]
            if match["kind"] == "manifests":
                await self._manifest(requested, digest_or_tag, response)
            elif match["kind"] == "blobs":
                await self._blob(requested.target, Digest.parse(digest_or_tag), response)
            else:
                await self._referrers(requested.target, Digest.parse(digest_or_tag), response)
        elif match := _TAGS.fullmatch(path):
            await self._tags(await self._find(match["name"], namespace, response), response)
        elif path == "/v2/_catalog":
            await self._catalog(namespace, response)
        elif path == "/healthz":
            # Any response shows that the engine is alive.
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
        self, requested: RequestedRepository, reference_text: str, response: RegistryResponse
    ) -> None:
        repository = requested.target
        reference = parse_reference(reference_text)
        accept = Accept.parse(response.headers.get(b"accept"))
        if response.head:
            description = await self._cache.describe_manifest(
                repository, reference, reader=response.reader
            )
            if isinstance(reference, Digest) or accept.accepts(description.media_type):
                headers = self._manifest_headers(
                    description.digest, description.media_type, description.size, description
                )
                await response.content(
                    b"",
                    headers,
                    etag=str(description.digest),
                    modified=self._modified(repository, reference),
                )
                return
        answer = await self._cache.manifest(repository, reference, reader=response.reader)
        answer = await self._acceptable(requested, reference, accept, answer, response.reader)
        manifest = answer.manifest
        headers = self._manifest_headers(
            manifest.digest, manifest.media_type, len(manifest.content), answer
        )
        await response.content(
            manifest.content,
            headers,
            etag=str(manifest.digest),
            modified=self._modified(repository, reference),
        )

    def _modified(self, repository: Repository, reference: Tag | Digest) -> float | None:
        """The time for ``Last-Modified``: a digest has none, it never changes."""
        if isinstance(reference, Digest):
            return None
        return self._cache.tag_modified(repository, reference)

    async def _acceptable(
        self,
        requested: RequestedRepository,
        reference: Tag | Digest,
        accept: Accept,
        answer: ManifestAnswer,
        reader: Reader,
    ) -> ManifestAnswer:
        """The manifest that the client accepts.

        A digest is answered as it is, and a client that supports no indexes gets the image for
        linux/amd64 of a tag, as from the CNCF's registry (for clients of schema 2 only).
        """
        if isinstance(reference, Digest) or accept.accepts(answer.manifest.media_type):
            return answer
        child = answer.manifest.child_for("linux/amd64") if answer.manifest.is_index else None
        if child is None or not accept.accepts(child.media_type):
            accepted = printable(", ".join(sorted(accept.media_types)), 500)
            raise ManifestUnknown(
                f"{requested}:{reference} is a {answer.manifest.media_type}, and the client "
                f"accepts only {accepted}.",
                "Use a newer client.",
            )
        return await self._cache.manifest(requested.target, child.digest, reader=reader)

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
        self,
        repository: Repository,
        digest: Digest,
        response: RegistryResponse,
        *,
        retry: bool = True,
    ) -> None:
        if response.head:
            description = await self._cache.describe_blob(
                repository, digest, reader=response.reader
            )
            headers = _blob_headers(digest, description.size, description.origin)
            await response.content(b"", headers, etag=str(digest))
            return
        requested_ranges = parse_ranges(response.headers.get(b"range"))
        blob = await self._cache.blob(
            repository, digest, reader=response.reader, asked_by=response.client
        )
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
                # It was evicted or damaged a moment ago: it is fetched again.
                await self._blob(repository, digest, response, retry=False)
            return
        # Until the first byte is here the response can still be an error with its own status.
        try:
            await blob.wait_beyond(min(answer.start, max(0, size - 1)))
        except SourceError as error:
            raise self._cache.blob_failed(repository, digest, error) from error
        if blob.size != size and retry:
            # Its source states another size than the manifest (F82): now the length of the response
            # and its range are known.
            await self._blob(repository, digest, response, retry=False)
            return
        body = answer.body(lambda start, end: blob.read(start, end, size))
        await response.stream(
            answer.status, answer.headers, body, etag=str(digest), on_sent=self._count
        )

    async def _cached_blob(
        self, blob: CachedBlob, response: RegistryResponse, answer: _BlobAnswer
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
                        on_sent=self._count,
                    )
                else:
                    body = coalesced(answer.body(lambda start, end: spans(file, start, end)))
                    await response.stream(
                        answer.status, answer.headers, body, etag=etag, on_sent=self._count
                    )
        except FileCutShort as error:
            _log.error(
                "The cached file of %s became shorter while it was sent to %s: the transfer is "
                "cut.",
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

    async def _tags(self, requested: RequestedRepository, response: RegistryResponse) -> None:
        n, last = response.page()
        answer = await self._cache.tags(requested.target, n=n, last=last, reader=response.reader)
        path = f"/v2/{requested.name}/tags/list"
        headers = [
            *_origin_headers(answer),
            *_next_page(path, n, answer.listing.next_last, requested.link_query),
        ]
        await response.json(requested.tag_list(answer.listing.body), headers)

    async def _catalog(
        self, namespace: RequestedNamespace | None, response: RegistryResponse
    ) -> None:
        n, last = response.page()
        limit = PAGE_SIZE if n is None else n
        names: Sequence[str] = ()
        access, reader = self._cache.access, response.reader
        access.check_reads_something(reader)
        if namespace is not None:
            response.namespace = namespace.login_server
        if limit and namespace is not None:
            names = await self._source_names.cached(
                namespace.login_server,
                after=last,
                limit=limit + 1,
                may_read=lambda rule: access.admits_rule(rule, reader),
                admits=lambda repository: access.admits(repository, reader),
            )
        elif limit:
            names = await access.readable(
                reader, self._repositories.names, after=last, limit=limit + 1
            )
        page = names[:limit]
        next_last = page[-1] if len(page) < len(names) else None
        link_query = namespace.link_query if namespace is not None else {}
        await response.json(
            msgspec.json.encode({"repositories": page}),
            _next_page("/v2/_catalog", n, next_last, link_query),
        )

    async def _referrers(
        self, repository: Repository, digest: Digest, response: RegistryResponse
    ) -> None:
        artifact_type = response.query.get("artifactType", [None])[0]
        if artifact_type is not None:
            # A "+" that was not quoted: no media type has a blank, and its empty list would be
            # wrong.
            artifact_type = artifact_type.replace(" ", "+")
        answer = await self._cache.referrers(
            repository, digest, artifact_type, reader=response.reader
        )
        headers = [(b"content-type", OCI_INDEX.encode()), *_origin_headers(answer)]
        if answer.listing.filtered:
            headers.append((b"oci-filters-applied", b"artifactType"))
        await response.json(answer.listing.body, headers)


class _BlobAnswer:
    """Status, headers and body of a response with a blob, or *parts* of it."""

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
        """The body, from the bytes of the blob that *read* returns."""
        return read(self.start, self.end) if self.multipart is None else self.multipart.pieces(read)


def _origin_headers(answer: ManifestAnswer | ManifestDescription | ListAnswer) -> Headers:
    """Headers that say where an answer came from, and why it may be stale."""
    headers: Headers = [(b"entrepot-origin", answer.origin.value.encode())]
    if answer.warning is not None:
        headers.append((b"warning", _warning(answer.warning)))
    return headers


def _warning(text: str) -> bytes:
    """The value of a Warning header (OCI distribution specification 1.1, "Warnings").

    It says ``299 -`` and has no date. The text is ASCII, because clients disagree on everything
    else, and has no quotation mark: regctl would read only what stands before the first.
    """
    line = printable(text, WARNING_LENGTH).translate(_IN_ASCII).encode("ascii", "replace").decode()
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


def _next_page(
    path: str, n: int | None, last: str | None, link_query: Mapping[str, str]
) -> Headers:
    if last is None:
        return []
    query = urlencode({"n": n or PAGE_SIZE, "last": last, **link_query})
    return [(b"link", f'<{path}?{query}>; rel="next"'.encode("latin-1"))]
