"""Podman, skopeo, Buildah and CRI-O: a file in ``registries.conf.d``.

They do not say which source registry they mean (containers-registries.conf.d(5)): a prefix of names
is pulled from a mirror of that registry, or from the target repositories of the rule. There the
target of another rule may lie within; its names must not answer for those of this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Final

from entrepot.core.mirror_configuration.authorities import authority_files
from entrepot.core.mirror_configuration.files import ClientFile, OwnFile, string
from entrepot.core.mirror_configuration.setup import (
    Endpoint,
    MirrorConfigurationImpossible,
    MirroredRule,
    Setup,
)
from entrepot.core.registries import DOCKER_HUB

DROP_IN: Final = "50-entrepot-mirror.conf"
"""The name of the file."""

Result = tuple[tuple[ClientFile, ...], tuple[str, ...]]


def configure_podman(setup: Setup, place: str) -> Result:
    """The file of Podman, skopeo and Buildah, which read it at the next pull."""
    return _configure(setup, place, (), "podman login {}")


def configure_crio(setup: Setup, place: str) -> Result:
    """The same file, which CRI-O reads when it is told to."""
    return _configure(
        setup,
        place,
        ("CRI-O reads it after: sudo systemctl reload crio",),
        "podman login --authfile /var/lib/kubelet/config.json {}",
    )


def _configure(setup: Setup, place: str, notes: Sequence[str], login: str) -> Result:
    tables: dict[str, str] = {}
    guards: dict[str, str] = {}
    omitted: list[str] = []
    endpoints: dict[str, Endpoint] = {}
    for rule in setup.chosen:
        mirror = setup.mirrors.get(rule.login_server)
        if mirror is not None:
            location = "/".join(filter(None, (mirror.address, rule.source)))
        else:
            if _is_inside_another(rule, setup.rules):
                omitted.append(rule.name)
                continue
            guards.update((prefix, _registry(prefix)) for prefix in _intruders(rule, setup.rules))
            location = "/".join(filter(None, (setup.registry.address, rule.target)))
        endpoint = mirror or setup.registry
        endpoints[endpoint.address] = endpoint
        # Of two rules with one source the first by name answers, as in `entrepot.core.mirrors`.
        tables.setdefault(
            rule.source_prefix,
            _registry(rule.source_prefix, location, _is_insecure(setup, endpoint)),
        )
    notes = [*notes, *(_omission(name) for name in omitted)]
    if not tables:
        raise MirrorConfigurationImpossible(
            "No rule can be configured: the target of another one lies at the same path.",
            notes[-1],
        )
    if setup.sign_in_required:
        commands = "; ".join(login.format(address) for address in endpoints)
        notes.append(f"The engine requires sign-in: {commands}")
    body = "\n".join((guards | tables)[prefix] for prefix in sorted(guards | tables))
    certificates = str(PurePosixPath(place).parent / "certs.d")
    files: list[ClientFile] = [OwnFile(str(PurePosixPath(place, DROP_IN)), body)]
    for endpoint in endpoints.values():
        files += authority_files(setup, endpoint, certificates)
    return tuple(files), tuple(notes)


def _is_insecure(setup: Setup, endpoint: Endpoint) -> bool:
    return not endpoint.has_tls or setup.skip_verify


def _registry(prefix: str, mirror: str | None = None, insecure: bool = False) -> str:
    lines = ["[[registry]]", f"prefix = {string(prefix)}", f"location = {string(prefix)}"]
    if mirror is None:
        lines.insert(0, "# Another cache rule has this path here: these come from their source.")
    else:
        lines += ["", "[[registry.mirror]]", f"location = {string(mirror)}"]
        if insecure:
            lines.append("insecure = true")
    return "\n".join(lines) + "\n"


def _is_inside_another(rule: MirroredRule, rules: Sequence[MirroredRule]) -> bool:
    """Whether what lies below a static target comes from another source repository.

    A prefix in registries.conf also stands for all names below it.
    """
    if rule.wildcard:
        return False
    return any(
        other.wildcard
        and (rest := _below(rule.target, other.target)) is not None
        and _joined(other.source_prefix, rest) != rule.source_prefix
        for other in rules
    )


def _intruders(rule: MirroredRule, rules: Sequence[MirroredRule]) -> Iterator[str]:
    for other in rules:
        rest = _below(other.target, rule.target)
        if other is rule or not rest:
            continue
        prefix = _joined(rule.source_prefix, rest)
        # Clients write library/ in front of such a name of Docker Hub.
        is_never_requested = rule.source_prefix == DOCKER_HUB and "/" not in rest
        if prefix != other.source_prefix and not is_never_requested:
            yield prefix


def _below(path: str, other: str) -> str | None:
    """*path* without *other* in front of it, empty where both are the same; None: not below it."""
    if path == other:
        return ""
    if not other:
        return path
    return path[len(other) + 1 :] if path.startswith(f"{other}/") else None


def _joined(prefix: str, rest: str) -> str:
    return f"{prefix}/{rest}" if rest else prefix


def _omission(name: str) -> str:
    return (
        f"{name} is left out: below its target another rule has its own images. Give its source "
        "registry an address of its own ([[mirrors]] in settings.toml)."
    )
