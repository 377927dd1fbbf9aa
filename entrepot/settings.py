"""``settings.toml``, which belongs to the administrator and is never written, and the directories where things live."""

from __future__ import annotations

import os
import re
import ssl
import stat
import sys
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Final

import platformdirs
from msgspec import UNSET, Meta, Struct, UnsetType, to_builtins

from entrepot.errors import EngineError, Refusal
from entrepot.freshness import FreshnessInvalid, parse_freshness
from entrepot.reference import quoted
from entrepot.snapshots import SignIn
from entrepot.toml import Text, TomlInvalid, converted, unknown_keys
from entrepot.upstreams import DeclaredUpstream, SourceRegistries, parse_login_server
from entrepot.words import parse_size

APPLICATION: Final = "entrepot"

SOCKET_PATH_LENGTH: Final = 107 if sys.platform == "linux" else 103
"""The longest path of a Unix socket, in bytes: sun_path has 108 with its closing zero on Linux, 104 on the BSDs and macOS (unix(7))."""

LONGEST: Final = 365 * 24 * 3600.0
"""The longest duration that a setting may have, in seconds."""


class SettingsInvalid(EngineError):
    """``settings.toml``, or an option that stands for one of its keys, can't be used; ``field`` is the key."""

    code = "SettingsInvalid"
    status = 400


@dataclass(frozen=True, slots=True)
class SizeLimit:
    """How much may be held: a *share* of the file system (0.8 for 80 %), or a *size* in bytes. One of the two is set."""

    share: float | None = None
    size: int | None = None

    def within(self, total: int) -> int:
        """The limit in bytes on a file system of *total* bytes."""
        return self.size if self.size is not None else int(total * (self.share or 0.0))


@dataclass(frozen=True, slots=True)
class Settings:
    """What an administrator may decide. All durations are seconds."""

    listen: str = "127.0.0.1:5000"
    """Where container clients find the registry; port 0 lets the system choose."""
    freshness: float = 300.0
    """How long a tag is believed before the source is asked again, where its rule does not say. ACR notices a moved tag after five minutes at most."""
    negative_freshness: float = 10.0
    """How long a failure of a source is believed."""
    parallel_per_source: int = 6
    """How many blobs are fetched from one source registry at once; further ones wait."""
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    """How long a source may stay silent. The whole of a download has no limit."""
    size_limit: SizeLimit = SizeLimit(share=0.8)
    """How much may be held. Beyond it the images that were used least recently are evicted."""
    low_water: float = 0.9
    """The share of the limit down to which images are evicted, so that not every blob that comes in evicts another."""
    ca_file: Path | None = None
    """Certificate authorities that are trusted for all source registries besides those of the system: a file in PEM format."""
    upstreams: tuple[DeclaredUpstream, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Read the file; the defaults if there is none. Raises `SettingsInvalid`, which names file, line and key."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise SettingsInvalid(f"{path} can't be read: {error.strerror}.", "Let the engine's user read it.") from None
        try:
            return _settings(Text(content), path)
        except TomlInvalid as error:
            raise _invalid(path, error.line, error.what, error.key) from None


@dataclass(frozen=True, slots=True)
class Directories:
    """Where one engine keeps its things."""

    config: Path
    """``settings.toml``, ``rules.toml``, ``credentials.toml``"""
    data: Path
    """The catalog and the blobs."""
    runtime: Path
    """The socket of a running engine."""
    log: Path

    @classmethod
    def of_user(cls) -> Directories:
        """The platform's directories of this user.

        On Linux ``XDG_CONFIG_HOME``, ``XDG_DATA_HOME``, ``XDG_RUNTIME_DIR`` and ``XDG_STATE_HOME`` are followed, for root too, so that two
        engines can live side by side.
        """
        return cls(
            config=platformdirs.user_config_path(APPLICATION, appauthor=False),
            data=platformdirs.user_data_path(APPLICATION, appauthor=False),
            runtime=_user_runtime(),
            log=platformdirs.user_log_path(APPLICATION, appauthor=False),
        )

    @classmethod
    def under(cls, root: Path) -> Directories:
        """All of them below one directory."""
        return cls(config=root / "config", data=root / "data", runtime=root / "run", log=root / "log")

    @property
    def settings(self) -> Path:
        """The administrator's file."""
        return self.config / "settings.toml"

    @property
    def rules(self) -> Path:
        """The document of the cache rules."""
        return self.config / "rules.toml"

    @property
    def credentials(self) -> Path:
        """The document of the credential sets."""
        return self.config / "credentials.toml"

    @property
    def catalog(self) -> Path:
        """The database of what is cached."""
        return self.data / "catalog.sqlite"

    @property
    def blobs(self) -> Path:
        """Whole blobs."""
        return self.data / "blobs"

    @property
    def fills(self) -> Path:
        """Blobs on their way in."""
        return self.data / "fills"

    @property
    def lock(self) -> Path:
        """Held by the one engine that runs on this data."""
        return self.data / "lock"

    @property
    def socket(self) -> Path:
        """Where a running engine takes orders."""
        return self.runtime / "entrepot.sock"

    def make(self) -> None:
        """Create what is missing, for this user only (mode 0700); raises `EngineError` when that can't be, or when the socket's path is too long."""
        length = len(os.fsencode(self.socket))
        if length > SOCKET_PATH_LENGTH:
            raise EngineError(
                f"The path of the management socket is too long: {self.socket} has {length} bytes, and the system allows {SOCKET_PATH_LENGTH}.",
                "Set XDG_RUNTIME_DIR to a directory with a shorter path.",
            )
        for each, variable in ((self.config, "XDG_CONFIG_HOME"), (self.data, "XDG_DATA_HOME"), (self.runtime, "XDG_RUNTIME_DIR"), (self.log, "XDG_STATE_HOME")):
            hint = f"Give this user the right to write there, or set {variable} to another directory."
            try:
                each.mkdir(mode=0o700, parents=True, exist_ok=True)
            except FileExistsError:
                raise EngineError(f"{each} is not a directory.", f"Move it away, or set {variable} to another directory.") from None
            except OSError as error:
                raise EngineError(f"The directory {each} can't be created: {error.strerror}.", hint) from None
            if not os.access(each, os.R_OK | os.W_OK | os.X_OK):
                raise EngineError(f"The directory {each} can't be written.", hint)
        self._keep_runtime_private()

    def _keep_runtime_private(self) -> None:
        """Whoever may write into the directory of the socket could put another socket in its place."""
        status = self.runtime.stat()
        if status.st_uid != os.geteuid():
            raise EngineError(f"The directory {self.runtime} belongs to another user.", "Set XDG_RUNTIME_DIR to a directory of this user.")
        if stat.S_IMODE(status.st_mode) & 0o077:
            self.runtime.chmod(0o700)


def parse_listen(text: str) -> tuple[str, int]:
    """Host (without the brackets of IPv6) and port of an address to listen on; raises `SettingsInvalid`."""
    hint = "Write HOST:PORT, such as 127.0.0.1:5000, 0.0.0.0:5000 for every network of this machine, or [::1]:5000; port 0 lets the system choose."
    found = re.fullmatch(r"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})", text.strip())
    if found is None:
        raise SettingsInvalid(f"{text!r} is not an address to listen on.", hint, field="listen")
    port = int(found["port"])
    if port > 65535:
        raise SettingsInvalid(
            f"{text!r} is not an address to listen on: there is no port {port}.", "Ports go from 1 to 65535; 0 lets the system choose.", field="listen"
        )
    return found["six"] or found["host"], port


def parse_size_limit(value: str | int) -> SizeLimit:
    """A limit as the settings have it: ``"80 %"`` of the file system, ``"500 GB"``, ``"50 GiB"``, or a number of bytes; raises `SettingsInvalid`."""
    hint = 'Write "80 %" for a share of the file system, "500 GB" or "50 GiB", or a number of bytes.'
    if isinstance(value, int):
        if value > 0:
            return SizeLimit(size=value)
        raise SettingsInvalid(f"A size limit of {value} bytes leaves no room for anything.", hint, field="size_limit")
    share = _percentage(value)
    if share is not None:
        if 0 < share <= 1:
            return SizeLimit(share=share)
        raise SettingsInvalid(f"{value!r} is no share of a file system that could be used.", "It lies above 0 % and goes up to 100 %.", field="size_limit")
    try:
        size = parse_size(value)
    except ValueError:
        raise SettingsInvalid(f"{quoted(value)} is not a size limit.", hint, field="size_limit") from None
    if size == 0:
        raise SettingsInvalid(f"A size limit of {value} leaves no room for anything.", hint, field="size_limit")
    return SizeLimit(size=size)


def parse_low_water(value: str) -> float:
    """A low-water mark as the settings have it: ``"90 %"`` of the size limit; raises `SettingsInvalid`."""
    share = _percentage(value)
    if share is None or not 0 < share <= 1:
        raise SettingsInvalid(
            f"{quoted(value)} is not a low-water mark.", 'Write a percentage of the size limit, above 0 % and up to 100 %, such as "90 %".', field="low_water"
        )
    return share


def _certificates(file: Path) -> Path:
    """The file, when certificates can be read from it; raises `SettingsInvalid`."""
    hint = "It holds one certificate or more in PEM format, each between -----BEGIN CERTIFICATE----- and -----END CERTIFICATE-----."
    try:
        content = file.read_bytes()
    except OSError as error:
        raise SettingsInvalid(
            f"The certificates in {file} can't be read: {error.strerror}.", f"Let the engine's user read it. {hint}", field="ca_file"
        ) from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise SettingsInvalid(f"{file} holds no certificates that can be read.", hint, field="ca_file") from None
    return file


def _percentage(text: str) -> float | None:
    found = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*%\s*", text, re.ASCII)
    return float(found[1]) / 100 if found else None


Seconds = Annotated[float, Meta(gt=0, le=LONGEST)]


class _UpstreamTable(Struct, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    sign_in: SignIn | None = None
    endpoint: str | None = None
    realms: Annotated[tuple[str, ...], Meta(max_length=10)] = ()


class _SettingsTable(Struct, kw_only=True):
    """The keys before the first table; their names and meanings are those of `Settings`."""

    listen: str | UnsetType = UNSET
    freshness: float | str | UnsetType = UNSET
    negative_freshness: Seconds | UnsetType = UNSET
    parallel_per_source: Annotated[int, Meta(ge=1, le=64)] | UnsetType = UNSET
    connect_timeout: Seconds | UnsetType = UNSET
    read_timeout: Seconds | UnsetType = UNSET
    size_limit: Annotated[int, Meta(ge=1)] | str | UnsetType = UNSET
    low_water: str | UnsetType = UNSET
    ca_file: Annotated[str, Meta(min_length=1)] | UnsetType = UNSET


def _settings(text: Text, path: Path) -> Settings:
    values = dict(text.values)
    for key, what in unknown_keys(values, (each.name for each in fields(Settings))):
        raise _invalid(path, text.line_of_key(key) or text.line_of_table(key), what, key)
    upstreams = _upstreams(text, values.pop("upstreams", {}), path)
    try:
        table = converted(values, _SettingsTable)
    except TomlInvalid as error:
        raise _invalid(path, text.line_of_key(error.key or ""), error.what, error.key) from None
    told = to_builtins(table)
    try:
        if "size_limit" in told:
            told["size_limit"] = parse_size_limit(told["size_limit"])
        if "freshness" in told:
            told["freshness"] = parse_freshness(told["freshness"])
        if "low_water" in told:
            told["low_water"] = parse_low_water(told["low_water"])
        if "ca_file" in told:
            told["ca_file"] = _certificates(path.parent / Path(told["ca_file"]).expanduser())
        settings = Settings(upstreams=upstreams, **told)
        parse_listen(settings.listen)
    except (SettingsInvalid, FreshnessInvalid) as refusal:
        raise _invalid(path, text.line_of_key(refusal.field or ""), refusal.what, refusal.field, refusal.hint) from None
    return settings


def _upstreams(text: Text, tables: object, path: Path) -> tuple[DeclaredUpstream, ...]:
    example = 'Declare a source registry as [upstreams."registry.example.com"], with name, sign_in, endpoint and realms below it.'
    if not isinstance(tables, dict):
        raise _invalid(path, text.line_of_key("upstreams"), "The value of upstreams is not a table.", "upstreams", example)
    declared: dict[str, DeclaredUpstream] = {}
    for login_server, values in tables.items():
        head = text.line_of_table("upstreams", login_server)
        place = f'upstreams."{login_server}"'
        if not isinstance(values, dict):
            raise _invalid(
                path, text.line_of_key(login_server, below=text.line_of_table("upstreams")) or head, f"{place} is not a table.", "upstreams", example
            )
        if "." not in login_server and any(isinstance(value, dict) for value in values.values()):
            # [upstreams.registry.example.com] is, to TOML, three tables within each other.
            raise _invalid(path, None, f"The login server that begins with {login_server} stands there without quotation marks.", "upstreams", example)
        for key, what in unknown_keys(values, _UpstreamTable.__struct_fields__):
            raise _invalid(path, text.line_of_key(key, below=head) or head, f"In {place}: {what}", key)
        try:
            table = converted(values, _UpstreamTable)
        except TomlInvalid as error:
            raise _invalid(path, text.line_of_key(error.key or "", below=head) or head, f"In {place}: {error.what}", error.key) from None
        upstream = DeclaredUpstream(login_server, table.name, table.sign_in, table.endpoint, table.realms)
        try:
            SourceRegistries([upstream])
            name = parse_login_server(login_server, field="login_server")
        except Refusal as refusal:
            raise _invalid(path, text.line_of_key(refusal.field or "", below=head) or head, refusal.what, refusal.field, refusal.hint) from None
        if name in declared:
            raise _invalid(path, head, f"{name} is declared twice.", "upstreams", "Leave one of the two.")
        declared[name] = upstream
    return tuple(declared.values())


def _invalid(path: Path, line: int | None, what: str, key: str | None, hint: str = "") -> SettingsInvalid:
    place = f"{path}, line {line}" if line else str(path)
    return SettingsInvalid(f"{place}: {what}", hint or "Mend it and start again.", field=key)


def _user_runtime() -> Path:
    # platformdirs leaves XDG_RUNTIME_DIR aside while that directory is missing or has another mode than 0700, and then two engines that were meant
    # to live apart would meet at one socket. make() creates it, and sees to it that our own directory below is private.
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if sys.platform == "linux" and os.path.isabs(given):
        return Path(given) / APPLICATION
    try:
        with warnings.catch_warnings():
            # That XDG_RUNTIME_DIR is not set, which is nothing to complain of: the directory that is used instead is a safe one, or make() says so.
            warnings.simplefilter("ignore")
            return platformdirs.user_runtime_path(APPLICATION, appauthor=False)
    except PermissionError as error:
        raise EngineError(f"There is no directory for the management socket: {error}.", "Set XDG_RUNTIME_DIR to a directory of this user.") from None
