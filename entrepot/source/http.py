"""Requests to a source registry as they go over the network: redirects, retries, limits, and errors
in plain words.

Redirects are followed by hand, so that no credential ever reaches another host. What is logged or
raised names hosts, never the query of a URL: the storage behind a registry is reached through
presigned URLs, and their query is a secret.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from types import TracebackType

import httpx

from entrepot import __version__
from entrepot.formatting import printable
from entrepot.source.addresses import Reach, is_local, parse_address
from entrepot.source.circuit_breaker import CircuitBreaker, CircuitBreakers
from entrepot.source.content_encoding import (
    DECODED,
    coding_of,
    decode_document,
    document_coding,
    is_json,
)
from entrepot.source.decoding import parse_media_type, parse_number
from entrepot.source.diagnosis import Diagnosis, causes_of, proxy_cause
from entrepot.source.dns import LookupsBusy
from entrepot.source.errors import SourceAnswerInvalid, SourceBrokeOff, SourceUnreachable
from entrepot.source.loop_detection import Via
from entrepot.source.proxies import ProxyUnusable
from entrepot.source.rate_limit import read_retry_after

ATTEMPTS = 3
"""How often a request is made before its failure is believed."""

ATTEMPTS_IN_SILENCE = 2
"""The same for a source that is silent: each silence takes a whole time-out, and clients wait with
us."""

FIRST_PAUSE = 0.2
"""Seconds between the first two attempts, at most; doubled each time, and shortened at random so
that not everybody comes back at once."""

LONGEST_RETRY_AFTER = 3.0
"""Seconds that we wait, at most, because a failing source asks us to. When it asks for more, its
failure is believed at once."""

USER_AGENT = f"entrepot/{__version__}"
"""What sources see of us."""

DECODED_AT_ONCE = 64 * 1024
"""Bytes of a document up to which its coding is taken off without a thread."""

COMPRESSED_HINT = "Nothing was kept. Turn off the compression of a proxy or a content delivery network between here and the registry."
"""What to do about bytes that were changed on the way."""

REDIRECTS = 5
"""How many redirects are followed."""

_log = logging.getLogger("entrepot.source")

_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_RETRIED = frozenset({502, 503, 504})
_REDIRECTING = frozenset({301, 302, 303, 307, 308})


class AddressRefused(httpx.TransportError):
    """A host is, or was resolved to, an address of this machine's own surroundings. Nothing was
    sent there."""


class SourceResponse(AbstractAsyncContextManager["SourceResponse"]):
    """An answer whose body is still to come. It must be closed, which ends the connection when the
    body was not read to its end."""

    def __init__(
        self, response: httpx.Response, name: str, about: str, *, redirected: bool
    ) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.redirected = redirected
        """Another host than the registry's own sent it: storage behind a redirect."""
        self.host = response.url.host
        self.origin = origin_of(response.url)
        """Scheme, host and port of who sent it."""
        self.is_of_registry = "/v2/" in response.url.path
        """Its address is that of a registry's API, and not of storage."""
        self.refuses_registry_client = False
        """It is a refusal by a registry that its registry hands requests on to, and that signs
        clients in itself."""
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self._stream = response.stream
        self._response = response
        self._name = name
        self._about = about

    @property
    def media_type(self) -> str | None:
        """Of the body, without parameters; None when there is none. It may be none of RFC 6838: see
        `media_type_is_valid`."""
        # Of several headers the last counts, as in browsers (Fetch standard, "extract a MIME
        # type").
        sent = self.headers.get_list("content-type") or [""]
        return sent[-1][:512].partition(";")[0].strip().lower() or None

    @property
    def is_page(self) -> bool:
        """Whether it is a web page, for people."""
        return self.media_type in _PAGES

    @property
    def media_type_is_valid(self) -> bool:
        """Whether the body has no media type, or one of RFC 6838."""
        return self.media_type is None or parse_media_type(self.media_type) is not None

    @property
    def length(self) -> int | None:
        """Of the body in bytes, if it is told."""
        return parse_number(self.headers.get("content-length", ""))

    @property
    def coding(self) -> str | None:
        """What the body is labelled as compressed with, although it was asked for as it is; None
        for nothing."""
        return coding_of(self.headers)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it came over the network, without any decoding; raises `SourceBrokeOff` when
        the connection ends before it does."""
        received = 0
        try:
            # Not aiter_raw(): it would take each chunk apart and put it together again, to count
            # it.
            async for chunk in self._stream:
                received += len(chunk)
                yield chunk
        except httpx.TransportError as error:
            how = "fell silent" if isinstance(error, httpx.TimeoutException) else "broke off"
            raise SourceBrokeOff(
                f"{self._name} {how} after {received:,} bytes of {self._about}.", "Try again."
            ) from error
        if self.length is not None and received < self.length:
            raise SourceBrokeOff(
                f"{self._name} sent {received:,} of {self.length:,} bytes of {self._about}.",
                "Try again.",
            )

    async def read(self, limit: int) -> bytes:
        """The whole body, a document, without a coding that something on the way gave it (F85).

        Raises `SourceAnswerInvalid` when it is larger than *limit* bytes, encoded or decoded, or
        has a coding that can't be taken off, and `SourceBrokeOff`.
        """
        chunks: list[bytes] = []
        size = self.length or 0
        if size <= limit:
            size = 0
            async with aclosing(self.chunks()) as body:
                async for chunk in body:
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > limit:
                        break
        content = b"".join(chunks)
        document: bytes | None = None
        coding = self.coding
        if size <= limit:
            encoded_with = document_coding(content, coding)
            if encoded_with is None or len(content) < DECODED_AT_ONCE:
                document = decode_document(content, encoded_with, limit)
            else:
                document = await asyncio.to_thread(decode_document, content, encoded_with, limit)
        if document is None:
            raise SourceAnswerInvalid(
                f"{self._name} sends more than {limit:,} bytes for {self._about}: nothing that large was expected.",
                "Nothing was kept.",
            )
        # Compressed more than once, or no gzip file but for its first bytes.
        unread = document_coding(document, None) or (coding if coding not in DECODED else None)
        if unread is not None and not self.is_page and not is_json(document):
            raise SourceAnswerInvalid(
                f"{self._name} sends {self._about} compressed ({printable(unread, 32)}), which Entrepot did not ask for and can't read.",
                COMPRESSED_HINT,
            )
        return document

    async def close(self) -> None:
        """Let go of the connection."""
        await self._response.aclose()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class SourceHttp:
    """Requests to one source registry. *name* is its login server, for messages; *clock* gives
    seconds since the epoch; *reach* is where it may lead us.

    It speaks to httpx's transport and not to its client, which would log whole addresses, keep
    cookies, and look into redirects that we judge ourselves.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        name: str,
        *,
        timeout: httpx.Timeout,
        clock: Callable[[], float],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        breakers: CircuitBreakers | None = None,
        reach: Reach | None = None,
        diagnosis: Diagnosis | None = None,
        via: Via | None = None,
    ) -> None:
        self._diagnosis = diagnosis if diagnosis is not None else Diagnosis()
        self._reach = reach if reach is not None else Reach()
        self._breakers = breakers if breakers is not None else CircuitBreakers(clock, clock)
        self._transport = transport
        self._name = name
        self._extensions = {"timeout": timeout.as_dict()}
        self._clock = clock
        self._pause = pause
        self.public: SourceHttp = self
        """The same registry's way to hosts that are neither its own nor anywhere but on the
        internet."""
        self._via = via if via is not None else Via()

    async def open(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        *,
        about: str,
        redirects: int = REDIRECTS,
        authorize: Callable[[httpx.URL], Awaitable[str | None]] | None = None,
    ) -> SourceResponse:
        """Make a request, again if need be, and return its answer, which the caller closes. *about*
        says what is asked for.

        *authorize* gives the Authorization header for another host to which a redirect leads.

        Raises `SourceUnreachable`, or `SourceAnswerInvalid` for an address that must not or can't
        be used. Every status is an answer.
        """
        attempt = 1
        answers: dict[CircuitBreaker, int] = {}
        while True:
            try:
                answer = await self._follow(
                    method, url, headers, about, redirects, answers, authorize
                )
            except AddressRefused as error:
                raise self._address_refused(error) from None
            except ProxyUnusable as error:
                raise SourceUnreachable.of_cause(proxy_cause(error)) from None
            except (
                httpx.UnsupportedProtocol,
                httpx.InvalidURL,
                ValueError,
                OverflowError,
                RecursionError,
            ) as error:
                # Whatever the parts below refuse to send, with an exception of their own each: the
                # source named it.
                _log.info(
                    "%s: no request can be made: %s",
                    about,
                    printable(f"{type(error).__name__}: {error}", 200),
                )
                raise SourceAnswerInvalid(
                    f"{self._name} sends us for {about} to an address to which no request can be made.",
                    "The fault is at the source; nothing was kept.",
                ) from None
            except httpx.TransportError as error:
                if attempt >= _attempts_after(error):
                    raise await self._given_up(error, answers) from error
                _log.info("%s: attempt %d failed: %s", about, attempt, type(error).__name__)
                wait = 0.0
            else:
                asked = read_retry_after(answer.headers, self._clock())
                if (
                    answer.status not in _RETRIED
                    or attempt >= ATTEMPTS
                    or (asked or 0) > LONGEST_RETRY_AFTER
                ):
                    return answer
                await answer.close()
                _log.info(
                    "%s: attempt %d failed: status %d from %s",
                    about,
                    attempt,
                    answer.status,
                    answer.host,
                )
                wait = asked or 0.0
            await self._pause(
                max(wait, random.uniform(0.5, 1.0) * FIRST_PAUSE * 2 ** (attempt - 1))
            )
            attempt += 1

    async def _follow(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        about: str,
        redirects: int,
        answers: dict[CircuitBreaker, int],
        authorize: Callable[[httpx.URL], Awaitable[str | None]] | None,
    ) -> SourceResponse:
        first = url
        headers = {
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
            **self._via.headers,
            **headers,
        }
        for _ in range(redirects + 1):
            response = await self._send(
                httpx.Request(method, url, headers=headers, extensions=self._extensions), answers
            )
            location = response.headers.get("location")
            if response.status_code not in _REDIRECTING or location is None or redirects == 0:
                return SourceResponse(
                    response, self._name, about, redirected=not same_origin(first, url)
                )
            await response.aclose()
            following = self._redirect_target(url, location)
            if not same_origin(first, following):
                headers = {
                    name: value
                    for name, value in headers.items()
                    if name.lower() != "authorization"
                }
                if authorize is not None and (value := await authorize(following)) is not None:
                    headers["Authorization"] = value
            url = following
        raise SourceAnswerInvalid(
            f"{self._name} redirects in circles for {about}.",
            f"Entrepot follows {REDIRECTS} redirects.",
        )

    async def _send(
        self, request: httpx.Request, answers: dict[CircuitBreaker, int]
    ) -> httpx.Response:
        breaker = self._breakers.of(self._name, request.url)
        breaker.check()
        answers.setdefault(breaker, breaker.answers)
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.TransportError as error:
            error.request = request
            raise
        breaker.answered()
        if request.url.path.startswith("/v2/"):
            # Not of its storage, where caches keep answers with an old Date.
            self._diagnosis.answered(self._name, response.headers)
        response.request = request
        return response

    async def _given_up(
        self, error: httpx.TransportError, answers: Mapping[CircuitBreaker, int]
    ) -> SourceUnreachable:
        """What a request is told that failed with all its attempts. Unless others got an answer
        meanwhile, the host gets no more requests for a while."""
        told = await self._diagnosis.explain(error, self._name, self._reach)
        breaker = self._breakers.of(self._name, error.request.url)
        if _is_of_connection(error) and breaker.answers == answers.get(breaker):
            self._breakers.give_up(breaker, told, self._reaches)
        return told

    async def _reaches(self, origin: str) -> bool:
        """Whether a host answers again, with whatever status."""
        request = httpx.Request(
            "HEAD", f"{origin}/v2/", headers={"User-Agent": USER_AGENT}, extensions=self._extensions
        )
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.TransportError as error:
            return not _is_of_connection(error)
        except ProxyUnusable:
            return False
        except (ValueError, OverflowError, RecursionError):
            return True
        await response.aclose()
        return True

    def suspect(self, url: httpx.URL) -> None:
        """The host keeps a client waiting that could have had a copy."""
        self._breakers.of(self._name, url).suspect()

    def is_suspected(self, url: httpx.URL) -> bool:
        """Whether the host kept somebody waiting lately and has not answered since."""
        return self._breakers.of(self._name, url).is_suspected

    def _redirect_target(self, url: httpx.URL, location: str) -> httpx.URL:
        target = parse_address(location, url)
        if target is None or target.scheme not in {"http", "https"} or target.userinfo:
            raise SourceAnswerInvalid(
                f"{self._name} redirects to an address that can't be read, or is none of the web's.",
                "Only http and https are followed.",
            )
        host = printable(target.host, 253)
        if url.scheme == "https" and target.scheme == "http":
            raise SourceAnswerInvalid(
                f"{self._name} redirects from https to http, at {host}.",
                "What comes over http could be anybody's: it is not fetched.",
            )
        if not self._reach.permits_host(target.host) or (
            is_local(target.host)
            and not is_local(url.host)
            and target.host not in self._reach.hosts
        ):
            raise SourceAnswerInvalid(
                f"{self._name} redirects to {host}, an address of this machine's own surroundings.",
                "It is not followed.",
            )
        return target

    def _address_refused(self, error: AddressRefused) -> SourceAnswerInvalid:
        host = printable(error.request.url.host, 253)
        if self._reach.public:
            return SourceAnswerInvalid(
                f"{self._name} wants us to sign in at {host}, which is not its own and not on the internet. No connection was made.",
                f'If the registry really signs in there, declare it in settings.toml: realms, below [upstreams."{self._name}"].',
            )
        return SourceAnswerInvalid(
            f"{self._name} leads to {host}, which is an address of this machine's own surroundings. No connection was made.",
            f'If the registry really runs there, declare its endpoint in settings.toml, below [upstreams."{self._name}"].',
        )


def origin_of(url: httpx.URL) -> str:
    """Scheme, host and port of an address, as an address."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def same_origin(one: httpx.URL, other: httpx.URL) -> bool:
    """Whether two addresses have the same scheme, host and port."""
    return (one.scheme, one.host, _port(one)) == (other.scheme, other.host, _port(other))


def _port(url: httpx.URL) -> int | None:
    return url.port if url.port is not None else {"http": 80, "https": 443}.get(url.scheme)


def _attempts_after(error: httpx.TransportError) -> int:
    if any(
        isinstance(each, ssl.SSLCertVerificationError | LookupsBusy) for each in causes_of(error)
    ):
        return 1
    return ATTEMPTS_IN_SILENCE if isinstance(error, httpx.TimeoutException) else ATTEMPTS


def _is_of_connection(error: httpx.TransportError) -> bool:
    """Whether no connection came about, or nothing over it. One that was taken and ended is an
    answer of a kind, and comes at once."""
    if any(isinstance(each, LookupsBusy) for each in causes_of(error)):
        # That says something about other names, and nothing about this host.
        return False
    return isinstance(
        error,
        (
            httpx.ConnectError,
            httpx.ConnectTimeout,
            httpx.ReadTimeout,
            httpx.WriteTimeout,
            httpx.ProxyError,
        ),
    )
