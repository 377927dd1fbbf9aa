"""What must be said before other machines may reach the registry.

Beyond loopback, plain HTTP lets everyone on the way read and change what passes, and without
sign-in everyone who reaches the address may pull. Both are allowed, but only when they are meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from entrepot.config.settings import Settings
from entrepot.config.settings_tables import SettingsInvalid, parse_listen
from entrepot.core.hosts import is_loopback


@dataclass(frozen=True, slots=True)
class OpenAddress:
    """An address to listen on that other machines can reach."""

    listen: str
    is_plain: bool
    """Whether it speaks plain HTTP."""
    is_agreed: bool
    """Whether the settings say that plain HTTP is meant there."""


def open_addresses(settings: Settings) -> Iterator[OpenAddress]:
    """The addresses of the registry and its mirrors that are beyond loopback."""
    agreed = settings.allow_plain_http
    if not is_loopback(parse_listen(settings.listen)[0]):
        yield OpenAddress(settings.listen, settings.tls is None, agreed)
    for mirror in settings.mirrors:
        if mirror.listen is not None and not is_loopback(parse_listen(mirror.listen)[0]):
            yield OpenAddress(mirror.listen, mirror.tls is None, agreed or mirror.plain_http)


def check_network_access(settings: Settings, command: str = "entrepot serve") -> None:
    """Raise `SettingsInvalid` where the settings open more than they say.

    Its message has the lines that are missing, and *command*, which was to start the engine, with
    the options that are missing; each on a line of its own, to be copied.
    """
    addresses = list(open_addresses(settings))
    plain = [each for each in addresses if each.is_plain and not each.is_agreed]
    anonymous = addresses if settings.readers is None and settings.allow_anonymous is None else []
    if not plain and not anonymous:
        return
    reached = ", ".join(dict.fromkeys(each.listen for each in (*plain, *anonymous)))
    ways = [
        way
        for way, is_missing in (
            ("over plain HTTP", bool(plain)),
            ("without sign-in", bool(anonymous)),
        )
        if is_missing
    ]
    keys = [
        key
        for key, is_missing in (
            ("allow_plain_http", bool(plain)),
            ("allow_anonymous", bool(anonymous)),
        )
        if is_missing
    ]
    lines = "".join(f"    {key} = true\n" for key in keys)
    flags = " ".join(f"--{key.replace('_', '-')}" for key in keys)
    better = " ".join(
        advice
        for advice, is_missing in (
            ("For TLS give certificate and key instead: see entrepot certificate.", bool(plain)),
            ("For sign-in write [readers] into settings.toml instead.", bool(anonymous)),
        )
        if is_missing
    )
    raise SettingsInvalid(
        f"Other machines could reach the registry on {reached} {' and '.join(ways)}, "
        "and nothing says that this is meant.",
        f"If it is, write at the top of settings.toml:\n{lines}"
        f"or start with:\n    {command} {flags}\n{better}",
        field=keys[0],
    )


def access_problems(settings: Settings) -> Iterator[tuple[str, str]]:
    """What is open to other machines, and what to do about it, in sentences."""
    addresses = list(open_addresses(settings))
    if plain := ", ".join(each.listen for each in addresses if each.is_plain):
        yield (
            f"Other machines reach the registry on {plain} over plain HTTP: what passes can be "
            "read and changed on the way.",
            "Give certificate and key in settings.toml, or let a proxy in front speak TLS.",
        )
    if addresses and settings.anonymous_may_read:
        reached = ", ".join(each.listen for each in addresses)
        what = "what has no readers" if settings.readers is not None else "all cached images"
        yield (
            f"Every machine that reaches {reached} may pull {what} without signing in.",
            "Name readers in settings.toml, or let a firewall choose who reaches it.",
        )
