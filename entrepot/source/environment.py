"""What this machine's surroundings say about a failure: its clock, routes, name servers, trust
store.

Nothing here is sent anywhere. A UDP socket that is connected sends no packet; it only makes the
kernel look for a route.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from entrepot.formatting import duration

CLOCK_WRONG = 300.0
"""Seconds by which the clock may be wrong: beyond, certificates and tokens count as expired."""

CLOCK_CURE = "Set the clock of this machine (of its host, if this is a container or a virtual machine), and let chrony or systemd-timesyncd keep it right."

DATES_KEPT = 16
"""Sources whose Date header is remembered, those heard last."""

DATE_INTERVAL = 60.0
"""Seconds for which the Date headers of a source that was heard are not looked at again."""

_RESOLV_CONF = Path("/etc/resolv.conf")
_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")

_STORES = (
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/cert.pem",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
)
"""Where truststore looks besides the places of OpenSSL."""

_OUTSIDE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses of the documentation (RFC 5737, RFC 3849): to them leads the default route only."""


def parse_date(value: str | None) -> float | None:
    """A Date header in seconds since the epoch; None where there is none that can be read."""
    try:
        return parsedate_to_datetime(value[:64]).timestamp() if value is not None else None
    except (ValueError, OverflowError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class _Heard:
    date: float
    at: float


class ClockEvidence:
    """How wrong this machine's clock is, by what trusted sources say and by what was written
    before.

    *clock* is monotonic, *wall_clock* the one that is judged, both in seconds.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.wall_clock = wall_clock
        self.not_before = 0.0
        """A time that has passed for certain, in seconds since the epoch."""
        self._clock = clock
        self._heard: OrderedDict[str, _Heard] = OrderedDict()

    def note(self, login_server: str, headers: Mapping[str, str]) -> None:
        """Remember the Date header of an answer over a connection that was trusted."""
        heard = self._heard.get(login_server)
        now = self._clock()
        if heard is not None and 0 <= now - heard.at < DATE_INTERVAL:
            return
        date = parse_date(headers.get("date"))
        if date is None or "age" in headers:
            # What a cache on the way has kept has the date of its making (RFC 9111, 5.1).
            return
        self._heard[login_server] = _Heard(date, now)
        self._heard.move_to_end(login_server)
        while len(self._heard) > DATES_KEPT:
            self._heard.popitem(last=False)

    def ahead(self, *, without: str | None = None) -> float | None:
        """By how many seconds the sources are ahead of this machine; None where none was heard.

        Where one of them agrees with this machine's clock, it is the others that are wrong. Spans
        are monotonic: a clock that was set since counts as it is now.
        """
        now, wall = self._clock(), self.wall_clock()
        spans = [
            heard.date + (now - heard.at) - wall
            for name, heard in self._heard.items()
            if name != without
        ]
        return min(spans, key=abs, default=None)

    @property
    def witnesses(self) -> str:
        """Who says what time it is, for messages."""
        return next(iter(self._heard)) if len(self._heard) == 1 else "the sources"

    @property
    def behind_records(self) -> float:
        """By how many seconds the clock is at least behind, by what was written before; or 0."""
        return max(0.0, self.not_before - self.wall_clock())


def describe_clock(ahead: float, wall: float) -> str:
    """``This machine's clock is 400 days behind (2025-10-26)``, for a clock that says *wall*."""
    days = abs(ahead) / 86_400
    span = f"{days:,.0f} days" if days >= 2 else duration(abs(ahead))
    shown = time.strftime("%Y-%m-%d" if days >= 2 else "%Y-%m-%d %H:%M UTC", time.gmtime(wall))
    return f"This machine's clock is {span} {'behind' if ahead > 0 else 'ahead'} ({shown})"


def has_route(family: socket.AddressFamily) -> bool:
    """Whether a route leads out of this machine."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_OUTSIDE[family], 9))
    except OSError:
        return False
    return True


def has_network() -> bool:
    """Whether a route of either family leads out of this machine."""
    return has_route(socket.AF_INET) or has_route(socket.AF_INET6)


def has_name_server(path: Path = _RESOLV_CONF) -> bool:
    """Whether the system's resolver is told of a name server (resolv.conf(5)). Blocks."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return False
    except OSError:
        # Not to be read is not to be missing.
        return True
    return any(line.split()[:1] == ["nameserver"] and len(line.split()) > 1 for line in lines)


def trust_store_problem() -> tuple[str, str] | None:
    """Why this machine trusts no certificate authority, and what to do; None where it trusts some.

    Blocks. The places are those of OpenSSL and of truststore.
    """
    defaults = ssl.get_default_verify_paths()
    if defaults.cafile is not None and _holds_certificates(defaults.cafile):
        return None
    if defaults.capath is not None and _holds_hashed(defaults.capath):
        return None
    if defaults.cafile is None and any(_holds_certificates(each) for each in _STORES):
        return None
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        place = os.environ.get(variable)
        if place:
            state = (
                "holds no certificate that can be read" if os.path.exists(place) else "is not there"
            )
            return (
                f"{variable} names {place}, which {state}",
                f"Correct or unset {variable} where the engine is started.",
            )
    return (
        "the system's store is empty or missing",
        "Install the package ca-certificates, in a container into its image.",
    )


def limited_trust() -> str:
    """A sentence on the variables of the environment that say whom to trust, or nothing."""
    defaults = ssl.get_default_verify_paths()
    usual = {*_STORES, "/etc/ssl/certs", defaults.openssl_cafile, defaults.openssl_capath}
    places = ((each, os.environ.get(each, "")) for each in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    named = [f"{each} names {place}" for each, place in places if place and place not in usual]
    return f" ({' and '.join(named)} in place of the system's own store)" if named else ""


def _holds_certificates(file: str) -> bool:
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=file)
    except OSError:
        return False
    return context.cert_store_stats()["x509"] > 0


def _holds_hashed(directory: str) -> bool:
    try:
        return any(_HASHED.fullmatch(each.name) for each in os.scandir(directory))
    except OSError:
        return False
