"""Faults of a fake registry, and gates that hold its answers."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fakes.transport import Request


@dataclass(frozen=True, slots=True)
class Answer:
    """A response before it is sent. *headers* are those besides Content-Length and
    Transfer-Encoding."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    framing: str = "length"
    """How the end of the body shows: ``length``, ``chunked`` or ``close`` (the connection ends)."""
    sent: int | None = None
    """Bytes of the body that go out before the connection ends; None for all."""
    rudely: bool = False
    """The connection ends with a reset instead of an orderly close."""
    silent: bool = False
    """Nothing is answered and the connection ends."""
    hangs_after: int | None = None
    """Bytes of the body after which nothing more comes; -1: not even the head."""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def with_headers(self, *added: tuple[str, str], without: tuple[str, ...] = ()) -> Answer:
        removed = {name.lower() for name in without} | {name.lower() for name, _ in added}
        return replace(
            self,
            headers=(
                *((name, value) for name, value in self.headers if name.lower() not in removed),
                *added,
            ),
        )


@dataclass(frozen=True, slots=True)
class Fault:
    """A change of an answer that makes it wrong.

    *times* is the number of answers, or None for all until `FakeRegistry.clear_faults`.
    """

    times: int | None = field(default=None, kw_only=True)

    def before(self, request: Request) -> Request:
        """The request as the registry understands it."""
        return request

    def spoil(self, request: Request, answer: Answer) -> Answer:
        """The answer that it sends instead."""
        return answer


@dataclass(frozen=True, slots=True)
class Status(Fault):
    """Another status, with an OCI error body unless another one is given."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None

    def spoil(self, request: Request, answer: Answer) -> Answer:
        body = (
            self.body
            if self.body is not None
            else b'{"errors":[{"code":"UNKNOWN","message":"on command of a test"}]}'
        )
        return Answer(
            self.status, (("Content-Type", "application/json"), *self.headers.items()), body
        )


@dataclass(frozen=True, slots=True)
class DropAfter(Fault):
    """The connection is reset after a number of bytes of the body."""

    bytes: int
    times: int | None = field(default=1, kw_only=True)

    def spoil(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, sent=self.bytes, rudely=True)


@dataclass(frozen=True, slots=True)
class TruncateAt(Fault):
    """The connection is closed in an orderly way after a number of bytes of the body.

    The head had promised the whole body.
    """

    bytes: int
    times: int | None = field(default=1, kw_only=True)

    def spoil(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, sent=self.bytes)


@dataclass(frozen=True, slots=True)
class Shorten(Fault):
    """A well-formed answer with only a number of bytes of the body."""

    bytes: int

    def spoil(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, body=answer.body[: self.bytes])


@dataclass(frozen=True, slots=True)
class FlipByte(Fault):
    """One byte of the body is another; the length is right.

    *at* counts from the beginning of the body, or from its end when negative.
    """

    at: int = 0

    def spoil(self, request: Request, answer: Answer) -> Answer:
        body = bytearray(answer.body)
        body[self.at] ^= 0xFF
        return replace(answer, body=bytes(body))


@dataclass(frozen=True, slots=True)
class NoContentLength(Fault):
    """The body comes in chunks, or until the connection ends; a HEAD gets no Content-Length."""

    close: bool = False

    def spoil(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, framing="close" if self.close else "chunked")


@dataclass(frozen=True, slots=True)
class Html(Fault):
    """A web page, with status 200, as a captive portal or a web gallery sends it."""

    def spoil(self, request: Request, answer: Answer) -> Answer:
        return Answer(
            200,
            (("Content-Type", "text/html; charset=utf-8"),),
            b"<!DOCTYPE html><html><body>Welcome! Please sign in.</body></html>",
        )


@dataclass(frozen=True, slots=True)
class IgnoreRange(Fault):
    """The Range header is ignored: the whole body comes, with status 200."""

    def before(self, request: Request) -> Request:
        return replace(
            request,
            headers={name: value for name, value in request.headers.items() if name != "range"},
        )


@dataclass(frozen=True, slots=True)
class Compressed(Fault):
    """Something on the way compresses the body (``gzip``, ``deflate``) and labels it so.

    With *chunked* it states no length, as a proxy that compresses while it sends. The answer to a
    range stays as it is, as in nginx; that to a HEAD has the header without a length.
    """

    coding: str = "gzip"
    chunked: bool = True

    def spoil(self, request: Request, answer: Answer) -> Answer:
        if answer.status != 200:
            return answer
        body = (
            gzip.compress(answer.body, mtime=0)
            if self.coding == "gzip"
            else zlib.compress(answer.body)
        )
        etag = answer.header("etag")
        weak = (("ETag", f"W/{etag}"),) if etag is not None else ()
        changed = answer.with_headers(("Content-Encoding", self.coding), *weak)
        return replace(changed, body=body, framing="chunked" if self.chunked else "length")


@dataclass(frozen=True, slots=True)
class Headers(Fault):
    """Other headers.

    Those of *set* replace or join the right ones, those named in *remove* are missing, those of
    *add* are put beside what is there.
    """

    set: Mapping[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    add: tuple[tuple[str, str], ...] = ()

    def spoil(self, request: Request, answer: Answer) -> Answer:
        changed = answer.with_headers(*self.set.items(), without=self.remove)
        return replace(changed, headers=(*changed.headers, *self.add))


@dataclass(frozen=True, slots=True)
class Redirect(Fault):
    """A redirect. ``{path}`` in the location stands for the path of the request."""

    location: str
    status: int = 307

    def spoil(self, request: Request, answer: Answer) -> Answer:
        return Answer(self.status, (("Location", self.location.replace("{path}", request.path)),))


@dataclass(frozen=True, slots=True)
class NoAnswer(Fault):
    """The connection is closed without an answer.

    Servers do so with a kept-alive connection that they had given up.
    """

    def spoil(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, silent=True)


@dataclass(frozen=True, slots=True)
class Hang(Fault):
    """Nothing more comes after a number of bytes of the body; None: not even a head."""

    after: int | None = None

    def spoil(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, hangs_after=-1 if self.after is None else self.after)


class Gate:
    """Holds every answer whose path has a certain part, until it is opened."""

    def __init__(self, path_part: str, after_bytes: int, method: str | None) -> None:
        self.path_part = path_part
        self.after_bytes = after_bytes
        self.method = method
        self.reached: asyncio.Future[Request] = asyncio.get_running_loop().create_future()
        """Await it: the first answer has come to the gate."""
        self.waiting = 0
        """Answers that wait at the gate now."""
        self._opened = asyncio.Event()

    def open(self) -> None:
        """Let all answers go on, also later ones."""
        self._opened.set()

    async def passing(self, request: Request) -> None:
        if not self.reached.done():
            self.reached.set_result(request)
        self.waiting += 1
        try:
            await self._opened.wait()
        finally:
            self.waiting -= 1

    def holds(self, request: Request) -> bool:
        return (
            not self._opened.is_set()
            and self.path_part in request.target
            and self.method in {None, request.method}
        )
