"""``settings.toml``, which belongs to the administrator: the engine only reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

from msgspec import UNSET, Meta, Struct, UnsetType, to_builtins

from entrepot.certificates import CertificatesInvalid, read_certificates
from entrepot.config.directories import SOCKET_PATH_LENGTH, Directories
from entrepot.config.mirror_settings import Mirror, read_mirrors
from entrepot.config.reader_settings import ReaderSettings, read_reader_settings
from entrepot.config.settings_tables import (
    SettingsInvalid,
    beside,
    convert_table,
    expanded,
    invalid_at,
    parse_listen,
)
from entrepot.config.tls_settings import TlsFiles, tls_files
from entrepot.core.freshness import FreshnessInvalid, parse_freshness
from entrepot.core.hosts import is_loopback
from entrepot.core.permitted_identifiers import (
    DEFAULT_OVER_TCP,
    KINDS_OVER_TCP,
    PermittedIdentifiers,
)
from entrepot.core.reference import quoted
from entrepot.core.registries import (
    DeclaredRegistry,
    SourceRegistries,
    parse_login_server,
)
from entrepot.core.secret_identifiers import KINDS
from entrepot.core.states import SignIn
from entrepot.errors import Refusal
from entrepot.formatting import parse_size
from entrepot.toml import TomlDocument, TomlInvalid, convert, unknown_keys

MANIFEST_LIMIT: Final = 4 * 1024 * 1024
"""The default of the largest manifest that is taken from a source, in bytes.

Registries take as much at a push (distribution specification, "Pushing Manifests").
"""

MAX_MANIFEST_LIMIT: Final = 64 * 1024 * 1024
"""The largest value of that setting: a manifest is in memory once for each client that pulls it."""

LONGEST_DURATION: Final = 365 * 24 * 3600.0
"""The longest duration that a setting may have, in seconds."""


__all__ = [
    "SOCKET_PATH_LENGTH",
    "Directories",
    "ManagementOverTcp",
    "Mirror",
    "Settings",
    "SettingsInvalid",
    "SizeLimit",
    "TlsFiles",
    "parse_listen",
    "parse_low_water",
    "parse_size_limit",
]

SHORTEST_TOKEN: Final = 20
"""The shortest token of the management API, in characters.

20 random letters and digits can't be guessed. RFC 6750, 2.1, says which characters are allowed.
"""


@dataclass(frozen=True, slots=True)
class SizeLimit:
    """How much may be cached.

    Either a *share* of the file system (0.8 for 80 %), or a *size* in bytes.
    """

    share: float | None = None
    size: int | None = None

    def within(self, total: int) -> int:
        """The limit in bytes on a file system of *total* bytes."""
        return self.size if self.size is not None else int(total * (self.share or 0.0))


@dataclass(frozen=True, slots=True)
class ManagementOverTcp:
    """The management API on TCP, for clients on other machines."""

    listen: str
    token_file: Path
    """A file with the token that every request must send; only its owner may use it."""
    tls: TlsFiles | None = None
    """None is allowed on loopback only, where a proxy may speak TLS."""
    secret_identifiers: PermittedIdentifiers = DEFAULT_OVER_TCP
    """The secret identifiers that it takes; the Unix socket takes all.

    ``secret_kinds``, ``secret_files`` and ``secret_variables``.
    """

    @property
    def shown(self) -> str:
        """Its URL as a client would write it."""
        return f"{'http' if self.tls is None else 'https'}://{self.listen}"

    def token(self) -> str:
        """The token. Blocks; raises `SettingsInvalid` if the file can't be used."""
        from entrepot.secrets.file import read_token
        from entrepot.secrets.secret import SecretUnavailable

        try:
            token = read_token(self.token_file)
        except SecretUnavailable as error:
            raise SettingsInvalid(
                f"The management API can't be offered on {self.listen}. {error.what}",
                error.hint,
                field="token_file",
            ) from None
        if not re.fullmatch(rf"[A-Za-z0-9._~+/=-]{{{SHORTEST_TOKEN},}}", token):
            raise SettingsInvalid(
                f"The management API can't be offered on {self.listen}: {self.token_file} has no "
                f"token of at least {SHORTEST_TOKEN} characters.",
                "Create one with: entrepot management-token FILE",
                field="token_file",
            )
        return token


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of an engine. All durations are in seconds."""

    listen: str = "127.0.0.1:5000"
    """Where container clients find the registry; port 0 lets the system choose."""
    tls: TlsFiles | None = None
    """What the registry speaks TLS with; None: plain HTTP."""
    allow_plain_http: bool = False
    """Whether other machines may use plain HTTP (`entrepot.config.network_access`)."""
    allow_anonymous: bool | None = None
    """Whether readers who do not sign in may read rules without ``readers``.

    None: where there is no ``[readers]``, which is possible on loopback only.
    """
    freshness: float = 300.0
    """The tag lifetime where a rule has none of its own.

    ACR notices a moved tag after five minutes at most.
    """
    negative_freshness: float = 10.0
    """How long a failure of a source is remembered."""
    parallel_per_source: int = 6
    """How many blobs are fetched from one source registry at once; others wait."""
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    """How long a source may send nothing; a whole download has no limit."""
    size_limit: SizeLimit = SizeLimit(share=0.8)
    """How much may be cached; beyond it the least recently used images are evicted."""
    low_water: float = 0.9
    """The share of the limit down to which images are evicted.

    Without it each new blob would evict another one.
    """
    manifest_limit: int = MANIFEST_LIMIT
    """The largest manifest that is taken from a source, in bytes."""
    ca_file: Path | None = None
    """Certificate authorities for all source registries, besides those of the system (PEM file)."""
    read_only: bool = False
    """Whether the management API refuses every change. Container clients can still pull."""
    hosts: tuple[str, ...] = ()
    """Host names that browsers may use for a registry that listens on loopback.

    Those of a proxy in front of it; localhost and addresses are always allowed.
    """
    management: ManagementOverTcp | None = None
    mirrors: tuple[Mirror, ...] = ()
    upstreams: tuple[DeclaredRegistry, ...] = ()
    readers: ReaderSettings | None = None
    """Who can sign in at the registry, besides those with a personal token."""

    @property
    def anonymous_may_read(self) -> bool:
        """Whether readers who do not sign in may read rules that say nothing about readers.

        Where it is not decided, they may as long as ``[readers]`` is not there.
        """
        return self.readers is None if self.allow_anonymous is None else self.allow_anonymous

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Read the file; the defaults if there is none.

        Raises `SettingsInvalid`, which names file, line and key.
        """
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return cls()
        except OSError as error:
            hint = (
                "Let the engine's user read it, or set XDG_CONFIG_HOME to a directory of this user."
            )
            raise SettingsInvalid(f"{path} can't be read: {error.strerror}.", hint) from None
        try:
            return _settings(TomlDocument(content), path)
        except TomlInvalid as error:
            raise invalid_at(path, error.line, error.what, error.key) from None


def parse_size_limit(value: str | int) -> SizeLimit:
    """The value of ``size_limit``; raises `SettingsInvalid`.

    ``"80 %"`` of the file system, ``"500 GB"``, ``"50 GiB"``, or a number of bytes.
    """
    hint = (
        'Write "80 %" for a share of the file system, "500 GB" or "50 GiB", or a number of bytes.'
    )
    if isinstance(value, int):
        if value > 0:
            return SizeLimit(size=value)
        raise SettingsInvalid(
            f"A size limit of {value} bytes leaves no room for anything.", hint, field="size_limit"
        )
    share = _percentage(value)
    if share is not None:
        if 0 < share <= 1:
            return SizeLimit(share=share)
        raise SettingsInvalid(
            f"{value!r} is not a possible share of a file system.",
            "A share is above 0 % and goes up to 100 %.",
            field="size_limit",
        )
    try:
        size = parse_size(value)
    except ValueError:
        raise SettingsInvalid(
            f"{quoted(value)} is not a size limit.", hint, field="size_limit"
        ) from None
    if size == 0:
        raise SettingsInvalid(
            f"A size limit of {value} leaves no room for anything.", hint, field="size_limit"
        )
    return SizeLimit(size=size)


def parse_manifest_limit(value: str | int) -> int:
    """The value of ``manifest_limit``: ``"8 MiB"``, or bytes.

    Raises `SettingsInvalid`.
    """
    hint = 'Write "8 MiB" or a number of bytes, from 4 MiB, which every registry takes, to 64 MiB.'
    try:
        limit = value if isinstance(value, int) else parse_size(value[:40])
    except (ValueError, OverflowError):
        raise SettingsInvalid(
            f"{quoted(str(value))} is not a size of manifests.", hint, field="manifest_limit"
        ) from None
    if not MANIFEST_LIMIT <= limit <= MAX_MANIFEST_LIMIT:
        raise SettingsInvalid(
            f"{value} is not a possible limit for manifests.", hint, field="manifest_limit"
        )
    return limit


def parse_low_water(value: str) -> float:
    """The value of ``low_water``: ``"90 %"`` of the size limit.

    Raises `SettingsInvalid`.
    """
    share = _percentage(value)
    if share is None or not 0 < share <= 1:
        raise SettingsInvalid(
            f"{quoted(value)} is not a low-water mark.",
            'Write a percentage of the size limit, above 0 % and up to 100 %, such as "90 %".',
            field="low_water",
        )
    return share


def _certificates(file: Path) -> Path:
    """The file, if certificates can be read from it; raises `SettingsInvalid`."""
    try:
        read_certificates(file)
    except CertificatesInvalid as error:
        raise SettingsInvalid(f"{file} {error}.", error.hint, field="ca_file") from None
    except OSError as error:
        if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            hint = "Put the file there, or correct ca_file."
        else:
            hint = "Let the engine's user read it."
        raise SettingsInvalid(
            f"The certificates in {file} can't be read: {error.strerror}.", hint, field="ca_file"
        ) from None
    return file


def _percentage(text: str) -> float | None:
    percentage = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*%\s*", text, re.ASCII)
    return float(percentage[1]) / 100 if percentage else None


Seconds = Annotated[float, Meta(gt=0, le=LONGEST_DURATION)]
FileName = Annotated[str, Meta(min_length=1)]


class _RegistryTable(Struct, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    sign_in: SignIn | None = None
    endpoint: str | None = None
    realms: Annotated[tuple[str, ...], Meta(max_length=10)] = ()
    mirror: bool = False


class _SettingsTable(Struct, kw_only=True):
    """The keys before the first table.

    Their names and meanings are those of `Settings`.
    """

    listen: str | UnsetType = UNSET
    certificate: FileName | None = None
    key: FileName | None = None
    client_authorities: FileName | None = None
    allow_plain_http: bool | UnsetType = UNSET
    allow_anonymous: bool | UnsetType = UNSET
    freshness: float | str | UnsetType = UNSET
    negative_freshness: Seconds | UnsetType = UNSET
    parallel_per_source: Annotated[int, Meta(ge=1, le=64)] | UnsetType = UNSET
    connect_timeout: Seconds | UnsetType = UNSET
    read_timeout: Seconds | UnsetType = UNSET
    size_limit: Annotated[int, Meta(ge=1)] | str | UnsetType = UNSET
    low_water: str | UnsetType = UNSET
    manifest_limit: Annotated[int, Meta(ge=1)] | str | UnsetType = UNSET
    ca_file: FileName | UnsetType = UNSET
    read_only: bool | UnsetType = UNSET
    hosts: (
        Annotated[
            tuple[Annotated[str, Meta(min_length=1, max_length=253)], ...], Meta(max_length=100)
        ]
        | UnsetType
    ) = UNSET


class _ManagementTable(Struct, kw_only=True):
    listen: str
    token_file: FileName
    certificate: FileName | None = None
    key: FileName | None = None
    secret_kinds: Annotated[tuple[str, ...], Meta(max_length=20)] | None = None
    secret_files: Annotated[str, Meta(min_length=1)] | None = None
    secret_variables: Annotated[str, Meta(min_length=1)] | None = None


_TABLES = ("management", "mirrors", "readers", "upstreams")


def _settings(document: TomlDocument, path: Path) -> Settings:
    values = dict(document.values)
    for key, what in unknown_keys(values, (*_SettingsTable.__struct_fields__, *_TABLES)):
        raise invalid_at(path, document.line_of_key(key) or document.line_of_table(key), what, key)
    upstreams = _declared_registries(document, values.pop("upstreams", {}), path)
    management = _management(document, values.pop("management", None), path)
    values.pop("mirrors", None)
    readers = read_reader_settings(document, values.pop("readers", None), path)
    try:
        table = convert(values, _SettingsTable)
    except TomlInvalid as error:
        raise invalid_at(
            path, document.line_of_key(error.key or ""), error.what, error.key
        ) from None
    chosen = to_builtins(table)
    names = [chosen.pop(key) for key in ("certificate", "key", "client_authorities")]
    try:
        if "size_limit" in chosen:
            chosen["size_limit"] = parse_size_limit(chosen["size_limit"])
        if "freshness" in chosen:
            chosen["freshness"] = parse_freshness(chosen["freshness"])
        if "low_water" in chosen:
            chosen["low_water"] = parse_low_water(chosen["low_water"])
        if "manifest_limit" in chosen:
            chosen["manifest_limit"] = parse_manifest_limit(chosen["manifest_limit"])
        if "ca_file" in chosen:
            chosen["ca_file"] = _certificates(beside(path, chosen["ca_file"], "ca_file"))
        tls = tls_files(path, *names)
        settings = Settings(
            upstreams=upstreams, management=management, tls=tls, readers=readers, **chosen
        )
        parse_listen(settings.listen)
    except (SettingsInvalid, FreshnessInvalid) as refusal:
        raise invalid_at(
            path,
            document.line_of_key(refusal.field or ""),
            refusal.what,
            refusal.field,
            refusal.hint,
        ) from None
    return replace(settings, mirrors=read_mirrors(document, path, listen=settings.listen, tls=tls))


def _management(document: TomlDocument, values: object, path: Path) -> ManagementOverTcp | None:
    if values is None:
        return None
    head = document.line_of_table("management")
    example = "Write [management], with listen, token_file, certificate and key below it."
    if not isinstance(values, dict):
        raise invalid_at(
            path,
            document.line_of_key("management"),
            "The value of management is not a table.",
            "management",
            example,
        )
    table = convert_table(
        document, values, _ManagementTable, path, head=head, place="management", hint=example
    )
    try:
        host, _ = parse_listen(table.listen)
        tls = tls_files(path, table.certificate, table.key)
        if tls is None and not is_loopback(host):
            raise SettingsInvalid(
                f"Without TLS the token could be read by everyone between a client and {host}.",
                "Give certificate and key. They may be missing only on 127.0.0.1 and [::1], where "
                "a proxy in front speaks TLS.",
                field="listen",
            )
        token_file = beside(path, table.token_file, "token_file")
        identifiers = _secret_identifiers(table)
    except SettingsInvalid as refusal:
        line = document.line_of_key(refusal.field or "", below=head) or head
        raise invalid_at(
            path, line, f"In management: {refusal.what}", refusal.field, refusal.hint
        ) from None
    return ManagementOverTcp(table.listen, token_file, tls, identifiers)


def _secret_identifiers(table: _ManagementTable) -> PermittedIdentifiers:
    """The identifiers that the API on TCP takes; raises `SettingsInvalid`."""
    kinds = (
        KINDS_OVER_TCP
        if table.secret_kinds is None
        else frozenset(kind.removesuffix(":").lower() for kind in table.secret_kinds)
    )
    if unknown := sorted(kinds - set(KINDS)):
        hint = f"There are: {', '.join(KINDS)}."
        raise SettingsInvalid(
            f"{quoted(unknown[0])} is not a kind of secret identifier.", hint, field="secret_kinds"
        )
    files = None if table.secret_files is None else expanded(table.secret_files, "secret_files")
    if files is not None and (not files.is_absolute() or files == Path("/")):
        hint = (
            "Write the whole path of a directory that has secrets and nothing else, such as "
            '"/run/secrets".'
        )
        raise SettingsInvalid(
            f"{quoted(str(files))} is not a directory below which secrets are kept.",
            hint,
            field="secret_files",
        )
    variables = table.secret_variables
    if variables is not None and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variables) is None:
        hint = 'Write letters, digits and _, such as "ENTREPOT_SECRET_".'
        raise SettingsInvalid(
            f"{quoted(variables)} can't be the beginning of the name of a variable.",
            hint,
            field="secret_variables",
        )
    return PermittedIdentifiers(kinds, files, variables)


def _declared_registries(
    document: TomlDocument, tables: object, path: Path
) -> tuple[DeclaredRegistry, ...]:
    example = (
        'Declare a source registry as [upstreams."registry.example.com"], with name, sign_in, '
        "endpoint, mirror and realms below it."
    )
    if not isinstance(tables, dict):
        raise invalid_at(
            path,
            document.line_of_key("upstreams"),
            "The value of upstreams is not a table.",
            "upstreams",
            example,
        )
    declared: dict[str, DeclaredRegistry] = {}
    for login_server, values in tables.items():
        head = document.line_of_table("upstreams", login_server)
        place = f'upstreams."{login_server}"'
        if not isinstance(values, dict):
            raise invalid_at(
                path,
                document.line_of_key(login_server, below=document.line_of_table("upstreams"))
                or head,
                f"{place} is not a table.",
                "upstreams",
                example,
            )
        if "." not in login_server and any(isinstance(value, dict) for value in values.values()):
            # In TOML, [upstreams.registry.example.com] is three tables within each other.
            raise invalid_at(
                path,
                None,
                f"The login server that begins with {login_server} has no quotation marks.",
                "upstreams",
                example,
            )
        table = convert_table(document, values, _RegistryTable, path, head=head, place=place)
        declaration = DeclaredRegistry(
            login_server,
            table.name,
            table.sign_in,
            table.endpoint,
            table.realms,
            table.mirror,
        )
        try:
            SourceRegistries([declaration])
            name = parse_login_server(login_server, field="login_server")
        except Refusal as refusal:
            raise invalid_at(
                path,
                document.line_of_key(refusal.field or "", below=head) or head,
                refusal.what,
                refusal.field,
                refusal.hint,
            ) from None
        if name in declared:
            raise invalid_at(
                path, head, f"{name} is declared twice.", "upstreams", "Remove one of the two."
            )
        declared[name] = declaration
    return tuple(declared.values())
