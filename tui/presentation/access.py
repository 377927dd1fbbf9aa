"""Who may read at the registry, and whether it speaks TLS, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from entrepot.api.models import EngineStatus, RuleSnapshot
from entrepot.core.hosts import is_loopback, literal_address
from entrepot.formatting import counted, duration
from tui.presentation.status import day, join_names
from widgets.row_list import Cell

EXPIRY_WARNING: Final = 14 * 86_400.0
"""Seconds before its end from which a certificate is a problem: certbot renews 30 days before."""

MAX_READERS = 4
"""Readers and groups of a rule that are named in a line."""


def access_line(status: EngineStatus, now: float) -> Cell:
    """Who may read and whether the way is encrypted, in one line.

    ``Anyone who reaches 0.0.0.0:5000 may read, plain HTTP`` or ``Sign-in required, TLS until
    2027-03-01``. The tone warns of what other machines can use and hardly anyone wants.
    """
    reachable = _beyond_loopback(status)
    is_closed = not status.can_sign_in and not status.anonymous_may_read_something
    has_plain = any(not has_tls for _, has_tls in reachable)
    is_ending = (
        status.certificate_expires is not None and status.certificate_expires - now < EXPIRY_WARNING
    )
    return Cell(
        f"{_who(status, [address for address, _ in reachable])}, {_encryption(status, now)}",
        "warn" if is_closed or has_plain or is_ending else "",
    )


def anonymous_line(status: EngineStatus, anonymous_rules: int, now: float) -> Cell:
    """The same, with the number of rules that need no sign-in: what exactly is open."""
    rules = max(status.rules, anonymous_rules)
    what = (
        "No rule can be read"
        if not anonymous_rules
        else f"All {rules:,} rules can be read"
        if anonymous_rules == rules > 1
        else f"{anonymous_rules:,} of {counted(rules, 'rule')} can be read"
    )
    return Cell(
        f"{what} without sign-in, {_encryption(status, now)}", access_line(status, now).tone
    )


def _who(status: EngineStatus, reachable: Sequence[str]) -> str:
    who = f"Anyone who reaches {reachable[0]}" if reachable else "Anyone on this machine"
    if not status.can_sign_in:
        if status.anonymous_may_read:
            return f"{who} may read"
        return (
            f"{who} may read some rules; no reader can sign in"
            if status.anonymous_may_read_something
            else "Sign-in required, but no reader can sign in"
        )
    if status.anonymous_may_read:
        return "Sign-in only for rules that name readers"
    if status.anonymous_may_read_something:
        return "Sign-in required, but for rules open to everyone"
    return "Sign-in required"


def _encryption(status: EngineStatus, now: float) -> str:
    if not status.has_tls:
        return "plain HTTP"
    plain = [address for address, has_tls in _beyond_loopback(status) if not has_tls]
    also_plain = f", plain HTTP at {plain[0]}" if plain else ""
    if status.certificate_expires is None:
        return f"TLS{also_plain}"
    left = status.certificate_expires - now
    date = day(status.certificate_expires)
    if left <= 0:
        return f"TLS with a certificate that expired {date}{also_plain}"
    remaining = f" ({duration(left)} left)" if left < EXPIRY_WARNING else ""
    return f"TLS until {date}{remaining}{also_plain}"


def _beyond_loopback(status: EngineStatus) -> list[tuple[str, bool]]:
    """The addresses that other machines can reach, and whether each speaks TLS."""
    _, _, port = status.address.rpartition(":")
    listeners = [(status.address, status.has_tls)]
    for mirror in status.mirrors:
        host, _, mirror_port = mirror.address.rpartition(":")
        # A mirror with a host name is on the registry's own listener.
        if mirror_port != port or literal_address(host.strip("[]")) is not None:
            listeners.append((mirror.address, mirror.has_tls))
    return [
        (address, has_tls)
        for address, has_tls in listeners
        if not is_loopback(address.rpartition(":")[0].strip("[]"))
    ]


def rule_readers(rule: RuleSnapshot) -> str:
    """Who may read what a rule caches: ``everyone``, ``all who sign in`` or ``ci, @ops``."""
    is_named = bool(rule.readers) and rule.anonymous is not True
    return join_names(rule.readers, limit=MAX_READERS) if is_named else rule.readable_by


def login_command(name: str, address: str) -> str:
    """The command with which a container client signs in.

    ``HOST`` stands for this machine where the registry listens on all of its addresses.
    """
    host, _, port = address.rpartition(":")
    literal = literal_address(host.strip("[]"))
    is_everywhere = literal is not None and literal.is_unspecified
    return f"docker login -u {name} {f'HOST:{port}' if is_everywhere else address}"


def plain_http_remark(address: str) -> str:
    """What a sign-in over plain HTTP means, and what container clients want for it.

    docker takes plain HTTP on 127.0.0.0/8 without being told.
    """
    if is_loopback(address.rpartition(":")[0].strip("[]")):
        return "The registry speaks plain HTTP: podman login takes --tls-verify=false with it."
    return (
        "The registry speaks plain HTTP: on the way, the token can be read. docker signs in there "
        "only where insecure-registries names it, podman with --tls-verify=false."
    )
