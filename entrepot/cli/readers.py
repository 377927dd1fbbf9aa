"""``entrepot reader`` and ``entrepot token``."""

from __future__ import annotations

import time

import click

from entrepot.api.reader_models import ReaderSnapshot, TokenSnapshot
from entrepot.cli.completion import group_names, token_names
from entrepot.cli.confirmations import confirm
from entrepot.cli.options import as_json, yes_option
from entrepot.cli.output import date_and_time, fail, note, print_json, print_table, print_text
from entrepot.cli.session import call_engine
from entrepot.formatting import TableColumn, ago


@click.group()
def reader() -> None:
    """Readers: who may pull from the registry, and what."""


_RULES_SHOWN = 3

_READER_COLUMNS = (
    TableColumn("Name"),
    TableColumn("Signs in with"),
    TableColumn("Groups"),
    TableColumn("Rules", right=True),
    TableColumn("Such as"),
)


@reader.command("list")
@as_json
def list_readers(as_json: bool) -> None:
    """List who is known from the password file, groups and tokens, and which cache rules each may
    read."""
    readers = call_engine(lambda client: client.readers.list())
    if as_json:
        print_json(readers)
        return
    anonymous = ("(anonymous)", "-", "-", *_rules(readers.anonymous_rules))
    rows = [
        (
            reader.name,
            _ways(reader),
            ", ".join(f"@{group}" for group in reader.groups) or "-",
            *_rules(reader.rules),
        )
        for reader in readers.readers
    ]
    print_table(_READER_COLUMNS, [anonymous, *rows], empty="")
    if not readers.can_sign_in:
        note(
            "Nobody can sign in. Name a password file below [readers] in settings.toml, or create "
            "a token: entrepot token create"
        )


def _ways(reader: ReaderSnapshot) -> str:
    ways = [
        way
        for way, is_known in (("password", reader.password), ("token", reader.token))
        if is_known
    ]
    return ", ".join(ways) or "nothing yet"


def _rules(names: tuple[str, ...]) -> tuple[str, str]:
    more = len(names) - _RULES_SHOWN
    shown = ", ".join(names[:_RULES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
    return f"{len(names):,}", shown or "-"


@click.group()
def token() -> None:
    """Personal tokens, with which readers sign in at the registry."""


_TOKEN_COLUMNS = (
    TableColumn("Name"),
    TableColumn("Groups"),
    TableColumn("Created"),
    TableColumn("Expires"),
    TableColumn("Last used", right=True),
)


@token.command("list")
@as_json
def list_tokens(as_json: bool) -> None:
    """List all personal tokens. The tokens themselves are not stored."""
    tokens = call_engine(lambda client: client.readers.tokens())
    if as_json:
        print_json(tokens)
        return
    now = time.time()
    rows = [
        (
            token.name,
            ", ".join(f"@{group}" for group in token.groups) or "-",
            date_and_time(token.created),
            _expiry(token),
            ago(token.last_used, now),
        )
        for token in tokens
    ]
    print_table(
        _TOKEN_COLUMNS,
        rows,
        empty="There is no personal token yet. Create one with: entrepot token create",
    )


def _expiry(token: TokenSnapshot) -> str:
    if token.expires is None:
        return "never"
    return (
        f"expired {date_and_time(token.expires)}" if token.expired else date_and_time(token.expires)
    )


@token.command("create")
@click.argument("name")
@click.option(
    "--expires",
    metavar="TIME",
    help="For how long it is valid: 90d, 12h, 30min or never [default: never].",
)
@click.option(
    "--group",
    "-g",
    "groups",
    multiple=True,
    shell_complete=group_names,
    help="A group of its reader; may be given several times.",
)
@as_json
def create_token(name: str, expires: str | None, groups: tuple[str, ...], as_json: bool) -> None:
    """Create a personal token for the reader NAME, and print it, once."""
    created = call_engine(
        lambda client: client.readers.create_token(name, expires=expires, groups=groups)
    )
    if as_json:
        print_json(created)
        return
    print_text(created.secret)
    until = (
        f"valid until {date_and_time(created.token.expires)}"
        if created.token.expires is not None
        else "valid until it is revoked"
    )
    note(
        f"This is the password of {created.token.name}, {until}. It is not shown again. "
        f"Sign in with: docker login -u {created.token.name} --password-stdin REGISTRY"
    )


@token.command("revoke")
@click.argument("name", shell_complete=token_names)
@yes_option
def revoke_token(name: str, yes: bool) -> None:
    """Revoke a personal token: from now on nobody signs in with it."""
    confirm(f"Revoke the personal token {name}?", yes=yes)
    if not call_engine(lambda client: client.readers.revoke_token(name)):
        from entrepot.core.tokens import TokenNotFound

        fail(
            TokenNotFound(
                f"There is no personal token {name}.", "See the list: entrepot token list"
            )
        )
    note(f"The personal token {name} is revoked.")
