"""What a client's mirror configuration is made from, as the API tells it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from entrepot.api.models import EngineStatus, MirrorSnapshot, RuleSnapshot
from entrepot.core.hosts import is_localhost, literal_address
from entrepot.core.mirror_configuration.setup import (
    Endpoint,
    MirroredRule,
    Setup,
    find_rule,
    reached_at,
)

EVERYONE: Final = "everyone"
"""What the API says of a rule that needs no sign-in."""


def mirror_setup(
    status: EngineStatus,
    rules: Iterable[RuleSnapshot],
    *,
    rule: str | None = None,
    address: str | None = None,
) -> Setup:
    """The setup for all rules, or the one named *rule*.

    *address* is the host, with or without a port, by which clients reach the engine; None: where it
    listens. Raises `MirrorConfigurationImpossible` or `CacheRuleNotFound`.
    """
    rules = list(rules)
    mirrored = tuple(
        MirroredRule.of(each.name, each.source_repository, each.target_repository) for each in rules
    )
    selected = find_rule(mirrored, rule) if rule is not None else None
    registry = reached_at(Endpoint(status.address, status.has_tls), address)
    setup = Setup(
        registry,
        mirrored,
        selected=selected,
        sign_in_required=any(
            each.readable_by != EVERYONE
            for each in rules
            if selected is None or each.name == selected.name
        ),
    )
    # Of several mirrors of one registry the first is used.
    mirrors = {
        mirror.namespace: _reached_with(registry, mirror, moved=address is not None)
        for mirror in reversed(status.mirrors)
    }
    return replace(setup, mirrors=mirrors)


def _reached_with(registry: Endpoint, mirror: MirrorSnapshot, *, moved: bool) -> Endpoint:
    """A mirror as clients reach it that reach the registry as *registry*.

    A mirror with a host name shares the port of the registry. One with a port of its own has the
    registry's host where that is *moved*, or where the mirror listens on all addresses.
    """
    endpoint = Endpoint(mirror.address, mirror.has_tls)
    host, _, _ = mirror.address.rpartition(":")
    registry_host, _, registry_port = registry.address.rpartition(":")
    if literal_address(host.strip("[]")) is None and not is_localhost(host):
        return Endpoint(f"{host}:{registry_port}", mirror.has_tls)
    return endpoint.at_host(registry_host) if moved or endpoint.is_unspecified else endpoint
