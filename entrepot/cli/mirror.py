"""``entrepot mirror``."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path

import click

from entrepot.api.client import CacheClient
from entrepot.api.mirror_setup import mirror_setup
from entrepot.certificates import CertificatesInvalid, read_certificates
from entrepot.cli.client_files import (
    Change,
    ClientFileUnusable,
    apply,
    difference,
    plan_installation,
    plan_removal,
)
from entrepot.cli.completion import rule_names
from entrepot.cli.options import as_json
from entrepot.cli.output import fail, note, print_json, print_text
from entrepot.cli.session import call_engine
from entrepot.core.hosts import is_loopback
from entrepot.core.mirror_configuration.clients import (
    KINDS,
    Client,
    ClientConfiguration,
    configure,
)
from entrepot.core.mirror_configuration.files import masked
from entrepot.core.mirror_configuration.setup import Credentials, Setup
from entrepot.errors import EntrepotError

_AS_ROOT = 'Run it as root: sudo -E "$(command -v entrepot)" {}'

_path = click.Path(path_type=Path)


@click.command()
@click.argument("client", type=click.Choice([client.value for client in Client]))
@click.option(
    "--rule",
    "-r",
    metavar="NAME",
    shell_complete=rule_names,
    help="Only the images of this cache rule [default: of all].",
)
@click.option(
    "--address",
    metavar="HOST[:PORT]",
    help="By which name the client reaches the engine [default: where it listens].",
)
@click.option(
    "--ca",
    "authorities",
    type=_path,
    metavar="FILE",
    help="The authority of the engine's certificate, in PEM format, on the client's machine.",
)
@click.option(
    "--skip-verify", is_flag=True, help="Let the client accept every certificate of the engine."
)
@click.option(
    "--credentials",
    type=_path,
    metavar="FILE",
    help="NAME:PASSWORD or NAME:TOKEN of a reader, for containerd and k3s.",
)
@click.option(
    "--directory",
    type=_path,
    metavar="DIR",
    help="Where containerd, podman and crio look for files [default: below /etc].",
)
@click.option(
    "--file",
    type=_path,
    metavar="FILE",
    help="The file of docker, buildkit and k3s [default: below /etc].",
)
@click.option("--diff", is_flag=True, help="Show what --write would change.")
@click.option("--write", is_flag=True, help="Install it. What others wrote there stays.")
@click.option("--undo", is_flag=True, help="Take away what --write has installed.")
@as_json
def mirror(
    client: str,
    rule: str | None,
    address: str | None,
    authorities: Path | None,
    skip_verify: bool,
    credentials: Path | None,
    directory: Path | None,
    file: Path | None,
    diff: bool,
    write: bool,
    undo: bool,
    as_json: bool,
) -> None:
    """Print the configuration with which a client pulls unchanged image names, such as
    docker.io/library/nginx, through this engine; or install it."""
    if diff + write + undo + as_json > 1:
        raise click.UsageError("Give only one of --diff, --write, --undo and --json.")
    kind = KINDS[Client(client)]
    if (file if kind.is_directory else directory) is not None:
        refused, needed = (
            ("--file", "--directory") if kind.is_directory else ("--directory", "--file")
        )
        raise click.UsageError(f"{refused} is not for {client}: use {needed}.")
    place = directory or file
    try:
        where = str(place.absolute()) if place is not None else kind.place
        if undo:
            _change(plan_removal(Client(client), where, hint=_as_root()), "Nothing is installed.")
            return
        setup = call_engine(lambda engine: _setup(engine, rule, address))
        setup = _with_options(setup, authorities, credentials, skip_verify=skip_verify)
        configuration = configure(Client(client), setup, where)
        if (warning := _plain_credentials(setup)) is not None:
            note(warning)
        if as_json:
            print_json(_document(configuration))
        elif diff or write:
            changes = plan_installation(configuration, where, hint=_as_root())
            if write:
                _change(changes, "It is installed already.")
                _print_notes(configuration)
            else:
                _print_difference(changes, "It is installed already.")
        else:
            _print_configuration(configuration)
            _print_state(configuration, where)
            _print_notes(configuration)
    except EntrepotError as error:
        fail(error)


async def _setup(engine: CacheClient, rule: str | None, address: str | None) -> Setup:
    status = await engine.system.status()
    return mirror_setup(status, await engine.rules.list(), rule=rule, address=address)


def _with_options(
    setup: Setup, authorities: Path | None, credentials: Path | None, *, skip_verify: bool
) -> Setup:
    return replace(
        setup,
        authorities=str(authorities.absolute()) if authorities is not None else None,
        authorities_text=_authorities(authorities) if authorities is not None else None,
        skip_verify=skip_verify,
        credentials=_credentials(credentials) if credentials is not None else None,
    )


def _authorities(file: Path) -> str:
    try:
        read_certificates(file)
        text = file.read_text(encoding="ascii", errors="replace")
    except CertificatesInvalid as error:
        raise ClientFileUnusable(
            f"The certificates in {file} can't be used: it {error}.", error.hint
        ) from None
    except OSError as error:
        raise ClientFileUnusable(f"{file} can't be read: {error.strerror}.") from None
    return text if text.endswith("\n") else f"{text}\n"


def _credentials(file: Path) -> Credentials:
    from entrepot.secrets.exposure import find_exposure

    try:
        with file.open("rb") as opened:
            exposure = find_exposure(opened.fileno(), str(file))
            line = opened.read(4096).decode("utf-8", "replace").strip()
    except OSError as error:
        raise ClientFileUnusable(f"{file} can't be read: {error.strerror}.") from None
    if exposure is not None:
        raise ClientFileUnusable(
            f"{file} is not safe from other users: {exposure.reason}.", exposure.hint
        )
    name, colon, password = line.partition(":")
    if not colon or not name or not password or not line.isprintable():
        raise ClientFileUnusable(
            f"{file} has no credentials.", "Write one line there: NAME:PASSWORD or NAME:TOKEN."
        )
    return Credentials(name, password)


def _plain_credentials(setup: Setup) -> str | None:
    """A warning where a password passes in clear."""
    host = setup.registry.address.rpartition(":")[0].strip("[]")
    if setup.credentials is None or setup.registry.has_tls or is_loopback(host):
        return None
    return (
        "! The engine speaks plain HTTP: everyone on the way to it can read these credentials. "
        "See entrepot certificate."
    )


def _document(configuration: ClientConfiguration) -> dict[str, object]:
    """The configuration for a script, with its secrets."""
    return {
        "client": configuration.client.value,
        "files": [
            {"path": file.path, "content": file.text, "isSecret": file.is_secret}
            for file in configuration.files
        ],
        "notes": list(configuration.notes),
    }


def _print_configuration(configuration: ClientConfiguration) -> None:
    """One file as it is, several with their paths in front."""
    for file in configuration.files:
        if len(configuration.files) > 1:
            print_text(f"==> {file.path} <==")
        print_text(masked(file.text).removesuffix("\n"))
    if len(configuration.files) == 1:
        note(f"This is for {configuration.files[0].path}.")


def _print_state(configuration: ClientConfiguration, place: str) -> None:
    try:
        changes = plan_installation(configuration, place)
    except EntrepotError as error:
        note(f"! {error.message}")
        return
    if not changes:
        note("It is installed already.")
    elif all(change.before is None for change in changes):
        note("Nothing is there yet. Install it with --write.")
    else:
        note("It is not installed. See what would change with --diff, and install it with --write.")


def _print_notes(configuration: ClientConfiguration) -> None:
    for text in configuration.notes:
        note(text)


def _print_difference(changes: list[Change], otherwise: str) -> None:
    if changes:
        print_text(difference(changes).removesuffix("\n"))
    else:
        note(otherwise)


def _change(changes: list[Change], otherwise: str) -> None:
    apply(changes, hint=_as_root())
    _print_difference(changes, otherwise)


def _as_root() -> str:
    return _AS_ROOT.format(shlex.join(sys.argv[1:]))
