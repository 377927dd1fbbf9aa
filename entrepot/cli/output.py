"""Output of commands.

Results go to standard output, notes and errors to standard error.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from entrepot.api.errors import ClientError, EngineUnreachable
from entrepot.api.models import DeletionPlan
from entrepot.errors import EntrepotError
from entrepot.formatting import (
    TableColumn,
    cells,
    counted,
    padded,
    printable,
    printable_json,
    printable_lines,
    size,
    table,
)

REFUSED = 1
"""Exit status: the engine refused, or what was asked for failed."""

UNREACHABLE = 3
"""Exit status: no engine answers."""


def fail(error: ClientError | EntrepotError) -> NoReturn:
    """Print an error as one paragraph on standard error and end the program."""
    # An engine's message may hold text of a source. Only our own errors have several lines, such as
    # the end of a log.
    message = printable(error.message) if isinstance(error, ClientError) else error.message
    note(f"Error: {message} ({printable(error.code)})")
    sys.exit(UNREACHABLE if isinstance(error, EngineUnreachable) else REFUSED)


def print_text(text: str = "") -> None:
    """Print to standard output.

    Ends the program with an error if the text can't be written, as on a full disk.

    Line breaks are printed as they are; other characters that a terminal could obey are escaped
    (S04). Foreign text that must not break the line is cleaned by the caller.
    """
    try:
        click.echo(printable_lines(text))
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        note(f"Error: Standard output can't be written: {error.strerror}.")
        sys.exit(REFUSED)


def note(text: str = "") -> None:
    """Print to standard error what is for people only; cleaned as `print_text` does."""
    click.echo(printable_lines(text), err=True)


def print_json(value: object) -> None:
    """Print one or several snapshots for a script."""
    import msgspec

    print_text(printable_json(msgspec.json.format(msgspec.json.encode(value), indent=2).decode()))


def print_table(
    columns: Sequence[TableColumn], rows: Sequence[Sequence[str]], *, empty: str
) -> None:
    """Print a listing; *empty* goes to standard error when there are no rows."""
    if rows:
        print_text(table(columns, rows))
    else:
        note(empty)


def print_fields(fields: Sequence[tuple[str, Any]]) -> None:
    """Print one thing, a line for each field; fields without a value are left out.

    A value may hold foreign text: it becomes one printable line.
    """
    lines = [
        (name, printable(str(value))) for name, value in fields if value is not None and value != ""
    ]
    width = max(cells(name) for name, _ in lines)
    for name, value in lines:
        print_text(f"{padded(name, width)}  {value}")


def print_plan(plan: DeletionPlan) -> None:
    """Print what a deletion would do.

    Ends the program with `REFUSED` if the deletion can't be done.
    """
    without_rule = ", ".join(plan.repositories[:3]) + (
        f" and {plan.repository_count - 3:,} more" if plan.repository_count > 3 else ""
    )
    deleted = (
        f"{counted(plan.tag_count, 'tag')}, {counted(plan.manifest_count, 'manifest')}, "
        f"{size(plan.freed)}"
    )
    print_fields(
        [
            ("Would be deleted", plan.name),
            ("Deletes", deleted if plan.kind in {"repository", "tag"} else None),
            ("Stays", f"{size(plan.shared)} that others need too" if plan.shared else None),
            ("Left without a tag", size(plan.untagged) if plan.untagged else None),
            ("Cancels pulls", plan.pulls or None),
            ("Fetched again by", plan.fetched_again_by),
            ("Left without a rule", without_rule),
            ("Used by", ", ".join(plan.used_by)),
            ("Refused", plan.refused),
        ]
    )
    if not plan.possible:
        sys.exit(REFUSED)


def date_and_time(moment: float | None, *, seconds: bool = False) -> str:
    """A time in seconds since the epoch, as text in this machine's time zone.

    It is given to the minute or to the second.
    """
    if moment is None:
        return "never"
    time_format = "%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M"
    return time.strftime(time_format, time.localtime(moment))


def exit_on_broken_pipe() -> NoReturn:
    """End quietly, as the shell expects, when the reader of standard output has ended.

    As in ``entrepot rule list | head -1``.
    """
    _discard_output()
    sys.exit(128 + 13)


def _discard_output() -> None:
    """Redirect standard output to /dev/null.

    Otherwise Python flushes it again when it exits, and complains.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
