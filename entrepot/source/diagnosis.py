"""Why a request to a source registry got no answer, in one sentence with a cure.

The sentence is made once, here, and goes as it is to the client whose pull fails, the state of the
source, ``doctor``, the dashboard and the log.

Of an error the innermost part speaks: transports wrap what the system said. What the system says is
not always what is wrong, so the surroundings are looked at: a certificate that is "not yet valid"
is the source's fault only where the clock is right, and a name that is not found says nothing of
the name where no name server is set up. Such looks happen after a failure only.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import httpx

from entrepot.causes import Cause, CauseCode, memory_cause, open_files_cause
from entrepot.core.hosts import is_loopback, literal_address
from entrepot.formatting import printable
from entrepot.source.addresses import Reach
from entrepot.source.certificate_probe import NAMES_SHOWN, Certificate, presented, speaks_http
from entrepot.source.dns import LookupsBusy, LookupTimedOut
from entrepot.source.environment import (
    CLOCK_CURE,
    CLOCK_WRONG,
    ClockEvidence,
    describe_clock,
    has_name_server,
    has_network,
    has_route,
    limited_trust,
    trust_store_problem,
)
from entrepot.source.errors import SourceUnreachable
from entrepot.source.proxies import (
    BehindProxyUnreachable,
    Proxy,
    ProxyFailed,
    ProxyUnusable,
    proxy_of,
)

CERTIFICATE_CURE: Final = "If it is your company's or a proxy's, name its certificate as ca_file in settings.toml or add it to the system's."
"""What to do about an authority that is not trusted."""

WEB_PAGE_CURE: Final = "A sign-in page of the network, a proxy, or a wrong endpoint can cause this: open its address in a browser. Nothing of it was kept."
"""What to think of where something answers that is no registry."""

# Of OpenSSL's x509_vfy.h.
_NOT_YET_VALID = 9
_EXPIRED = 10
_SELF_SIGNED = 18
_NO_ISSUER = frozenset({2, 19, 20, 21})
_WRONG_NAME = frozenset({62, 63, 64})

_NOT_TLS = frozenset(
    {
        "WRONG_VERSION_NUMBER",
        "UNKNOWN_PROTOCOL",
        "HTTP_REQUEST",
        "HTTPS_PROXY_REQUEST",
        "RECORD_LAYER_FAILURE",
    }
)
_TOO_OLD = frozenset(
    {
        "UNSUPPORTED_PROTOCOL",
        "NO_PROTOCOLS_AVAILABLE",
        "TLSV1_ALERT_PROTOCOL_VERSION",
        "SSLV3_ALERT_HANDSHAKE_FAILURE",
        "NO_CIPHERS_AVAILABLE",
        "DH_KEY_TOO_SMALL",
        "WRONG_SIGNATURE_TYPE",
        "UNSAFE_LEGACY_RENEGOTIATION_DISABLED",
    }
)
_ERRNO = re.compile(r"\[Errno (-?\d+)\]")


@dataclass(frozen=True, slots=True)
class RequestTarget:
    """Whom a request was for. *name* is the login server of the source registry, *url* what was
    asked."""

    name: str
    url: httpx.URL
    reach: Reach = field(default_factory=Reach)

    @property
    def host(self) -> str:
        """For messages."""
        return printable(self.url.host, 253)

    @property
    def shown(self) -> str:
        """The source, with its host where that has another name."""
        return self.host if self.host == self.name else f"{self.name} ({self.host})"

    @property
    def port(self) -> int:
        """The port of the request."""
        return self.url.port or (443 if self.url.scheme == "https" else 80)


class Diagnosis:
    """Names the cause of a request that got no answer. All source registries share one.

    *looks*: whether the surroundings and the certificate are looked at; a transport of a test has
    none.
    """

    def __init__(self, clock: ClockEvidence | None = None, *, looks: bool = False) -> None:
        self.clock = clock if clock is not None else ClockEvidence()
        self._looks = looks

    def note_response(self, login_server: str, headers: Mapping[str, str]) -> None:
        """An answer came over a connection that was trusted: its Date says what time it is."""
        self.clock.note(login_server, headers)

    async def explain(
        self, error: httpx.TransportError, name: str, reach: Reach | None = None
    ) -> SourceUnreachable:
        """What to tell of a failed request of *error* to the source registry *name*."""
        place = RequestTarget(name, error.request.url, reach if reach is not None else Reach())
        return SourceUnreachable.of_cause(await self.cause(error, place))

    async def cause(self, error: BaseException, place: RequestTarget) -> Cause:
        """The cause of *error*, an error of httpx or of the system; nothing is raised."""
        chain = causes_of(error)
        proxy = _proxy_of(place.url)
        failed = next((each for each in chain if isinstance(each, ProxyFailed)), None)
        if any(isinstance(each, ssl.SSLError) for each in chain):
            if failed is not None:
                return _of_proxy_certificate(chain, place, failed.proxy)
            return await self._of_tls(chain, place, proxy)
        cause = _of_limits(chain, place)
        if (
            cause is None
            and self._looks
            and _concerns_network(chain, proxy.host if proxy is not None else place.url.host)
        ):
            cause = await asyncio.to_thread(_of_surroundings, chain, place)
        if cause is None and failed is not None:
            cause = _of_proxy(failed, chain, place)
        if cause is None and isinstance(error, BehindProxyUnreachable):
            cause = _of_connection_behind_proxy(error, place)
        if cause is None and proxy is not None:
            return _of_way_through_proxy(error, place, proxy)
        return cause if cause is not None else _of_network(chain, error, place)

    def clock_problem(self, *, tolerance: float = CLOCK_WRONG) -> Cause | None:
        """What is wrong with this machine's clock by *tolerance* seconds or more, as far as is
        known."""
        ahead = self.clock.ahead()
        if ahead is not None:
            return (
                self.clock_cause(ahead, f", by the Date of {self.clock.witnesses}")
                if abs(ahead) >= tolerance
                else None
            )
        behind = self.clock.behind_records
        return (
            self.clock_cause(behind, " at least, by what was written here before")
            if behind >= tolerance
            else None
        )

    def clock_cause(self, ahead: float, so: str = "") -> Cause:
        """The clock is *ahead* seconds behind what is right; *so* says what comes of it."""
        return Cause(
            CauseCode.CLOCK_WRONG,
            f"{describe_clock(ahead, self.clock.wall_clock())}{so}.",
            CLOCK_CURE,
        )

    # TLS

    async def _of_tls(
        self, chain: list[BaseException], place: RequestTarget, proxy: Proxy | None
    ) -> Cause:
        untrusted = [each for each in chain if isinstance(each, ssl.SSLCertVerificationError)]
        if not untrusted:
            return await self._of_handshake(chain, place)
        # aiohttp has an exception of that class without the message of the one that it wraps.
        code = max(getattr(each, "verify_code", 0) or 0 for each in untrusted)
        said = max((getattr(each, "verify_message", "") or "" for each in untrusted), key=len)
        certificate = await self._presented(place, asks_date=code in {_NOT_YET_VALID, _EXPIRED})
        if code == _NOT_YET_VALID:
            return self._not_yet_valid(certificate, place)
        if code == _EXPIRED:
            return self._expired(certificate, place)
        if code in _WRONG_NAME:
            return _wrong_name(certificate, place)
        problem = (
            await asyncio.to_thread(trust_store_problem)
            if self._looks and code in _NO_ISSUER
            else None
        )
        if problem is not None:
            why, cure = problem
            return Cause(
                CauseCode.TRUST_STORE_EMPTY,
                f"This machine trusts no certificate authority: {why}. So no certificate is trusted.",
                cure,
            )
        if code == _SELF_SIGNED or said == "self-signed certificate":
            return Cause(
                CauseCode.CERTIFICATE_SELF_SIGNED,
                f"{place.shown} can't be reached safely: its certificate is not trusted: self-signed certificate.",
                "If it is really that registry's, name the certificate as ca_file in settings.toml, and start the engine again.",
            )
        if code in _NO_ISSUER:
            return _no_issuer(certificate, place, proxy)
        return Cause(
            CauseCode.CERTIFICATE_REFUSED,
            f"{place.shown} can't be reached safely: its certificate is not trusted: {printable(said, 200) or 'unknown'}.",
            "Whoever runs the registry must give it a certificate that today's systems accept.",
        )

    def _not_yet_valid(self, certificate: Certificate | None, place: RequestTarget) -> Cause:
        wall = self.clock.wall_clock()
        begins = certificate.not_before.timestamp() if certificate is not None else None
        ahead = self._clock_ahead(certificate, place.name)
        so = f", so the certificate of {place.shown} counts as not yet valid"
        if (
            ahead is not None
            and ahead >= CLOCK_WRONG
            and (begins is None or wall + ahead >= begins - CLOCK_WRONG)
        ):
            return self.clock_cause(ahead, so)
        if ahead is None and begins is not None and begins > wall:
            # No authority signs for the future: the clock is behind by that much at least.
            return self.clock_cause(begins - wall, so)
        since = f" before {_day(certificate.not_before)}" if certificate is not None else " yet"
        return Cause(
            CauseCode.CERTIFICATE_NOT_YET_VALID,
            f"{place.shown} can't be reached safely: its certificate is not valid{since}.",
            f"Whoever runs the registry must replace it. This machine's clock says {_day_of(wall)}.",
        )

    def _expired(self, certificate: Certificate | None, place: RequestTarget) -> Cause:
        wall = self.clock.wall_clock()
        ends = certificate.not_after.timestamp() if certificate is not None else None
        ahead = self._clock_ahead(certificate, place.name)
        if ahead is not None and ahead <= -CLOCK_WRONG and (ends is None or wall + ahead <= ends):
            return self.clock_cause(
                ahead, f", so the certificate of {place.shown} counts as expired"
            )
        since = f" on {_day(certificate.not_after)}" if certificate is not None else ""
        return Cause(
            CauseCode.CERTIFICATE_EXPIRED,
            f"{place.shown} can't be reached safely: its certificate expired{since}.",
            f"Whoever runs the registry must renew it. This machine's clock says {_day_of(wall)}.",
        )

    def _clock_ahead(self, certificate: Certificate | None, name: str) -> float | None:
        """By how much right time is ahead of the clock: by trusted sources, records, or this
        server."""
        wall = self.clock.wall_clock()
        trusted = self.clock.ahead(without=name)
        if trusted is not None:
            return trusted
        stated = (
            certificate.date - wall
            if certificate is not None and certificate.date is not None
            else None
        )
        if stated is not None and stated >= self.clock.behind_records:
            return stated
        return self.clock.behind_records or stated

    async def _of_handshake(self, chain: list[BaseException], place: RequestTarget) -> Cause:
        reasons = {
            getattr(each, "reason", None) for each in chain if isinstance(each, ssl.SSLError)
        }
        where = f"{place.shown}, port {place.port},"
        if reasons & _NOT_TLS and self._looks and await speaks_http(place.url, place.reach):
            address = f"http://{place.url.netloc.decode('ascii')}" + (
                "" if place.url.port else ":443"
            )
            # Over http credentials leave this machine for nowhere, and settings.toml has to say so.
            lines = f'endpoint = "{address}"'
            lines += "" if is_loopback(place.host) else ' and sign_in = "none"'
            return Cause(
                CauseCode.PLAIN_HTTP,
                f"{where} speaks plain HTTP where https is expected.",
                f'If that is meant, declare it in settings.toml: {lines} below [upstreams."{place.name}"]; then start the engine again.',
            )
        if reasons & _TOO_OLD:
            return Cause(
                CauseCode.TLS_TOO_OLD,
                f"{where} speaks no TLS that is safe: it has no version or cipher in common with this machine.",
                "Whoever runs it must offer TLS 1.2 or newer with today's ciphers.",
            )
        said = printable(
            ", ".join(sorted(each for each in reasons if each)).lower().replace("_", " "), 100
        )
        return Cause(
            CauseCode.TLS_FAILED,
            f"{where} can't be reached safely: no TLS connection comes about{f' ({said})' if said else ''}.",
            "Check the endpoint in settings.toml, and whether that port speaks https.",
        )

    async def _presented(self, place: RequestTarget, *, asks_date: bool) -> Certificate | None:
        return await presented(place.url, place.reach, asks_date=asks_date) if self._looks else None


def proxy_cause(error: ProxyUnusable) -> Cause:
    """A variable of the environment that names no proxy that can be used."""
    return Cause(CauseCode.PROXY_UNUSABLE, error.what, error.hint)


def web_page_cause(name: str, about: str) -> Cause:
    """A page for people, where the source registry *name* was asked *about* something."""
    return Cause(CauseCode.WEB_PAGE, f"{name} answers with a web page for {about}.", WEB_PAGE_CURE)


def _proxy_of(url: httpx.URL) -> Proxy | None:
    try:
        return proxy_of(url)
    except ProxyUnusable:
        return None


def _of_network(chain: list[BaseException], error: BaseException, place: RequestTarget) -> Cause:
    numbers = _errnos(chain)
    lookup = _failed_lookup(chain)
    where = place.shown
    if any(isinstance(each, LookupTimedOut) for each in chain):
        return Cause(
            CauseCode.NAME_SERVER_SILENT,
            f"{where} can't be reached: the name server does not answer in time.",
            "Check the name server of this machine.",
        )
    if any(isinstance(each, LookupsBusy) for each in chain):
        return Cause(
            CauseCode.LOOKUPS_BUSY,
            f"{where} can't be reached: too many look-ups of names wait for an answer.",
            "Check the name server of this machine; try again later.",
        )
    if lookup is not None and lookup.errno in {socket.EAI_AGAIN, socket.EAI_FAIL}:
        return Cause(
            CauseCode.NAME_SERVER_SILENT,
            f"{where} can't be reached: the name server of this machine gives no answer.",
            "Check the name server in /etc/resolv.conf, and the network on the way to it.",
        )
    if lookup is not None:
        return Cause(
            CauseCode.NAME_UNKNOWN,
            f"{where} can't be reached: its name is not known.",
            "Check how it is written, and the name server and the network of this machine.",
        )
    if numbers & {errno.EHOSTUNREACH, errno.ENETUNREACH} and errno.ECONNREFUSED not in numbers:
        return Cause(
            CauseCode.NO_ROUTE,
            f"{where} can't be reached: no route of this machine's network leads there.",
            "Check the routes of this machine, a VPN, and firewalls on the way.",
        )
    if isinstance(error, httpx.ConnectTimeout) or numbers & {errno.ETIMEDOUT}:
        return Cause(
            CauseCode.CONNECTION_SILENT,
            f"{where} can't be reached: it takes no connection in time.",
            "Check the network, a firewall or a proxy on the way.",
        )
    if isinstance(error, (httpx.TimeoutException, TimeoutError)):
        return Cause(
            CauseCode.ANSWER_SILENT,
            f"{where} takes the connection but does not answer in time.",
            "Try again later.",
        )
    if isinstance(error, httpx.ProxyError):
        return Cause(
            CauseCode.PROXY_FAILS,
            f"{where} can't be reached: the proxy of this machine's environment refuses.",
            "Check HTTPS_PROXY and NO_PROXY.",
        )
    # asyncio has resets of its own, without a number, where a connection ends within a handshake.
    is_ended = any(isinstance(each, (ConnectionResetError, BrokenPipeError)) for each in chain)
    if (
        is_ended
        and place.url.scheme == "https"
        and isinstance(error, (httpx.ConnectError, OSError))
    ):
        return Cause(
            CauseCode.CONNECTION_ENDED,
            f"{where} can't be reached: it ends the connection on port {place.port} before TLS is agreed on.",
            "Check that this port speaks https; a firewall on the way can do that too.",
        )
    if isinstance(error, (httpx.ConnectError, ConnectionRefusedError)) and not is_ended:
        return Cause(
            CauseCode.CONNECTION_REFUSED,
            f"{where} can't be reached: it takes no connections on port {place.port}.",
            "Check the network, or whether the registry is up.",
        )
    return Cause(
        CauseCode.CONNECTION_ENDED,
        f"{where} ends the connection without an answer.",
        "Try again later.",
    )


def _concerns_network(chain: list[BaseException], host: str) -> bool:
    """Whether a failure may come from what this machine lacks; *host* is the source or the proxy."""
    if errno.ENETUNREACH in _errnos(chain):
        return True
    is_lookup = any(isinstance(each, (socket.gaierror, LookupTimedOut)) for each in chain)
    return is_lookup and literal_address(host) is None


def _of_surroundings(chain: list[BaseException], place: RequestTarget) -> Cause | None:
    """What this machine lacks so that nothing, or nothing of a kind, can be reached. Blocks."""
    lookup, numbers = _failed_lookup(chain), _errnos(chain)
    if not has_network():
        return Cause(
            CauseCode.NO_NETWORK,
            "This machine has no network: no route leads out of it.",
            "Connect it. An engine in a container needs a network too (not --network none).",
        )
    if (
        (lookup is None or lookup.errno != socket.EAI_NONAME)
        and errno.ENETUNREACH not in numbers
        and not has_name_server()
    ):
        return Cause(
            CauseCode.NAME_SERVER_MISSING,
            "This machine has no name server: /etc/resolv.conf names none.",
            "Add a line to it: nameserver ADDRESS. For a container, start it with --dns ADDRESS.",
        )
    if (
        errno.ENETUNREACH in numbers
        and has_route(socket.AF_INET)
        and not has_route(socket.AF_INET6)
    ):
        return Cause(
            CauseCode.NO_IPV6,
            f"{place.shown} can't be reached: it has addresses of IPv6 only, and this machine has no route for these.",
            "Give this machine IPv6, or use a proxy that has it.",
        )
    return None


def _of_limits(chain: list[BaseException], place: RequestTarget) -> Cause | None:
    """What this machine has run out of."""
    numbers = _errnos(chain)
    for number in (errno.EMFILE, errno.ENFILE):
        if number in numbers:
            return open_files_cause(number, "no source can be reached")
    lookup = _failed_lookup(chain)
    if numbers & {errno.ENOMEM, errno.ENOBUFS} or (
        lookup is not None and lookup.errno == socket.EAI_MEMORY
    ):
        return memory_cause()
    if errno.EADDRNOTAVAIL in numbers and not numbers & {errno.ECONNREFUSED, errno.ENETUNREACH}:
        return Cause(
            CauseCode.PORTS,
            f"This machine has no local port or address left for a connection to {place.shown}.",
            "Wait until other connections end, or widen net.ipv4.ip_local_port_range with sysctl.",
        )
    return None


def _of_proxy(error: ProxyFailed, chain: list[BaseException], place: RequestTarget) -> Cause:
    """What is wrong with the proxy that a request went through: it looks up and connects, not we."""
    proxy = error.proxy
    if error.status is not None:
        return _of_proxy_status(error.status, place, proxy)
    who, so, around = _proxy_words(place, proxy)
    if error.reason:
        return Cause(
            CauseCode.PROXY_FAILS,
            f"{who} refuses: {printable(error.reason, 150)}; {so}.",
            f"Check the user name and the password in {proxy.variable}, and the proxy's own log, {around}.",
        )
    lookup = _failed_lookup(chain)
    if any(isinstance(each, LookupTimedOut) for each in chain) or (
        lookup is not None and lookup.errno in {socket.EAI_AGAIN, socket.EAI_FAIL}
    ):
        # That says nothing of how the proxy is named.
        return Cause(
            CauseCode.NAME_SERVER_SILENT,
            f"{who} can't be reached: the name server of this machine gives no answer, {so}.",
            "Check the name server in /etc/resolv.conf, and the network on the way to it.",
        )
    if lookup is not None or any(isinstance(each, LookupsBusy) for each in chain):
        return Cause(
            CauseCode.PROXY_NAME_UNKNOWN,
            f"{who} can't be reached: its name is not known here, {so}.",
            f"Correct {proxy.variable} where the engine is started, {around}.",
        )
    numbers = _errnos(chain)
    state = f"fails ({_said_by_proxy(chain)})"
    if numbers & {errno.ECONNREFUSED}:
        state = "takes no connections"
    elif numbers & {errno.EHOSTUNREACH, errno.ENETUNREACH}:
        state = "can't be reached: no route leads there"
    elif any(isinstance(each, (TimeoutError, httpx.TimeoutException)) for each in chain):
        state = "takes no connection in time"
    code = CauseCode.PROXY_FAILS if state.startswith("fails") else CauseCode.PROXY_UNREACHABLE
    return Cause(
        code,
        f"{who} {state}, {so}.",
        f"Start it, correct {proxy.variable} where the engine is started, {around}.",
    )


def _said_by_proxy(chain: list[BaseException]) -> str:
    """The innermost words, which come from a library or the system and name no secret."""
    texts = [printable(str(each), 150) for each in chain if str(each)]
    return texts[-1].rstrip(".") if texts else "no answer"


def _of_connection_behind_proxy(error: BehindProxyUnreachable, place: RequestTarget) -> Cause:
    """A proxy works, and can't connect to the source."""
    who, so, around = _proxy_words(place, error.proxy)
    return Cause(
        CauseCode.PROXY_FAILS,
        f"{who} can't connect to {place.host}: {printable(error.reason, 150)}; {so}.",
        f"Check whether the registry is up, and whether the proxy may reach it, {around}.",
    )


def _of_way_through_proxy(error: BaseException, place: RequestTarget, proxy: Proxy) -> Cause:
    """A connection through a proxy fails, and nothing tells which of the two ends is at fault.

    Only the proxy is connected to from here, so the source alone is never named (F75).
    """
    who, so, around = _proxy_words(place, proxy)
    if isinstance(error, (httpx.ConnectTimeout, httpx.ConnectError)):
        state = "in time" if isinstance(error, httpx.ConnectTimeout) else "that lasts"
        return Cause(
            CauseCode.PROXY_FAILS,
            f"{who} gives no connection to {place.host} {state}, {so}.",
            f"Check whether it runs and may connect there, {around}.",
        )
    is_silent = isinstance(error, (httpx.TimeoutException, TimeoutError))
    how = "does not come in time" if is_silent else "never comes: the connection ends"
    return Cause(
        CauseCode.PROXY_FAILS,
        f"An answer of {place.host} through the proxy {proxy.place} (the engine's {proxy.variable}) {how}.",
        f"Try again later; if it stays so, look at the proxy's own log, {around}.",
    )


def _of_proxy_certificate(chain: list[BaseException], place: RequestTarget, proxy: Proxy) -> Cause:
    """A proxy that speaks TLS and can't prove who it is."""
    who, so, _ = _proxy_words(place, proxy)
    reasons = [
        getattr(each, "verify_message", "")
        for each in chain
        if isinstance(each, ssl.SSLCertVerificationError)
    ]
    if not reasons:
        return Cause(
            CauseCode.TLS_FAILED,
            f"{who} does not speak TLS as we do, {so}.",
            f"Check {proxy.variable}: https:// means TLS to the proxy itself.",
        )
    reason = printable(max(reasons, key=len) or "unknown", 150)
    return Cause(
        CauseCode.CERTIFICATE_UNTRUSTED, f"{who} is not trusted: {reason}; {so}.", CERTIFICATE_CURE
    )


def _proxy_words(place: RequestTarget, proxy: Proxy) -> tuple[str, str, str]:
    """The proxy, what comes of its fault, and the way around it."""
    return (
        f"The proxy {proxy.place} (the engine's {proxy.variable})",
        f"so {place.name} can't be reached",
        f"or put {place.host} into NO_PROXY if a direct way leads there",
    )


def _of_proxy_status(status: int, place: RequestTarget, proxy: Proxy) -> Cause:
    who, so, around = _proxy_words(place, proxy)
    if status == 407:
        state = "wants a user name and a password"
        cure = f"Put them into {proxy.variable}: {proxy.scheme}://USER:PASSWORD@{proxy.place}"
        if proxy.username is not None:
            state = "does not accept the user name and password that it is given"
            cure = f"Correct them in {proxy.variable}, with special characters percent-encoded (@ is %40)"
        return Cause(
            CauseCode.PROXY_SIGN_IN,
            f"{who} {state} (status 407), {so}.",
            f"{cure}; then start the engine again.",
        )
    if status == 403:
        return Cause(
            CauseCode.PROXY_FORBIDS,
            f"{who} forbids {place.host} (status 403), {so}.",
            f"Let whoever runs the proxy allow it, {around}.",
        )
    return Cause(
        CauseCode.PROXY_FAILS,
        f"{who} does not connect to {place.host} (status {status}), {so}.",
        f"Look at the proxy's own log, {around}.",
    )


def _wrong_name(certificate: Certificate | None, place: RequestTarget) -> Cause:
    names = certificate.names if certificate is not None else ()
    shown = ", ".join(names[:NAMES_SHOWN]) + (
        f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    )
    whose = f"is only for {shown}" if names else "names no host"
    return Cause(
        CauseCode.CERTIFICATE_WRONG_NAME,
        f"{place.shown} can't be reached safely: its certificate {whose}.",
        "Check the endpoint in settings.toml, and what the name server says; else the registry needs another certificate.",
    )


def _no_issuer(certificate: Certificate | None, place: RequestTarget, proxy: Proxy | None) -> Cause:
    if certificate is None:
        return Cause(
            CauseCode.CERTIFICATE_UNTRUSTED,
            f"{place.shown} can't be reached safely: its certificate is not trusted: its issuer is not known here{limited_trust()}.",
            CERTIFICATE_CURE,
        )
    if certificate.is_alone:
        return Cause(
            CauseCode.CERTIFICATE_CHAIN_INCOMPLETE,
            f"{place.shown} can't be reached safely: it sends its certificate without that of the issuer, {certificate.issuer}.",
            "Whoever runs the registry must let it send the whole chain; until then ca_file in settings.toml can name the issuer's certificate.",
        )
    way = f" through {proxy.place}" if proxy is not None else ""
    return Cause(
        CauseCode.CERTIFICATE_UNTRUSTED,
        f"{place.shown} can't be reached safely{way}: this machine does not trust the issuer of its certificate, {certificate.issuer}{limited_trust()}.",
        CERTIFICATE_CURE,
    )


def _failed_lookup(chain: list[BaseException]) -> socket.gaierror | None:
    return next((each for each in chain if isinstance(each, socket.gaierror)), None)


def _errnos(chain: list[BaseException]) -> set[int]:
    """What the system said. Of several addresses asyncio and aiohttp put the numbers into a text."""
    numbers: set[int] = set()
    for each in chain:
        if isinstance(each, OSError) and not isinstance(each, (socket.gaierror, ssl.SSLError)):
            if each.errno is not None:
                numbers.add(each.errno)
            else:
                numbers |= {int(number) for number in _ERRNO.findall(str(each)[:2_000])}
    return numbers


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")


def _day_of(seconds: float) -> str:
    try:
        return _day(datetime.fromtimestamp(seconds, UTC))
    except (OverflowError, ValueError, OSError):
        return "a time beyond all calendars"


def causes_of(error: BaseException) -> list[BaseException]:
    """The error and what led to it: transports wrap what the system said."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        if isinstance(following, BaseExceptionGroup):
            chain.extend(following.exceptions)
        following = following.__cause__ or following.__context__
    return chain
