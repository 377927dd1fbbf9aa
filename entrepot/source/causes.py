"""Why a request to a source registry got no answer, in one sentence with a cure.

The sentence is made once, here, and goes as it is to the client whose pull fails, the state of the
source, ``doctor``, the dashboard and the log.
"""

from __future__ import annotations

import socket
import ssl

import httpx

from entrepot.source.errors import SourceUnreachable
from entrepot.source.lookups import LookupsBusy, LookupTimedOut
from entrepot.words import printable


class Diagnosis:
    """Names the cause of a request that got no answer. All source registries share one."""

    async def explain(self, error: httpx.TransportError, name: str) -> SourceUnreachable:
        """What to tell of a failed request of *error* to the source registry *name*."""
        return _unreachable(error, name)


def _unreachable(error: httpx.TransportError, name: str) -> SourceUnreachable:
    host = printable(error.request.url.host, 253)
    where = host if host == name else f"{name} ({host})"
    causes = list(causes_of(error))
    if any(isinstance(each, ssl.SSLError) for each in causes):
        # aiohttp has an exception of that class without the message of the one that it wraps.
        untrusted = [getattr(each, "verify_message", "") for each in causes if isinstance(each, ssl.SSLCertVerificationError)]
        why = f"its certificate is not trusted: {max(untrusted, key=len) or 'unknown'}" if untrusted else "no TLS connection comes about"
        return SourceUnreachable(f"{where} can't be reached safely: {why}.", "A company's own certificate authority must be known to this machine's system.")
    if any(isinstance(each, LookupTimedOut) for each in causes):
        return SourceUnreachable(f"{where} can't be reached: the name server does not answer in time.", "Check the name server of this machine.")
    if any(isinstance(each, LookupsBusy) for each in causes):
        return SourceUnreachable(
            f"{where} can't be reached: too many look-ups of names wait for an answer.", "Check the name server of this machine; try again later."
        )
    if any(isinstance(each, socket.gaierror) for each in causes):
        return SourceUnreachable(f"{where} can't be reached: its name is not known.", "Check the name server and the network of this machine.")
    if isinstance(error, httpx.ConnectTimeout):
        return SourceUnreachable(f"{where} can't be reached: it takes no connection in time.", "Check the network, a firewall or a proxy on the way.")
    if isinstance(error, httpx.TimeoutException):
        return SourceUnreachable(f"{where} takes the connection but does not answer in time.", "Try again later.")
    if isinstance(error, httpx.ProxyError):
        return SourceUnreachable(f"{where} can't be reached: the proxy of this machine's environment refuses.", "Check HTTPS_PROXY and NO_PROXY.")
    if isinstance(error, httpx.ConnectError):
        return SourceUnreachable(f"{where} can't be reached: it takes no connections.", "Check the network, or whether the registry is up.")
    return SourceUnreachable(f"{where} ends the connection without an answer.", "Try again later.")


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
