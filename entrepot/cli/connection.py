"""Which engine a command speaks to: this user's, one on another machine over ssh, or one that
offers its management over HTTPS."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from entrepot.api.client import CacheClient
from entrepot.certificates import CertificatesInvalid
from entrepot.config.directories import Directories
from entrepot.errors import EntrepotError

TOKEN_VARIABLE = "ENTREPOT_TOKEN"
"""The environment variable with the token of a management API, where no file is named."""


class ConnectionInvalid(EntrepotError):
    """What is given with ``--connect``, or belongs to it, can't be used."""

    code = "ConnectionInvalid"


@dataclass(frozen=True, slots=True)
class Link:
    """A way to an engine that stands. *blocks* says whether a client of it can do without an event
    loop."""

    make_client: Callable[[bool], CacheClient]
    blocks: bool

    def client(self, *, blocking: bool = False) -> CacheClient:
        """A client of its own; with *blocking* one that needs no event loop."""
        return self.make_client(blocking)


@dataclass(frozen=True, slots=True)
class Connection:
    """What the options say. *target* is ``ssh://…`` or ``https://…``; None: the engine of this user
    on this machine."""

    target: str | None = None
    read_only: bool = False
    token_file: Path | None = None
    ca_file: Path | None = None

    @property
    def is_elsewhere(self) -> bool:
        """Whether another engine than this user's own is meant."""
        return self.target is not None

    @contextmanager
    def link(self, *, keep: bool = False) -> Iterator[Link]:
        """The way to the engine, which stands within it. *keep* connects again when it is lost.
        Raises `EntrepotError` and `ClientError`."""
        if self.target is None:
            from entrepot.cli.no_engine import note_of_another_user, why_no_engine

            directories = Directories.of_user()
            if (reminder := note_of_another_user(directories.socket)) is not None:
                click.echo(reminder, err=True)
            yield self._on_socket(directories.socket, lambda: why_no_engine(directories))
        elif self.target.startswith("ssh://"):
            from entrepot.cli.session import cleans_up_when_ended
            from entrepot.cli.tunnel import SshAddress, Tunnel

            with cleans_up_when_ended(), Tunnel(SshAddress.parse(self.target)) as tunnel:
                # ssh asks on the terminal itself, wherever standard input comes from. Without one
                # there, nobody looks at it.
                tunnel.open(asks=sys.stderr.isatty())
                if keep:
                    tunnel.keep()
                yield self._on_socket(tunnel.socket, tunnel.absent)
        elif (
            found := re.fullmatch(
                r"(https://(?:\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::[0-9]{1,5})?)/?", self.target
            )
        ) is not None:
            yield self._over_https(found[1])
        else:
            from entrepot.cli.tunnel import without_password

            raise ConnectionInvalid(
                f"{without_password(self.target)} is no address of an engine.",
                "Write ssh://[USER@]HOST[:PORT] or https://HOST:PORT.",
            )

    def _on_socket(self, socket: Path, absent: str | Callable[[], str]) -> Link:
        def make(blocking: bool) -> CacheClient:
            kind = CacheClient.blocking_at if blocking else CacheClient.at
            return kind(socket, read_only=self.read_only, absent=absent)

        return Link(make, blocks=True)

    def _over_https(self, address: str) -> Link:
        token = self._token(address)

        def make(_: bool) -> CacheClient:
            try:
                return CacheClient.over_https(
                    address, token, ca_file=self.ca_file, read_only=self.read_only
                )
            except OSError as error:
                reason = (
                    f"it {error}"
                    if isinstance(error, CertificatesInvalid)
                    else error.strerror or str(error)
                )
                hint = (
                    error.hint
                    if isinstance(error, CertificatesInvalid)
                    else "Put one certificate or more there in PEM format."
                )
                raise ConnectionInvalid(
                    f"The certificates in {self.ca_file} can't be used: {reason}.", hint
                ) from None

        return Link(make, blocks=False)

    def _token(self, address: str) -> str:
        if self.token_file is not None:
            from entrepot.secrets.file import read_token
            from entrepot.secrets.secret import SecretUnavailable

            try:
                token = read_token(self.token_file)
            except SecretUnavailable as error:
                raise ConnectionInvalid(error.what, error.hint) from None
            place = str(self.token_file)
        else:
            token, place = (
                os.environ.get(TOKEN_VARIABLE, "").removeprefix("\ufeff").strip(),
                f"the environment variable {TOKEN_VARIABLE}",
            )
            if not token:
                raise ConnectionInvalid(
                    f"{address} asks for a token.",
                    f"Give it with --token-file FILE, or in {place}.",
                )
        if not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", token):
            raise ConnectionInvalid(
                f"There is no token in {place}.",
                "It is one word of letters, digits and a few signs; RFC 6750 says which.",
            )
        return token


def connection() -> Connection:
    """That of the command which runs."""
    context = click.get_current_context(silent=True)
    found = None if context is None else context.find_object(Connection)
    return found or Connection()


def link() -> Link:
    """The way to the engine of the command which runs. It is made once, and stands until the
    command has ended."""
    context = click.get_current_context().find_root()
    if (made := context.meta.get(__name__)) is None:
        made = context.meta[__name__] = context.with_resource(connection().link())
    assert isinstance(made, Link)
    return made
