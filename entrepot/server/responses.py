"""Responses of the management API: JSON documents, listings with ETag, errors."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from entrepot.engine.etags import entity_tag, matches_any
from entrepot.errors import EntrepotError, Locked
from entrepot.formatting import printable
from entrepot.httpd.asgi import Disconnected

DATA_API = "/acr/v1/"
"""Where ACR's data API is, whose errors have another shape than those of ARM."""

DELETED_HEADER = "Entrepot-Deleted"
"""Whether a DELETE deleted something: 1, or 0 when there was nothing of that name. ACR's clients
take 204 for both."""

_log = logging.getLogger("entrepot.management")


def json_response(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON document."""
    return Response(
        msgspec.json.encode(value),
        status_code=status,
        headers=headers,
        media_type="application/json",
    )


async def listing_response(
    request: Request, revision: str, load: Callable[[], Awaitable[object]]
) -> Response:
    """A listing that *load* makes, with its *revision* as ETag.

    Revisions are those of `entrepot.engine.etags`. Responds 304 without making the listing when the
    client has that revision (``If-None-Match``).
    """
    headers, is_unchanged = _revalidation(request, revision)
    if is_unchanged:
        return Response(status_code=304, headers=headers)
    return json_response(await load(), headers=headers)


async def streamed_listing_response(
    request: Request, revision: str, stream: Callable[[], AsyncGenerator[bytes]]
) -> Response:
    """The same for a listing of any length, which *stream* gives as chunks of JSON.

    A listing of one chunk is sent with its length. A failure after the second chunk breaks the
    transfer off.
    """
    headers, is_unchanged = _revalidation(request, revision)
    if is_unchanged:
        return Response(status_code=304, headers=headers)
    chunks = stream()
    first = await anext(chunks)
    second = await anext(chunks, None)
    if second is None:
        return Response(first, headers=headers, media_type="application/json")

    async def body() -> AsyncGenerator[bytes]:
        async with aclosing(chunks):
            yield first
            yield second
            async for chunk in chunks:
                yield chunk

    return StreamingResponse(body(), headers=headers, media_type="application/json")


def _revalidation(request: Request, revision: str) -> tuple[Mapping[str, str], bool]:
    """The headers of a listing of that revision, and whether the client has it."""
    etag = entity_tag(revision)
    # The cache of a browser may keep it, but must ask.
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    return headers, matches_any(etag, request.headers.get("if-none-match", ""))


async def json_array(
    pages: AsyncGenerator[Sequence[object]], *, before: bytes = b"", after: bytes = b""
) -> AsyncGenerator[bytes]:
    """The entries of *pages* as one JSON array, a chunk for each page.

    *before* and *after* are the JSON around it.
    """
    chunk, is_empty = before + b"[", True
    async with aclosing(pages):
        async for page in pages:
            if not page:
                continue
            if not is_empty:
                yield chunk
                chunk = b","
            chunk += msgspec.json.encode(page)[1:-1]
            is_empty = False
    yield chunk + b"]" + after


def deletion_response(*, was_there: bool) -> Response:
    """The answer to a DELETE: 204, also for what was not there, as in ACR."""
    return Response(status_code=204, headers={DELETED_HEADER: "1" if was_there else "0"})


def error_response(error: EntrepotError, path: str) -> Response:
    """An error with its status, in ARM's shape.

    The shape is ``{"error": {"code", "message", "target"}}``.

    Below ``/acr/v1/`` the body also has the shape of ACR's data API, which az and the SDKs read
    there: ``{"errors": [{"code", "message"}]}``. ARM's shape stays for programs that were written
    for earlier versions.
    """
    # Of a lock ACR's code is known, and is that of the data API.
    data_code = error.code if isinstance(error, Locked) else error.oci_code
    return _error_document(
        path, error.status, error.code, error.message, error.field, data_code=data_code
    )


def _error_document(
    path: str,
    status: int,
    code: str,
    message: str,
    target: str | None = None,
    *,
    data_code: str = "UNKNOWN",
    headers: Mapping[str, str] | None = None,
) -> Response:
    error = {"code": code, "message": message}
    if target is not None:
        error["target"] = target
    document: dict[str, object] = {"error": error}
    if path.startswith(DATA_API):
        entry = {"code": data_code, "message": message, "detail": {"code": code}}
        document["errors"] = [entry]
    return json_response(document, status=status, headers=headers)


def exception_handlers() -> Mapping[Any, Callable[[Request, Any], Awaitable[Response]]]:
    """How errors are answered, for Starlette."""
    return {
        EntrepotError: _answer_refusal,
        HTTPException: _answer_http_exception,
        Exception: _answer_unforeseen,
    }


async def _answer_refusal(request: Request, error: EntrepotError) -> Response:
    return error_response(error, request.scope["path"])


async def _answer_http_exception(request: Request, error: HTTPException) -> Response:
    path = request.scope["path"]
    if error.status_code == 404:
        return _error_document(
            path, 404, "NotFound", f"There is nothing at {path}.", data_code="NAME_UNKNOWN"
        )
    code = "MethodNotAllowed" if error.status_code == 405 else "BadRequest"
    return _error_document(
        path,
        error.status_code,
        code,
        f"{path}: {error.detail}.",
        data_code="UNSUPPORTED",
        headers=error.headers,
    )


async def _answer_unforeseen(request: Request, error: Exception) -> Response:
    path = request.scope["path"]
    if isinstance(error, (ClientDisconnect, Disconnected)):
        # No failure (F92, F93). Only a client whose body did not come in time is still there to
        # read this.
        return _error_document(
            path, 408, "RequestTimeout", "The body of the request did not come in time."
        )
    _log.error(
        "%s %s failed in an unforeseen way", request.method, printable(path, 200), exc_info=error
    )
    return _error_document(
        path,
        500,
        "InternalError",
        "The engine failed in a way that it did not foresee. Its log has the details.",
    )
