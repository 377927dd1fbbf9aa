"""This machine's environment: clock, routes, name servers, trust store.

It explains failures. No packet is sent. Connecting a UDP socket only makes the kernel look for a
route.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from entrepot.formatting import duration
from entrepot.source import system_trust

CLOCK_TOLERANCE = 300.0
"""Seconds by which the clock may be wrong: beyond, certificates and tokens count as expired."""

CLOCK_CURE = (
    "Set the clock of this machine (of its host, if this is a container or a virtual machine), and "
    "let chrony or systemd-timesyncd keep it right."
)

MAX_DATES = 16
"""Sources whose Date header is remembered, the latest ones."""

DATE_INTERVAL = 60.0
"""Seconds for which further Date headers of the same source are ignored."""

_RESOLV_CONF = Path("/etc/resolv.conf")
_OUTSIDE_ADDRESSES = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses for documentation (RFC 5737, RFC 3849): only the default route leads to them."""


def parse_date(value: str | None) -> float | None:
    """A Date header in seconds since the epoch; None without a valid one."""
    try:
        return parsedate_to_datetime(value[:64]).timestamp() if value is not None else None
    except (ValueError, OverflowError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class _StatedDate:
    date: float
    noted_at: float


class ClockEvidence:
    """How wrong this machine's clock is, by trusted sources and by earlier records.

    *clock* is monotonic, *wall_clock* the one that is checked, both in seconds.
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
        self._dates: OrderedDict[str, _StatedDate] = OrderedDict()

    def note(self, login_server: str, headers: Mapping[str, str]) -> None:
        """Remember the Date header of a response over a trusted connection."""
        latest = self._dates.get(login_server)
        now = self._clock()
        if latest is not None and 0 <= now - latest.noted_at < DATE_INTERVAL:
            return
        date = parse_date(headers.get("date"))
        if date is None or "age" in headers:
            # A cached response has the date of its origin (RFC 9111, section 5.1).
            return
        self._dates[login_server] = _StatedDate(date, now)
        self._dates.move_to_end(login_server)
        while len(self._dates) > MAX_DATES:
            self._dates.popitem(last=False)

    def ahead(self, *, without: str | None = None) -> float | None:
        """Seconds by which the sources are ahead of this machine; None without a Date.

        Where one of them agrees with this machine's clock, the others are wrong. Spans are
        monotonic: a clock that was set since counts as it is now.
        """
        now, wall = self._clock(), self.wall_clock()
        spans = [
            stated.date + (now - stated.noted_at) - wall
            for name, stated in self._dates.items()
            if name != without
        ]
        return min(spans, key=abs, default=None)

    @property
    def witnesses(self) -> str:
        """The sources whose Date counts, for messages."""
        return next(iter(self._dates)) if len(self._dates) == 1 else "the sources"

    @property
    def behind_records(self) -> float:
        """By how many seconds the clock is at least behind, by earlier records; or 0."""
        return max(0.0, self.not_before - self.wall_clock())


def describe_clock(ahead: float, wall: float) -> str:
    """``This machine's clock is 400 days behind (2025-10-26)``, for *wall*.

    *ahead* and *wall* are in seconds, *wall* since the epoch.
    """
    days = abs(ahead) / 86_400
    span = f"{days:,.0f} days" if days >= 2 else duration(abs(ahead))
    moment = time.strftime("%Y-%m-%d" if days >= 2 else "%Y-%m-%d %H:%M UTC", time.gmtime(wall))
    return f"This machine's clock is {span} {'behind' if ahead > 0 else 'ahead'} ({moment})"


def has_route(family: socket.AddressFamily) -> bool:
    """Whether a route leads out of this machine."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_OUTSIDE_ADDRESSES[family], 9))
    except OSError:
        return False
    return True


def has_network() -> bool:
    """Whether a route of either family leads out of this machine."""
    return has_route(socket.AF_INET) or has_route(socket.AF_INET6)


def has_name_server(path: Path = _RESOLV_CONF) -> bool:
    """Whether resolv.conf(5) names a name server. Blocks."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return False
    except OSError:
        # A file that can't be read is not missing.
        return True
    return any(line.split()[:1] == ["nameserver"] and len(line.split()) > 1 for line in lines)


def trust_store_problem() -> tuple[str, str] | None:
    """Why no certificate authority is trusted, and what to do; None if some are.

    Blocks. The paths are those of `entrepot.source.system_trust`.
    """
    defaults = ssl.get_default_verify_paths()
    if defaults.cafile is not None and _holds_certificates(defaults.cafile):
        return None
    if defaults.capath is not None and system_trust.holds_hashed(defaults.capath):
        return None
    if defaults.cafile is None and any(_holds_certificates(path) for path in system_trust.STORES):
        return None
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        path = os.environ.get(variable)
        if path:
            state = (
                "holds no certificate that can be read" if os.path.exists(path) else "is missing"
            )
            return (
                f"{variable} names {path}, which {state}",
                f"Correct or unset {variable} where the engine is started.",
            )
    return (
        "the system's store is empty or missing",
        "Install the package ca-certificates, in a container into its image.",
    )


def limited_trust() -> str:
    """A phrase on the environment variables that say whom to trust, or an empty one."""
    defaults = ssl.get_default_verify_paths()
    usual = {
        *system_trust.STORES,
        "/etc/ssl/certs",
        defaults.openssl_cafile,
        defaults.openssl_capath,
    }
    variables = ((name, os.environ.get(name, "")) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    phrases = [f"{name} names {path}" for name, path in variables if path and path not in usual]
    return f" ({' and '.join(phrases)} in place of the system's own store)" if phrases else ""


def _holds_certificates(file: str) -> bool:
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=file)
    except OSError:
        return False
    return context.cert_store_stats()["x509"] > 0
