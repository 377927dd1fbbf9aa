"""``entrepot credential-set``."""

from __future__ import annotations

import sys

import click

from entrepot.api.client import CacheClient
from entrepot.api.models import CredentialSetSnapshot
from entrepot.cli.completion import credential_set_names, login_servers
from entrepot.cli.session import (
    REFUSED,
    as_json,
    ask,
    confirm,
    confirm_programs,
    date_and_time,
    dry_run_option,
    name_option,
    note,
    print_fields,
    print_json,
    print_plan,
    print_table,
    run_program_option,
    yes_option,
)
from entrepot.core.states import HealthStatus
from entrepot.formatting import Column, counted


@click.group("credential-set")
def credential_set() -> None:
    """Credential sets: how to sign in to a source registry."""


_SECRET = (
    "Where it is kept, never the secret itself: env:NAME, file:/path, keyring:SERVICE/USER, https://VAULT.vault.azure.net/secrets/NAME, "
    "docker-config:{0}, docker-helper:HELPER/{0} or 'command:/path arguments'."
)
_SET_COLUMNS = (
    Column("Name"),
    Column("Login server"),
    Column("User name"),
    Column("Password"),
    Column("Health"),
    Column("Used by", right=True),
)


@credential_set.command("list")
@as_json
def list_sets(as_json: bool) -> None:
    """List all credential sets."""
    found = ask(lambda client: client.credential_sets.list())
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each.name,
            each.login_server,
            each.username_id,
            each.password_id,
            each.health.value,
            counted(len(each.used_by), "rule"),
        )
        for each in found
    ]
    print_table(
        _SET_COLUMNS,
        rows,
        empty="There is no credential set yet. Make one in the dashboard, or with: entrepot credential-set create",
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
    _print_set(ask(lambda client: client.credential_sets.get(name)), as_json=as_json)


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
    """Make a credential set."""
    confirm_programs((username_id, password_id), yes=yes)

    async def create(client: CacheClient) -> CredentialSetSnapshot:
        await client.credential_sets.create(name, login_server, username_id, password_id)
        return await client.credential_sets.wait_for_sign_in(name)

    _print_stored(ask(create, waits=True), as_json=as_json)


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

    _print_stored(ask(update, waits=True), as_json=as_json)


@credential_set.command("check")
@_existing
@as_json
def check_set(name: str, as_json: bool) -> None:
    """Try to sign in with a credential set. Exit status 1 when that fails."""
    found = ask(lambda client: client.credential_sets.sign_in(name))
    _print_set(found, as_json=as_json)
    if found.health is not HealthStatus.HEALTHY:
        sys.exit(REFUSED)


@credential_set.command("delete")
@_existing
@dry_run_option
@yes_option
def delete_set(name: str, dry_run: bool, yes: bool) -> None:
    """Delete a credential set that no cache rule uses. The secrets themselves stay where they are."""
    if dry_run:
        print_plan(ask(lambda client: client.credential_sets.preview_delete(name)))
        return
    confirm(f"Delete the credential set {name}?", yes=yes)
    ask(lambda client: client.credential_sets.delete(name))
    note(f"The credential set {name} is deleted.")


def sign_in_remark(credential_set: CredentialSetSnapshot) -> str | None:
    """What to do about the first sign-in of a set that was created or changed; None where it
    succeeded."""
    name = credential_set.name
    if credential_set.health is HealthStatus.HEALTHY:
        return None
    if credential_set.health is HealthStatus.UNHEALTHY:
        again = f"When it is corrected, try again with: entrepot credential-set check --name {name}"
        return f"! The credential set {name} is stored, but its sign-in fails, for the reason above. {again}"
    later = f"See it later with: entrepot credential-set check --name {name}"
    if credential_set.checked is None:
        return f"! The credential set {name} is stored. Whether it can sign in is not known yet: {credential_set.login_server} has not answered. {later}"
    return f"! The credential set {name} is stored. Whether it can sign in is not known, for the reason above. {later}"


def _print_stored(credential_set: CredentialSetSnapshot, *, as_json: bool) -> None:
    _print_set(credential_set, as_json=as_json)
    if (remark := sign_in_remark(credential_set)) is not None:
        note(remark)


def _print_set(found: CredentialSetSnapshot, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print_fields(
        [
            ("Name", found.name),
            ("Login server", found.login_server),
            ("User name", found.username_id),
            ("Password", found.password_id),
            ("Health", found.health.value),
            ("Why", found.error_message),
            ("Checked", date_and_time(found.checked) if found.checked else None),
            ("Created", date_and_time(found.created)),
            ("Used by", ", ".join(found.used_by) or "no rule"),
        ]
    )
