"""What all commands share: where the engine is, how an error is told, how a listing is printed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, TypeVar

import click

from entrepot.api.client import CacheClient, ClientError, EngineUnreachable
from entrepot.api.models import DeletionPlan
from entrepot.cli.connection import link
from entrepot.errors import EntrepotError
from entrepot.formatting import (
    Column,
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

T = TypeVar("T")

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
name_option = click.option(
    "--name", "-n", required=True, help="5 to 50 letters, digits and dashes."
)
dry_run_option = click.option(
    "--dry-run",
    is_flag=True,
    help="Only show what goes and what stays. Exit status 1 when it can't be deleted.",
)
run_program_option = click.option(
    "--yes",
    "-y",
    is_flag=True,
    help="Do not ask before the engine is told to run a program (command:, docker-helper:).",
)
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def fail(error: ClientError | EntrepotError) -> NoReturn:
    """End with an error in one paragraph on standard error."""
    # What an engine says may hold what a source said. Only our own errors have several lines, such
    # as the end of a log.
    message = printable(error.message) if isinstance(error, ClientError) else error.message
    note(f"Error: {message} ({printable(error.code)})")
    sys.exit(UNREACHABLE if isinstance(error, EngineUnreachable) else REFUSED)


def ask(work: Callable[[CacheClient], Awaitable[T]], *, waits: bool = False) -> T:
    """Run *work* with a client of the engine, and end with its error if it has one. *waits* says
    that it does more than to ask, such as to sleep."""

    async def session(blocking: bool) -> T:
        async with way.client(blocking=blocking) as client:
            return await work(client)

    try:
        way = link()
        if way.blocks and not waits:
            return without_waiting(session(True))
        import asyncio

        return asyncio.run(session(False))
    except (ClientError, EntrepotError) as error:
        fail(error)


def without_waiting(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits, because what it asks blocks: it needs no event loop, and
    the command starts in half the time."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise RuntimeError("It waits for something, and nobody would wake it.")


@contextmanager
def cleans_up_when_ended() -> Iterator[None]:
    """Within it a SIGTERM or a lost terminal ends the program as an exception does, so that what
    was begun is also removed; Python would just end."""

    def end(number: int, _: FrameType | None) -> None:
        # A second one must not interrupt the cleaning up.
        for each in caught:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    # Whoever started it with nohup wants it to stay.
    wanted = [
        each
        for each in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(each) is not signal.SIG_IGN
    ]
    caught = {each: signal.signal(each, end) for each in wanted}
    try:
        yield
    finally:
        for each, before in caught.items():
            signal.signal(each, before)


def tell(text: str = "") -> None:
    """Print to standard output, and end with an error where it takes no more, such as a file on a
    full disk.

    Line breaks are printed as they are; what else a terminal could obey is escaped (S04). A foreign
    part that must not break the line is cleaned before.
    """
    try:
        click.echo(printable_lines(text))
    except BrokenPipeError:
        raise
    except OSError as error:
        _forget_output()
        note(f"Error: Standard output can't be written: {error.strerror}.")
        sys.exit(REFUSED)


def note(text: str = "") -> None:
    """Print to standard error what a person reads besides; cleaned as `tell` does."""
    click.echo(printable_lines(text), err=True)


def print_json(value: object) -> None:
    """Print a picture, or a list of pictures, for a script."""
    import msgspec

    tell(printable_json(msgspec.json.format(msgspec.json.encode(value), indent=2).decode()))


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Print a listing; *empty* says on standard error what to do when there is nothing in it."""
    if rows:
        tell(table(columns, rows))
    else:
        note(empty)


def print_fields(fields: Sequence[tuple[str, Any]]) -> None:
    """Print one thing, a line for each of its fields; those without a value are left out. A value
    may hold foreign text: it is one printable line."""
    told = [
        (name, printable(str(value))) for name, value in fields if value is not None and value != ""
    ]
    width = max(cells(name) for name, _ in told)
    for name, value in told:
        tell(f"{padded(name, width)}  {value}")


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is deleted. Without a terminal nobody can answer: then --yes is needed."""
    if yes:
        return
    question = printable(question)
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Without a terminal, say so with --yes.")
    click.confirm(question, abort=True, err=True)


def confirm_programs(identifiers: Sequence[str | None], *, yes: bool) -> None:
    """Ask before the engine is told to run programs for a sign-in (S13): it does so as its own
    user, at once and again every few minutes."""
    from entrepot.core.secret_identifiers import runs_program

    programs = [each for each in identifiers if each is not None and runs_program(each)]
    if programs:
        confirm(
            f"The engine runs this each time it signs in: {', '.join(dict.fromkeys(programs))}. Go on?",
            yes=yes,
        )


def broken_pipe() -> NoReturn:
    """Whoever read our output has left (``entrepot rule list | head -1``): end quietly, as the
    shell expects."""
    _forget_output()
    sys.exit(128 + 13)


def _forget_output() -> None:
    """Python tries once more to write what is left when it ends, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_plan(plan: DeletionPlan) -> None:
    """Print what a deletion would do; where it is refused, end with its exit status."""
    stay = ", ".join(plan.repositories[:3]) + (
        f" and {plan.repository_count - 3:,} more" if plan.repository_count > 3 else ""
    )
    goes = f"{counted(plan.tag_count, 'tag')}, {counted(plan.manifest_count, 'manifest')}, {size(plan.freed)}"
    print_fields(
        [
            ("Would be deleted", plan.name),
            ("Goes", goes if plan.kind in {"repository", "tag"} else None),
            ("Stays", f"{size(plan.shared)} that others need too" if plan.shared else None),
            ("Left without a tag", size(plan.untagged) if plan.untagged else None),
            ("Pulls that end", plan.pulls or None),
            ("Fetched again by", plan.fetched_again_by),
            ("Left without a rule", stay),
            ("Used by", ", ".join(plan.used_by)),
            ("Refused", plan.refused),
        ]
    )
    if not plan.possible:
        sys.exit(REFUSED)


def date_and_time(seconds: float | None) -> str:
    """A time in seconds since the epoch, as the clock on the wall shows it."""
    return "never" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
