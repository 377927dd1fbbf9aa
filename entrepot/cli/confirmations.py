"""Questions before a command deletes something or has the engine run a program."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from entrepot.formatting import printable


def confirm(question: str, *, yes: bool) -> None:
    """Ask for confirmation.

    Without a terminal there is no answer: --yes is then required.
    """
    if yes:
        return
    question = printable(question)
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Without a terminal, confirm with --yes.")
    click.confirm(question, abort=True, err=True)


def confirm_programs(identifiers: Sequence[str | None], *, yes: bool) -> None:
    """Ask before the engine runs programs for a sign-in (S13).

    It runs them as its own user, at once and again every few minutes.
    """
    from entrepot.core.secret_identifiers import runs_program

    programs = [
        identifier
        for identifier in identifiers
        if identifier is not None and runs_program(identifier)
    ]
    if programs:
        confirm(
            "The engine runs this each time it signs in: "
            f"{', '.join(dict.fromkeys(programs))}. Continue?",
            yes=yes,
        )
