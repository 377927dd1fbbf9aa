"""What a client's configuration is made from: the engine's addresses, its rules, and options."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from entrepot.core.hosts import is_loopback, literal_address
from entrepot.core.reference import quoted
from entrepot.core.registries import TABLE
from entrepot.core.rules import CacheRuleNotFound
from entrepot.errors import Refusal

PLACEHOLDER: Final = "entrepot.example"
"""Stands for the name of the engine's machine where nothing says it."""

_ADDRESS = re.compile(
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


class MirrorConfigurationImpossible(Refusal):
    """A client can't be configured from what the engine has."""

    code = "MirrorConfigurationImpossible"
    status = 409


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address of the engine as clients reach it."""

    address: str
    """``127.0.0.1:5000``"""
    has_tls: bool = False

    @property
    def url(self) -> str:
        """``http://127.0.0.1:5000``"""
        return f"{'https' if self.has_tls else 'http'}://{self.address}"

    @property
    def is_unspecified(self) -> bool:
        """Whether it stands for all addresses of a machine, so that no client can connect to it."""
        address = literal_address(self.address.rpartition(":")[0].strip("[]"))
        return address is not None and address.is_unspecified

    def at_host(self, host: str) -> Endpoint:
        """The same port on *host*."""
        return Endpoint(f"{host}:{self.address.rpartition(':')[2]}", self.has_tls)


@dataclass(frozen=True, slots=True)
class MirroredRule:
    """A cache rule: where its images are at the source, and where they appear here.

    Paths are without ``/*``; an empty one stands for everything.
    """

    name: str
    login_server: str
    source: str
    target: str
    wildcard: bool

    @classmethod
    def of(cls, name: str, source_repository: str, target_repository: str) -> MirroredRule:
        """The rule of two texts in their normal form: ``docker.io/library/*``, ``library/*``."""
        login_server, _, path = source_repository.partition("/")
        wildcard = path == "*" or path.endswith("/*")
        return cls(name, login_server, _prefix(path), _prefix(target_repository), wildcard)

    @property
    def source_prefix(self) -> str:
        """``docker.io/library``: what the names of its images begin with at the source."""
        return f"{self.login_server}/{self.source}" if self.source else self.login_server


def _prefix(path: str) -> str:
    return path.removesuffix("*").removesuffix("/") if path.endswith("*") else path


@dataclass(frozen=True, slots=True)
class Credentials:
    """The name and password, or token, of a reader."""

    name: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a configuration is for."""

    registry: Endpoint
    rules: tuple[MirroredRule, ...]
    mirrors: Mapping[str, Endpoint] = field(default_factory=dict)
    """Addresses at which every image is one of a login server, by that."""
    selected: MirroredRule | None = None
    """The only rule to configure; None: all."""
    authorities: str | None = None
    """The file with the authority of the engine's certificate, on the client's machine."""
    authorities_text: str | None = None
    """What that file holds, for clients that need a copy of it at a place of their own."""
    skip_verify: bool = False
    """Whether the client accepts every certificate of the engine."""
    sign_in_required: bool = False
    """Whether the engine has rules that are not open to readers who do not sign in."""
    credentials: Credentials | None = None

    @property
    def chosen(self) -> tuple[MirroredRule, ...]:
        """The rules to configure, by name; raises `MirrorConfigurationImpossible` for none."""
        if self.selected is not None:
            return (self.selected,)
        if not self.rules:
            raise MirrorConfigurationImpossible(
                "There is no cache rule yet, so there is nothing to configure.",
                "Create one: entrepot rule create, or n in the dashboard.",
            )
        return tuple(sorted(self.rules, key=lambda rule: rule.name.casefold()))

    @property
    def login_servers(self) -> tuple[str, ...]:
        """The source registries of the rules to configure."""
        return tuple(sorted({rule.login_server for rule in self.chosen}))


def find_rule(rules: Iterable[MirroredRule], name: str) -> MirroredRule:
    """The rule *name*, without regard to case; raises `CacheRuleNotFound`."""
    rules = list(rules)
    for rule in rules:
        if rule.name.casefold() == name.casefold():
            return rule
    names = ", ".join(sorted(rule.name for rule in rules)[:5])
    raise CacheRuleNotFound(
        f"There is no cache rule {quoted(name)}.",
        f"There are: {names}." if names else "There is none yet.",
    )


def reached_at(endpoint: Endpoint, address: str | None) -> Endpoint:
    """An endpoint of the engine under the host, and perhaps port, of *address*.

    None leaves the endpoint as it is. Raises `MirrorConfigurationImpossible` where *address* is no
    address, or where it is missing although the endpoint has no name.
    """
    if address is None:
        if endpoint.is_unspecified:
            port = endpoint.address.rpartition(":")[2]
            raise MirrorConfigurationImpossible(
                f"The engine listens on all addresses of its machine ({endpoint.address}), "
                "and clients need one of them.",
                f"Say by which name they reach it: --address HOST:{port}",
                field="address",
            )
        return endpoint
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match["port"] or 1) not in range(1, 65536):
        raise MirrorConfigurationImpossible(
            f"{quoted(address)} is not an address.",
            "Write the host name or address, and port, by which clients reach the engine: "
            "cache.example:5000",
            field="address",
        )
    port = match["port"] or endpoint.address.rpartition(":")[2]
    return Endpoint(f"{match['host']}:{port}", endpoint.has_tls)


def source_url(login_server: str) -> str:
    """Where clients find a source registry themselves: ``https://registry-1.docker.io``."""
    for registry in TABLE:
        if registry.login_server == login_server:
            return registry.endpoint
    host = login_server.rpartition(":")[0] or login_server
    # As clients do: docker, containerd and Podman use plain HTTP for their own machine.
    return f"{'http' if is_loopback(host.strip('[]')) else 'https'}://{login_server}"
