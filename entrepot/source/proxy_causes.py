"""Causes of failed requests that went through a proxy of the environment."""

from __future__ import annotations

import errno
import socket
import ssl

import httpx

from entrepot.causes import Cause, CauseCode
from entrepot.formatting import printable
from entrepot.source.certificate_causes import CERTIFICATE_CURE
from entrepot.source.dns import LookupsBusy, LookupTimedOut
from entrepot.source.failed_request import RequestTarget, errnos, failed_lookup
from entrepot.source.proxies import (
    BehindProxyUnreachable,
    Proxy,
    ProxyFailed,
    ProxyUnusable,
)


def unusable_proxy_cause(error: ProxyUnusable) -> Cause:
    """A variable of the environment that names no proxy that can be used."""
    return Cause(CauseCode.PROXY_UNUSABLE, error.what, error.hint)


def proxy_failure_cause(
    error: ProxyFailed, chain: list[BaseException], target: RequestTarget
) -> Cause:
    """What is wrong with the proxy that should connect to the source."""
    proxy = error.proxy
    if error.status is not None:
        return proxy_status_cause(error.status, target, proxy)
    who, so, around = _phrases(target, proxy)
    if error.reason:
        return Cause(
            CauseCode.PROXY_FAILS,
            f"{who} refuses: {printable(error.reason, 150)}; {so}.",
            f"Check the user name and the password in {proxy.variable}, and the proxy's own log, "
            f"{around}.",
        )
    lookup = failed_lookup(chain)
    if any(isinstance(cause, LookupTimedOut) for cause in chain) or (
        lookup is not None and lookup.errno in {socket.EAI_AGAIN, socket.EAI_FAIL}
    ):
        # That says nothing about the name of the proxy.
        return Cause(
            CauseCode.NAME_SERVER_SILENT,
            f"{who} can't be reached: the name server of this machine gives no answer, {so}.",
            "Check the name server in /etc/resolv.conf, and the network on the way to it.",
        )
    if lookup is not None or any(isinstance(cause, LookupsBusy) for cause in chain):
        return Cause(
            CauseCode.PROXY_NAME_UNKNOWN,
            f"{who} can't be reached: its name is not known here, {so}.",
            f"Correct {proxy.variable} where the engine is started, {around}.",
        )
    numbers = errnos(chain)
    state = f"fails ({_last_message(chain)})"
    if numbers & {errno.ECONNREFUSED}:
        state = "accepts no connections"
    elif numbers & {errno.EHOSTUNREACH, errno.ENETUNREACH}:
        state = "can't be reached: no route leads there"
    elif any(isinstance(cause, (TimeoutError, httpx.TimeoutException)) for cause in chain):
        state = "accepts no connection in time"
    code = CauseCode.PROXY_FAILS if state.startswith("fails") else CauseCode.PROXY_UNREACHABLE
    return Cause(
        code,
        f"{who} {state}, {so}.",
        f"Start it, correct {proxy.variable} where the engine is started, {around}.",
    )


def _last_message(chain: list[BaseException]) -> str:
    """The innermost message, from a library or the system; it names no secret."""
    messages = [printable(str(cause), 150) for cause in chain if str(cause)]
    return messages[-1].rstrip(".") if messages else "no answer"


def behind_proxy_cause(error: BehindProxyUnreachable, target: RequestTarget) -> Cause:
    """A proxy works, and can't connect to the source."""
    who, so, around = _phrases(target, error.proxy)
    return Cause(
        CauseCode.PROXY_FAILS,
        f"{who} can't connect to {target.host}: {printable(error.reason, 150)}; {so}.",
        f"Check whether the registry is up, and whether the proxy may reach it, {around}.",
    )


def through_proxy_cause(error: BaseException, target: RequestTarget, proxy: Proxy) -> Cause:
    """A connection through a proxy fails, and either end may be at fault.

    Only the proxy is connected to from here, so the source alone is never named (F75).
    """
    who, so, around = _phrases(target, proxy)
    if isinstance(error, (httpx.ConnectTimeout, httpx.ConnectError)):
        state = "in time" if isinstance(error, httpx.ConnectTimeout) else "that lasts"
        return Cause(
            CauseCode.PROXY_FAILS,
            f"{who} gives no connection to {target.host} {state}, {so}.",
            f"Check whether it runs and may connect there, {around}.",
        )
    is_silent = isinstance(error, (httpx.TimeoutException, TimeoutError))
    how = "does not come in time" if is_silent else "never comes: the connection ends"
    return Cause(
        CauseCode.PROXY_FAILS,
        f"An answer of {target.host} through the proxy {proxy.place} "
        f"(the engine's {proxy.variable}) {how}.",
        f"Try again later; if it stays so, look at the proxy's own log, {around}.",
    )


def proxy_certificate_cause(
    chain: list[BaseException], target: RequestTarget, proxy: Proxy
) -> Cause:
    """A proxy that speaks TLS and whose certificate is not trusted."""
    who, so, _ = _phrases(target, proxy)
    reasons = [
        getattr(cause, "verify_message", "")
        for cause in chain
        if isinstance(cause, ssl.SSLCertVerificationError)
    ]
    if not reasons:
        return Cause(
            CauseCode.TLS_FAILED,
            f"{who} does not speak TLS as Entrepot does, {so}.",
            f"Check {proxy.variable}: https:// means TLS to the proxy itself.",
        )
    reason = printable(max(reasons, key=len) or "unknown", 150)
    return Cause(
        CauseCode.CERTIFICATE_UNTRUSTED, f"{who} is not trusted: {reason}; {so}.", CERTIFICATE_CURE
    )


def proxy_status_cause(status: int, target: RequestTarget, proxy: Proxy) -> Cause:
    """A proxy that answers with a status of its own instead of connecting."""
    who, so, around = _phrases(target, proxy)
    if status == 407:
        state = "requires a user name and a password"
        cure = f"Put them into {proxy.variable}: {proxy.scheme}://USER:PASSWORD@{proxy.place}"
        if proxy.username is not None:
            state = "does not accept the user name and password that it is given"
            cure = (
                f"Correct them in {proxy.variable}, with special characters percent-encoded "
                "(@ is %40)"
            )
        return Cause(
            CauseCode.PROXY_SIGN_IN,
            f"{who} {state} (status 407), {so}.",
            f"{cure}; then start the engine again.",
        )
    if status == 403:
        return Cause(
            CauseCode.PROXY_FORBIDS,
            f"{who} forbids {target.host} (status 403), {so}.",
            f"Ask the proxy's operator to allow it, {around}.",
        )
    return Cause(
        CauseCode.PROXY_FAILS,
        f"{who} does not connect to {target.host} (status {status}), {so}.",
        f"Look at the proxy's own log, {around}.",
    )


def _phrases(target: RequestTarget, proxy: Proxy) -> tuple[str, str, str]:
    """The proxy, what its fault leads to, and the way around it."""
    return (
        f"The proxy {proxy.place} (the engine's {proxy.variable})",
        f"so {target.name} can't be reached",
        f"or put {target.host} into NO_PROXY if a direct way leads there",
    )
