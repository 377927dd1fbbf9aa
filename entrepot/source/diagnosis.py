"""Why a request to a source registry got no response, in one sentence with advice.

The sentence is made once, here, and goes unchanged to the client whose pull fails, the state of the
source, ``doctor``, the dashboard and the log.

Transports wrap what the system said, so the innermost error decides. What the system says is not
always what is wrong, so this machine's environment is checked too: a certificate that is "not yet
valid" is the source's fault only where the clock is right, and an unknown name is no fault of the
name where no name server is configured. Such checks run only after a failure.

`entrepot.source.network_causes`, `proxy_causes` and `certificate_causes` hold the sentences.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final

import httpx

from entrepot.causes import Cause, CauseCode
from entrepot.core.hosts import is_loopback
from entrepot.formatting import printable
from entrepot.source.addresses import Reach
from entrepot.source.certificate_causes import (
    expired_cause,
    not_yet_valid_cause,
    self_signed_cause,
    unknown_issuer_cause,
    wrong_name_cause,
)
from entrepot.source.certificate_probe import Certificate, fetch_certificate, speaks_http
from entrepot.source.environment import (
    CLOCK_CURE,
    CLOCK_TOLERANCE,
    ClockEvidence,
    describe_clock,
    trust_store_problem,
)
from entrepot.source.errors import SourceUnreachable
from entrepot.source.failed_request import RequestTarget, causes_of
from entrepot.source.network_causes import (
    environment_cause,
    limit_cause,
    may_come_from_environment,
    network_cause,
)
from entrepot.source.proxies import (
    BehindProxyUnreachable,
    Proxy,
    ProxyFailed,
    ProxyUnusable,
    proxy_of,
)
from entrepot.source.proxy_causes import (
    behind_proxy_cause,
    proxy_certificate_cause,
    proxy_failure_cause,
    through_proxy_cause,
)

WEB_PAGE_CURE: Final = (
    "A sign-in page of the network, a proxy, or a wrong endpoint can cause this: open its address "
    "in a browser. Nothing of it was kept."
)
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


class Diagnosis:
    """Names the cause of a request without a response; shared by all sources.

    *probes*: whether this machine's environment and the server's certificate are checked; a test
    with a transport of its own has neither.
    """

    def __init__(self, clock: ClockEvidence | None = None, *, probes: bool = False) -> None:
        self.clock = clock if clock is not None else ClockEvidence()
        self._probes = probes

    def note_response(self, login_server: str, headers: Mapping[str, str]) -> None:
        """Note the Date of a response that came over a trusted connection."""
        self.clock.note(login_server, headers)

    async def explain(
        self, error: httpx.TransportError, name: str, reach: Reach | None = None
    ) -> SourceUnreachable:
        """The error of a failed request to the source registry *name*, with its cause."""
        target = RequestTarget(name, error.request.url, reach if reach is not None else Reach())
        return SourceUnreachable.of_cause(await self.cause(error, target))

    async def cause(self, error: BaseException, target: RequestTarget) -> Cause:
        """The cause of *error*, an error of httpx or of the system; raises nothing."""
        chain = causes_of(error)
        proxy = _proxy_of(target.url)
        proxy_failure = next((cause for cause in chain if isinstance(cause, ProxyFailed)), None)
        if any(isinstance(cause, ssl.SSLError) for cause in chain):
            if proxy_failure is not None:
                return proxy_certificate_cause(chain, target, proxy_failure.proxy)
            return await self._tls_cause(chain, target, proxy)
        cause = limit_cause(chain, target)
        if (
            cause is None
            and self._probes
            and may_come_from_environment(
                chain, proxy.host if proxy is not None else target.url.host
            )
        ):
            cause = await asyncio.to_thread(environment_cause, chain, target)
        if cause is None and proxy_failure is not None:
            cause = proxy_failure_cause(proxy_failure, chain, target)
        if cause is None and isinstance(error, BehindProxyUnreachable):
            cause = behind_proxy_cause(error, target)
        if cause is None and proxy is not None:
            return through_proxy_cause(error, target, proxy)
        return cause if cause is not None else network_cause(chain, error, target)

    def clock_problem(self, *, tolerance: float = CLOCK_TOLERANCE) -> Cause | None:
        """What is wrong with this machine's clock, as far as is known.

        None when it is off by less than *tolerance* seconds.
        """
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

    def clock_cause(self, ahead: float, consequence: str = "") -> Cause:
        """The clock is *ahead* seconds behind; *consequence* ends the sentence."""
        return Cause(
            CauseCode.CLOCK_WRONG,
            f"{describe_clock(ahead, self.clock.wall_clock())}{consequence}.",
            CLOCK_CURE,
        )

    # TLS

    async def _tls_cause(
        self, chain: list[BaseException], target: RequestTarget, proxy: Proxy | None
    ) -> Cause:
        untrusted = [cause for cause in chain if isinstance(cause, ssl.SSLCertVerificationError)]
        if not untrusted:
            return await self._handshake_cause(chain, target)
        # aiohttp has an exception of that class without the message of the one that it wraps.
        code = max(getattr(cause, "verify_code", 0) or 0 for cause in untrusted)
        message = max((getattr(cause, "verify_message", "") or "" for cause in untrusted), key=len)
        certificate = await self._certificate(target, asks_date=code in {_NOT_YET_VALID, _EXPIRED})
        if code == _NOT_YET_VALID:
            return self._not_yet_valid(certificate, target)
        if code == _EXPIRED:
            return self._expired(certificate, target)
        if code in _WRONG_NAME:
            return wrong_name_cause(certificate, target)
        problem = (
            await asyncio.to_thread(trust_store_problem)
            if self._probes and code in _NO_ISSUER
            else None
        )
        if problem is not None:
            why, cure = problem
            return Cause(
                CauseCode.TRUST_STORE_EMPTY,
                f"This machine trusts no certificate authority: {why}. "
                "So no certificate is trusted.",
                cure,
            )
        if code == _SELF_SIGNED or message == "self-signed certificate":
            return self_signed_cause(target)
        if code in _NO_ISSUER:
            return unknown_issuer_cause(certificate, target, proxy)
        return Cause(
            CauseCode.CERTIFICATE_REFUSED,
            f"{target.label} can't be reached safely: its certificate is not trusted: "
            f"{printable(message, 200) or 'unknown'}.",
            "The registry's operator must give it a certificate that today's systems accept.",
        )

    def _not_yet_valid(self, certificate: Certificate | None, target: RequestTarget) -> Cause:
        now = self.clock.wall_clock()
        begins = certificate.not_before.timestamp() if certificate is not None else None
        ahead = self._clock_ahead(certificate, target.name)
        consequence = f", so the certificate of {target.label} counts as not yet valid"
        if (
            ahead is not None
            and ahead >= CLOCK_TOLERANCE
            and (begins is None or now + ahead >= begins - CLOCK_TOLERANCE)
        ):
            return self.clock_cause(ahead, consequence)
        if ahead is None and begins is not None and begins > now:
            # No authority signs for the future: the clock is behind by that much at least.
            return self.clock_cause(begins - now, consequence)
        return not_yet_valid_cause(certificate, target, now)

    def _expired(self, certificate: Certificate | None, target: RequestTarget) -> Cause:
        now = self.clock.wall_clock()
        ends = certificate.not_after.timestamp() if certificate is not None else None
        ahead = self._clock_ahead(certificate, target.name)
        if (
            ahead is not None
            and ahead <= -CLOCK_TOLERANCE
            and (ends is None or now + ahead <= ends)
        ):
            return self.clock_cause(
                ahead, f", so the certificate of {target.label} counts as expired"
            )
        return expired_cause(certificate, target, now)

    def _clock_ahead(self, certificate: Certificate | None, name: str) -> float | None:
        """By how many seconds the right time is ahead of the clock.

        By trusted sources, by records, or by this server.
        """
        now = self.clock.wall_clock()
        by_sources = self.clock.ahead(without=name)
        if by_sources is not None:
            return by_sources
        by_server = (
            certificate.date - now
            if certificate is not None and certificate.date is not None
            else None
        )
        if by_server is not None and by_server >= self.clock.behind_records:
            return by_server
        return self.clock.behind_records or by_server

    async def _handshake_cause(self, chain: list[BaseException], target: RequestTarget) -> Cause:
        reasons = {
            getattr(cause, "reason", None) for cause in chain if isinstance(cause, ssl.SSLError)
        }
        where = f"{target.label}, port {target.port},"
        if reasons & _NOT_TLS and self._probes and await speaks_http(target.url, target.reach):
            address = f"http://{target.url.netloc.decode('ascii')}" + (
                "" if target.url.port else ":443"
            )
            # Over http credentials leave this machine unencrypted, and settings.toml has to allow
            # it.
            lines = f'endpoint = "{address}"'
            lines += "" if is_loopback(target.host) else ' and sign_in = "none"'
            return Cause(
                CauseCode.PLAIN_HTTP,
                f"{where} speaks plain HTTP where https is expected.",
                f"If that is meant, declare it in settings.toml: {lines} below "
                f'[upstreams."{target.name}"]; then start the engine again.',
            )
        if reasons & _TOO_OLD:
            return Cause(
                CauseCode.TLS_TOO_OLD,
                f"{where} speaks no TLS that is safe: it has no version or cipher in common with "
                "this machine.",
                "Its operator must offer TLS 1.2 or newer with today's ciphers.",
            )
        message = printable(
            ", ".join(sorted(reason for reason in reasons if reason)).lower().replace("_", " "),
            100,
        )
        return Cause(
            CauseCode.TLS_FAILED,
            f"{where} can't be reached safely: no TLS connection comes about"
            f"{f' ({message})' if message else ''}.",
            "Check the endpoint in settings.toml, and whether that port speaks https.",
        )

    async def _certificate(self, target: RequestTarget, *, asks_date: bool) -> Certificate | None:
        if not self._probes:
            return None
        return await fetch_certificate(target.url, target.reach, asks_date=asks_date)


def web_page_cause(name: str, about: str) -> Cause:
    """A web page, where *about* was requested from the source registry *name*."""
    return Cause(CauseCode.WEB_PAGE, f"{name} answers with a web page for {about}.", WEB_PAGE_CURE)


def _proxy_of(url: httpx.URL) -> Proxy | None:
    try:
        return proxy_of(url)
    except ProxyUnusable:
        return None
