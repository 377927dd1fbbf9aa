"""``entrepot credential-set``."""

from __future__ import annotations

import sys

import click

from entrepot.api.client import CacheClient
from entrepot.api.labels import credential_set_health
from entrepot.api.models import CredentialSetSnapshot
from entrepot.cli.completion import credential_set_names, login_servers
from entrepot.cli.confirmations import confirm, confirm_programs
from entrepot.cli.options import (
    as_json,
    dry_run_option,
    name_option,
    run_program_option,
    yes_option,
)
from entrepot.cli.output import (
    REFUSED,
    date_and_time,
    note,
    print_fields,
    print_json,
    print_plan,
    print_table,
)
from entrepot.cli.session import call_engine
from entrepot.core.states import HealthStatus
from entrepot.formatting import TableColumn, counted


@click.group("credential-set")
def credential_set() -> None:
    """Credential sets: how to sign in to a source registry."""


_SECRET = (
    "Where it is kept, never the secret itself: env:NAME, file:/path, keyring:SERVICE/USER, "
    "https://VAULT.vault.azure.net/secrets/NAME, docker-config:{0}, docker-helper:HELPER/{0} "
    "or 'command:/path arguments'."
)
_SET_COLUMNS = (
    TableColumn("Name"),
    TableColumn("Login server"),
    TableColumn("User name"),
    TableColumn("Password"),
    TableColumn("Health"),
    TableColumn("Used by", right=True),
)


@credential_set.command("list")
@as_json
def list_sets(as_json: bool) -> None:
    """List all credential sets."""
    credential_sets = call_engine(lambda client: client.credential_sets.list())
    if as_json:
        print_json(credential_sets)
        return
    rows = [
        (
            credential_set.name,
            credential_set.login_server,
            credential_set.username_id,
            credential_set.password_id,
            credential_set_health(credential_set),
            counted(len(credential_set.used_by), "rule"),
        )
        for credential_set in credential_sets
    ]
    print_table(
        _SET_COLUMNS,
        rows,
        empty="There is no credential set yet. Create one in the dashboard, "
        "or with: entrepot credential-set create",
    )


_existing = click.option(
    "--name",
    "-n",
    required=True,
    shell_complete=credential_set_names,
    help="Name of the credential set.",
)


@credential_set.command("show")
@_existing
@as_json
def show_set(name: str, as_json: bool) -> None:
    """Show a credential set and its health."""
    _print_set(call_engine(lambda client: client.credential_sets.get(name)), as_json=as_json)


@credential_set.command("create")
@name_option
@click.option(
    "--login-server",
    "-l",
    required=True,
    shell_complete=login_servers,
    help="The source registry: docker.io",
)
@click.option(
    "--username-id", "-u", required=True, help="The user name. " + _SECRET.format("username")
)
@click.option(
    "--password-id",
    "-p",
    required=True,
    help="The password or token. " + _SECRET.format("password"),
)
@run_program_option
@as_json
def create_set(
    name: str, login_server: str, username_id: str, password_id: str, yes: bool, as_json: bool
) -> None:
    """Create a credential set."""
    confirm_programs((username_id, password_id), yes=yes)

    async def create(client: CacheClient) -> CredentialSetSnapshot:
        await client.credential_sets.create(name, login_server, username_id, password_id)
        return await client.credential_sets.wait_for_sign_in(name)

    _print_stored(call_engine(create, waits=True), as_json=as_json)


@credential_set.command("update")
@_existing
@click.option("--username-id", "-u", help="The user name. " + _SECRET.format("username"))
@click.option("--password-id", "-p", help="The password or token. " + _SECRET.format("password"))
@run_program_option
@as_json
def update_set(
    name: str, username_id: str | None, password_id: str | None, yes: bool, as_json: bool
) -> None:
    """Change where the secrets of a credential set are kept."""
    if username_id is None and password_id is None:
        raise click.UsageError(
            "There is nothing to change: give --username-id, --password-id or both."
        )
    confirm_programs((username_id, password_id), yes=yes)

    async def update(client: CacheClient) -> CredentialSetSnapshot:
        await client.credential_sets.update(name, username_id, password_id)
        return await client.credential_sets.wait_for_sign_in(name)

    _print_stored(call_engine(update, waits=True), as_json=as_json)


@credential_set.command("verify")
@_existing
@as_json
def verify_set(name: str, as_json: bool) -> None:
    """Sign in with a credential set. Exit status 1 when that fails."""
    credential_set = call_engine(lambda client: client.credential_sets.sign_in(name))
    _print_set(credential_set, as_json=as_json)
    if credential_set.health is not HealthStatus.HEALTHY:
        sys.exit(REFUSED)


# The former name of this command, which scripts use.
credential_set.add_command(
    click.Command(
        "check",
        params=verify_set.params,
        callback=verify_set.callback,
        help="The same as verify.",
        hidden=True,
    )
)


@credential_set.command("delete")
@_existing
@dry_run_option
@yes_option
def delete_set(name: str, dry_run: bool, yes: bool) -> None:
    """Delete a credential set that no cache rule uses. The secrets stay where they are."""
    if dry_run:
        print_plan(call_engine(lambda client: client.credential_sets.preview_delete(name)))
        return
    confirm(f"Delete the credential set {name}?", yes=yes)
    call_engine(lambda client: client.credential_sets.delete(name))
    note(f"The credential set {name} is deleted.")


def sign_in_remark(credential_set: CredentialSetSnapshot) -> str | None:
    """What to do about the first sign-in of a created or changed credential set.

    None if the sign-in succeeded.
    """
    name = credential_set.name
    if credential_set.health is HealthStatus.HEALTHY:
        return None
    verify = f"entrepot credential-set verify --name {name}"
    if credential_set.health is HealthStatus.UNHEALTHY:
        return (
            f"! The credential set {name} is stored, but its sign-in fails, for the reason above. "
            f"When it is corrected, try again with: {verify}"
        )
    if credential_set.checked is None:
        return (
            f"! The credential set {name} is stored. Whether it can sign in is not known yet: "
            f"{credential_set.login_server} has not answered. Check it later with: {verify}"
        )
    return (
        f"! The credential set {name} is stored. Whether it can sign in is not known, "
        f"for the reason above. Check it later with: {verify}"
    )


def _print_stored(credential_set: CredentialSetSnapshot, *, as_json: bool) -> None:
    _print_set(credential_set, as_json=as_json)
    if (remark := sign_in_remark(credential_set)) is not None:
        note(remark)


def _print_set(credential_set: CredentialSetSnapshot, *, as_json: bool) -> None:
    if as_json:
        print_json(credential_set)
        return
    print_fields(
        [
            ("Name", credential_set.name),
            ("Login server", credential_set.login_server),
            ("User name", credential_set.username_id),
            ("Password", credential_set.password_id),
            ("Health", credential_set_health(credential_set)),
            ("Reason", credential_set.error_message),
            (
                "Checked",
                date_and_time(credential_set.checked) if credential_set.checked else None,
            ),
            ("Created", date_and_time(credential_set.created)),
            ("Used by", ", ".join(credential_set.used_by) or "no rule"),
        ]
    )
