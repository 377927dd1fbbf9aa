"""Drafts of cache rules, credential sets and personal tokens.

They are shown as the command and the TOML that create them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable

from entrepot.core.readers import OPEN, ReaderAccess

COMMAND_WIDTH = 70
"""Columns of a line of a command, unless one of its parts is longer."""

COPIED_WIDTH = COMMAND_WIDTH + 2
"""The same for a command that is copied: the backslash at the end of a line may exceed it."""


def rule_command(
    name: str,
    source: str,
    target: str,
    credential_set: str | None = None,
    freshness: str | None = None,
    access: ReaderAccess = OPEN,
    *,
    width: int = COMMAND_WIDTH,
) -> str:
    """The command that creates a rule."""
    return _command(
        "entrepot rule create",
        (
            ("--name", name),
            ("--source-repo", source),
            ("--target-repo", target),
            ("--cred-set", credential_set),
            ("--freshness", freshness),
            *(("--reader", reader) for reader in access.readers),
        ),
        width,
        {None: (), True: ("--anonymous",), False: ("--no-anonymous",)}[access.anonymous],
    )


def rule_toml(
    name: str,
    source: str,
    target: str,
    credential_set: str | None = None,
    freshness: str | None = None,
    access: ReaderAccess = OPEN,
) -> str:
    """A rule as an entry of rules.toml."""
    return _toml(
        "rules",
        (
            ("name", name),
            ("source_repository", source),
            ("target_repository", target),
            ("credential_set", credential_set),
            ("freshness", freshness),
            ("readers", list(access.readers) or None),
            ("anonymous", access.anonymous),
        ),
    )


def token_command(
    name: str, expires: str | None, groups: Iterable[str], *, width: int = COMMAND_WIDTH
) -> str:
    """The command that creates a personal token."""
    return _command(
        f"entrepot token create {shlex.quote(name)}",
        (("--expires", expires), *(("--group", group) for group in groups)),
        width,
    )


def credential_set_command(
    name: str, login_server: str, username_id: str, password_id: str, *, width: int = COMMAND_WIDTH
) -> str:
    """The command that creates a credential set."""
    options = (
        ("--name", name),
        ("--login-server", login_server),
        ("--username-id", username_id),
        ("--password-id", password_id),
    )
    return _command("entrepot credential-set create", options, width)


def credential_set_change_command(
    name: str, username_id: str | None, password_id: str | None, *, width: int = COMMAND_WIDTH
) -> str:
    """The command that changes where the secrets of a set are kept.

    A value of None stays as it is.
    """
    return _command(
        "entrepot credential-set update",
        (("--name", name), ("--username-id", username_id), ("--password-id", password_id)),
        width,
    )


def credential_set_toml(name: str, login_server: str, username_id: str, password_id: str) -> str:
    """A credential set as an entry of credentials.toml."""
    return _toml(
        "credential_sets",
        (
            ("name", name),
            ("login_server", login_server),
            ("username_id", username_id),
            ("password_id", password_id),
        ),
    )


def _command(
    command: str,
    options: Iterable[tuple[str, str | None]],
    width: int,
    flags: Iterable[str] = (),
) -> str:
    lines = [command]
    arguments = [f"{option} {shlex.quote(value)}" for option, value in options if value is not None]
    for argument in (*arguments, *flags):
        if len(lines[-1]) + len(argument) + 3 > width:
            lines.append("   ")
        lines[-1] += f" {argument}"
    return " \\\n".join(lines)


def _toml(table: str, entries: Iterable[tuple[str, str | bool | list[str] | None]]) -> str:
    # Basic strings, booleans and lists of strings in TOML are written like those of JSON.
    return "\n".join(
        [
            f"[[{table}]]",
            *(
                f"{key} = {json.dumps(value, ensure_ascii=False)}"
                for key, value in entries
                if value is not None
            ),
        ]
    )
