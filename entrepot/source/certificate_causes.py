"""Causes of failed requests in the certificate that a server presents."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from entrepot.causes import Cause, CauseCode
from entrepot.source.certificate_probe import EXAMPLES_IN_MESSAGE, Certificate
from entrepot.source.environment import limited_trust
from entrepot.source.failed_request import RequestTarget
from entrepot.source.proxies import Proxy

CERTIFICATE_CURE: Final = (
    "If it is your company's or a proxy's, name its certificate as ca_file in settings.toml or "
    "add it to the system's."
)
"""What to do about an authority that is not trusted."""


def wrong_name_cause(certificate: Certificate | None, target: RequestTarget) -> Cause:
    """The certificate is for other hosts."""
    names = certificate.names if certificate is not None else ()
    others = len(names) - EXAMPLES_IN_MESSAGE
    examples = ", ".join(names[:EXAMPLES_IN_MESSAGE]) + (
        f" and {others} more" if others > 0 else ""
    )
    whose = f"is only for {examples}" if names else "names no host"
    return Cause(
        CauseCode.CERTIFICATE_WRONG_NAME,
        f"{target.label} can't be reached safely: its certificate {whose}.",
        "Check the endpoint in settings.toml, and what the name server says; else the registry "
        "needs another certificate.",
    )


def unknown_issuer_cause(
    certificate: Certificate | None, target: RequestTarget, proxy: Proxy | None
) -> Cause:
    """The certificate authority is not trusted here."""
    if certificate is None:
        return Cause(
            CauseCode.CERTIFICATE_UNTRUSTED,
            f"{target.label} can't be reached safely: its certificate is not trusted: "
            f"its issuer is not known here{limited_trust()}.",
            CERTIFICATE_CURE,
        )
    if certificate.is_alone:
        return Cause(
            CauseCode.CERTIFICATE_CHAIN_INCOMPLETE,
            f"{target.label} can't be reached safely: it sends its certificate without that of "
            f"the issuer, {certificate.issuer}.",
            "The registry's operator must let it send the whole chain; until then ca_file in "
            "settings.toml can name the issuer's certificate.",
        )
    way = f" through {proxy.place}" if proxy is not None else ""
    return Cause(
        CauseCode.CERTIFICATE_UNTRUSTED,
        f"{target.label} can't be reached safely{way}: this machine does not trust the issuer of "
        f"its certificate, {certificate.issuer}{limited_trust()}.",
        CERTIFICATE_CURE,
    )


def self_signed_cause(target: RequestTarget) -> Cause:
    """The certificate is its own issuer."""
    return Cause(
        CauseCode.CERTIFICATE_SELF_SIGNED,
        f"{target.label} can't be reached safely: its certificate is not trusted: self-signed "
        "certificate.",
        "If it is really that registry's, name the certificate as ca_file in settings.toml, and "
        "start the engine again.",
    )


def not_yet_valid_cause(
    certificate: Certificate | None, target: RequestTarget, now: float
) -> Cause:
    """The certificate is for the future; the clock is right and says *now*."""
    since = f" before {_day(certificate.not_before)}" if certificate is not None else " yet"
    return Cause(
        CauseCode.CERTIFICATE_NOT_YET_VALID,
        f"{target.label} can't be reached safely: its certificate is not valid{since}.",
        f"The registry's operator must replace it. This machine's clock says {_day_of(now)}.",
    )


def expired_cause(certificate: Certificate | None, target: RequestTarget, now: float) -> Cause:
    """The certificate has expired; the clock is right and says *now*."""
    since = f" on {_day(certificate.not_after)}" if certificate is not None else ""
    return Cause(
        CauseCode.CERTIFICATE_EXPIRED,
        f"{target.label} can't be reached safely: its certificate expired{since}.",
        f"The registry's operator must renew it. This machine's clock says {_day_of(now)}.",
    )


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")


def _day_of(seconds: float) -> str:
    try:
        return _day(datetime.fromtimestamp(seconds, UTC))
    except (OverflowError, ValueError, OSError):
        return "a time beyond all calendars"
