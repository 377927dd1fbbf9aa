"""``[[mirrors]]``: addresses and host names at which every image is one source registry's.

For clients that keep image names and don't say which registry they mean, such as docker with
``registry-mirrors``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta, Struct

from entrepot.config.settings_tables import SettingsInvalid, invalid_at, parse_listen
from entrepot.config.tls_settings import TlsFiles, tls_files
from entrepot.core.hosts import HOST_LENGTH, literal_address
from entrepot.core.reference import quoted
from entrepot.core.registries import LoginServerInvalid, parse_login_server
from entrepot.toml import TableEntry, TomlDocument, TomlInvalid

MAX_MIRRORS: Final = 64
"""The most mirrors: each may have a socket."""

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_EXAMPLE = 'listen = "127.0.0.1:5002", or host = "hub.cache.example"'
_WHAT_IT_HAS = f"A mirror has a namespace, and {_EXAMPLE}."
_WHAT_NAMESPACE_IS = 'Write the source registry whose images are here: namespace = "docker.io".'


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where every image is one of the source registry *namespace*.

    Either at *listen*, an address of its own, or at *host*, a name by which clients reach the
    registry's own address.
    """

    namespace: str
    """A login server in its normal form: ``docker.io``."""
    listen: str | None = None
    host: str | None = None
    tls: TlsFiles | None = None
    """What its address speaks TLS with, or the certificate of *host*; None: no TLS of its own."""
    plain_http: bool = False
    """Whether its address has no TLS although that of the registry may have it."""


class _MirrorTable(Struct, kw_only=True):
    namespace: str
    listen: str | None = None
    host: Annotated[str, Meta(min_length=1)] | None = None
    certificate: Annotated[str, Meta(min_length=1)] | None = None
    key: Annotated[str, Meta(min_length=1)] | None = None
    client_authorities: Annotated[str, Meta(min_length=1)] | None = None
    plain_http: bool = False


def read_mirrors(
    document: TomlDocument, path: Path, *, listen: str, tls: TlsFiles | None
) -> tuple[Mirror, ...]:
    """The mirrors of the settings in *path*, whose registry has *listen* and *tls*.

    Blocks; raises `SettingsInvalid` with the line.
    """
    try:
        entries = document.table_entries("mirrors", _MirrorTable, noun="mirror")
    except TomlInvalid as error:
        raise invalid_at(path, error.line, error.what, "mirrors") from None
    if len(entries) > MAX_MIRRORS:
        raise invalid_at(
            path,
            entries[MAX_MIRRORS].line,
            f"There are more than {MAX_MIRRORS} mirrors.",
            "mirrors",
            "Clients that send ns, such as containerd, need no mirror of their own.",
        )
    mirrors: list[Mirror] = []
    for number, entry in enumerate(entries, 1):
        try:
            mirror = _mirror(entry, path, tls)
            _check_place(mirror, mirrors, listen)
        except (SettingsInvalid, LoginServerInvalid) as refusal:
            key = refusal.field or ""
            raise invalid_at(
                path,
                document.line_of_key(key, below=entry.line) or entry.line,
                f"In mirror {number}: {refusal.what}",
                refusal.field,
                refusal.hint,
            ) from None
        mirrors.append(mirror)
    return tuple(mirrors)


def _mirror(entry: TableEntry[_MirrorTable], path: Path, tls: TlsFiles | None) -> Mirror:
    for misfit in (*entry.unknown_keys, entry.misfit):
        if misfit is not None:
            hint = _WHAT_IT_HAS if "namespace" in entry.values else _WHAT_NAMESPACE_IS
            raise SettingsInvalid(misfit.what, hint, field=misfit.key)
    table = entry.row
    assert table is not None
    namespace = parse_login_server(table.namespace, field="namespace")
    if namespace.startswith("*."):
        raise SettingsInvalid(
            f"{namespace} stands for many registries, and a mirror is for one.",
            f"Write the name of yours: {namespace.replace('*', 'contoso', 1)}.",
            field="namespace",
        )
    if (table.listen is None) == (table.host is None):
        raise SettingsInvalid(
            "It has neither an address nor a host name of its own."
            if table.listen is None
            else "It has both an address and a host name of its own.",
            f"Write one of the two: {_EXAMPLE}.",
            field=None if table.listen is None else "host",
        )
    own = tls_files(path, table.certificate, table.key, table.client_authorities)
    if table.listen is not None:
        if own is not None and table.plain_http:
            raise SettingsInvalid(
                "It has a certificate, and plain_http says that it speaks no TLS.",
                "Remove plain_http, or certificate and key.",
                field="plain_http",
            )
        parse_listen(table.listen)
        used = None if table.plain_http else tls
        if own is not None:
            used = own.with_authorities_of(tls)
        return Mirror(namespace, table.listen, tls=used, plain_http=table.plain_http)
    assert table.host is not None
    if table.plain_http or table.client_authorities is not None:
        key = "plain_http" if table.plain_http else "client_authorities"
        raise SettingsInvalid(
            f"{key} is for an address, and a host name shares the address of the registry.",
            f"Remove {key}, or give the mirror an address: {_EXAMPLE.partition(',')[0]}.",
            field=key,
        )
    if own is not None and tls is None:
        raise SettingsInvalid(
            "It has a certificate, but the registry, whose address it shares, has none.",
            "Write certificate and key before the first table too, or remove these.",
            field="certificate",
        )
    return Mirror(namespace, host=_host(table.host), tls=own)


def _host(text: str) -> str:
    host = text.strip().lower().rstrip(".")
    if not _HOST.fullmatch(host) or len(host) > HOST_LENGTH or literal_address(host) is not None:
        raise SettingsInvalid(
            f"{quoted(text)} is not a host name.",
            "Write the name by which clients reach this mirror, without a scheme, port or path: "
            "hub.cache.example.",
            field="host",
        )
    return host


def _check_place(mirror: Mirror, others: Iterable[Mirror], listen: str) -> None:
    """Raise `SettingsInvalid` where the address or host of *mirror* is used already."""
    if mirror.host is not None:
        if any(other.host == mirror.host for other in others):
            raise SettingsInvalid(
                f"Another mirror has the host {mirror.host} too.",
                "Give each its own: a client sends nothing else that tells them apart.",
                field="host",
            )
        return
    assert mirror.listen is not None
    address = parse_listen(mirror.listen)
    if address[1] == 0:
        return
    registry = parse_listen(listen) == address
    if registry or any(
        other.listen is not None and parse_listen(other.listen) == address for other in others
    ):
        raise SettingsInvalid(
            f"{'The registry' if registry else 'Another mirror'} has the address "
            f"{mirror.listen} too.",
            "Give each its own port.",
            field="listen",
        )
