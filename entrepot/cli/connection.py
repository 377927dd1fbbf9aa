"""The connection of a command to an engine: over a Unix socket, ssh or HTTPS."""

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

_HTTPS_ADDRESS = re.compile(r"(https://(?:\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::[0-9]{1,5})?)/?")


class ConnectionInvalid(EntrepotError):
    """The value of ``--connect``, or of an option that belongs to it, can't be used."""

    code = "ConnectionInvalid"


@dataclass(frozen=True, slots=True)
class EngineLink:
    """An open connection to an engine.

    *blocks* says whether its clients can work without an event loop.
    """

    make_client: Callable[[bool], CacheClient]
    blocks: bool

    def client(self, *, blocking: bool = False) -> CacheClient:
        """A new client; with *blocking* one that needs no event loop."""
        return self.make_client(blocking)


@dataclass(frozen=True, slots=True)
class Connection:
    """The connection that the options name.

    *target* is ``ssh://…`` or ``https://…``; None: this user's engine on this machine.
    """

    target: str | None = None
    read_only: bool = False
    token_file: Path | None = None
    ca_file: Path | None = None

    @property
    def is_elsewhere(self) -> bool:
        """Whether the engine is another than this user's own."""
        return self.target is not None

    @contextmanager
    def link(self, *, keep: bool = False) -> Iterator[EngineLink]:
        """Open the connection for the length of a ``with``.

        *keep* reconnects when the connection is lost. Raises `EntrepotError` and `ClientError`.
        """
        if self.target is None:
            from entrepot.cli.no_engine import note_of_another_user, why_no_engine

            directories = Directories.of_user()
            if (warning := note_of_another_user(directories.socket)) is not None:
                click.echo(warning, err=True)
            yield self._on_socket(directories.socket, lambda: why_no_engine(directories))
        elif self.target.startswith("ssh://"):
            from entrepot.cli.signals import exit_on_signals
            from entrepot.cli.tunnel import SshAddress, Tunnel

            with exit_on_signals(), Tunnel(SshAddress.parse(self.target)) as tunnel:
                # ssh asks on the terminal itself, wherever standard input comes from. Its question
                # would not be seen where standard error is no terminal.
                tunnel.open(asks=sys.stderr.isatty())
                if keep:
                    tunnel.keep()
                yield self._on_socket(tunnel.socket, tunnel.absent)
        elif (address := _HTTPS_ADDRESS.fullmatch(self.target)) is not None:
            yield self._over_https(address[1])
        else:
            from entrepot.cli.tunnel import without_password

            raise ConnectionInvalid(
                f"{without_password(self.target)} is not the address of an engine.",
                "Write ssh://[USER@]HOST[:PORT] or https://HOST:PORT.",
            )

    def _on_socket(self, socket: Path, absent: str | Callable[[], str]) -> EngineLink:
        def make(blocking: bool) -> CacheClient:
            client_at = CacheClient.blocking_at if blocking else CacheClient.at
            return client_at(socket, read_only=self.read_only, absent=absent)

        return EngineLink(make, blocks=True)

    def _over_https(self, address: str) -> EngineLink:
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

        return EngineLink(make, blocks=False)

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
            place = f"the environment variable {TOKEN_VARIABLE}"
            token = os.environ.get(TOKEN_VARIABLE, "").removeprefix("\ufeff").strip()
            if not token:
                raise ConnectionInvalid(
                    f"{address} requires a token.",
                    f"Give it with --token-file FILE, or in {place}.",
                )
        if not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", token):
            raise ConnectionInvalid(
                f"There is no token in {place}.",
                "A token is one word of letters, digits and the signs of RFC 6750.",
            )
        return token


def connection() -> Connection:
    """The connection of the running command."""
    context = click.get_current_context(silent=True)
    named_connection = None if context is None else context.find_object(Connection)
    return named_connection or Connection()


def link() -> EngineLink:
    """The link of the running command.

    It is opened once, and closed when the command has ended.
    """
    context = click.get_current_context().find_root()
    if (engine_link := context.meta.get(__name__)) is None:
        engine_link = context.meta[__name__] = context.with_resource(connection().link())
    assert isinstance(engine_link, EngineLink)
    return engine_link
