"""``entrepot pull`` and ``entrepot refresh``."""

from __future__ import annotations

import os
import sys
import time

import click

from entrepot.api.client import CacheClient
from entrepot.api.models import PullSnapshot, RefreshedTag
from entrepot.cli.completion import cached_images, images, platforms
from entrepot.cli.session import REFUSED, as_json, ask, note, print_json, tell
from entrepot.core.states import PullState
from entrepot.formatting import bar, cells, duration, last_cells, printable, size

PLAIN_PROGRESS = 2.0
"""Seconds between two lines of progress where there is no terminal to draw a bar in."""

BAR = 24
"""Cells of the bar of a pull where there is room for all of it."""

SHORTEST_BAR = 6
"""With fewer cells a bar says nothing that the per cent beside it does not say."""


@click.command()
@click.argument("image", shell_complete=images)
@click.option(
    "--platform",
    shell_complete=platforms,
    help="Such as linux/arm64, arm64, x86_64 or linux/arm/v7 [default: that of the engine's machine].",
)
@as_json
def pull(image: str, platform: str | None, as_json: bool) -> None:
    """Pull IMAGE (library/nginx:1.27) into the cache, without a container client."""
    ended = ask(lambda client: _pull(client, image, platform), waits=True)
    if as_json:
        print_json(ended)
    if ended.state is not PullState.COMPLETED:
        why = (
            f": {ended.error_message} ({ended.error_cause or ended.error_code})"
            if ended.error_message
            else "."
        )
        how = "was cancelled" if ended.state is PullState.CANCELLED else "failed"
        note(printable(f"Error: the pull of {ended.image} {how}{why}"))
        sys.exit(REFUSED)


async def _pull(client: CacheClient, image: str, platform: str | None) -> PullSnapshot:
    import asyncio

    started = await client.pulls.start(image, platform)
    in_terminal = sys.stderr.isatty()
    told = time.monotonic()
    latest = started
    try:
        async for latest in client.pulls.follow(started.id):
            if in_terminal:
                click.echo(f"\r{_progress(latest, _columns())}\x1b[K", err=True, nl=False)
            elif time.monotonic() - told >= PLAIN_PROGRESS and not latest.state.ended:
                note(_progress(latest))
                told = time.monotonic()
    except asyncio.CancelledError:
        note(
            f"\nThe pull goes on in the engine. The dashboard shows it under Pulls, where x cancels it. (pull {started.id})"
        )
        raise
    if latest.state is PullState.COMPLETED:
        took = (latest.ended or latest.started) - latest.started
        came = (
            f"{size(latest.from_source)} from {latest.login_server} in {took:.1f} s"
            if latest.from_source
            else "all of it was held already"
        )
        start_of_line, to_its_end = ("\r", "\x1b[K") if in_terminal else ("", "")
        line = printable(f"{latest.image} {latest.platform or ''}: {size(latest.size)}, {came}.")
        click.echo(f"{start_of_line}{line}{to_its_end}", err=True)
    elif in_terminal:
        click.echo(err=True)
    return latest


@click.command()
@click.argument("image", shell_complete=cached_images)
@as_json
def refresh(image: str, as_json: bool) -> None:
    """Ask the source of IMAGE (library/nginx:1.27) where its tag points now, however fresh it is.
    No layers are fetched."""
    found = ask(lambda client: client.repositories.refresh_tag(image))
    if as_json:
        print_json(found)
    else:
        tell(printable(_refreshed(found)))
    if found.problem is not None:
        sys.exit(REFUSED)


def _refreshed(found: RefreshedTag) -> str:
    name = f"{found.repository}:{found.tag}"
    if found.problem is not None:
        return f"{name} stays at {found.digest}, as it is held: {found.problem}"
    if found.gone:
        return f"{name} is gone at {found.source_repository}; {found.digest} is held and stays."
    if found.before is None:
        return f"{name} is new here: {found.digest}."
    return (
        f"{name} moved from {found.before} to {found.digest}."
        if found.moved
        else f"{name} is unchanged: {found.digest}."
    )


def _columns() -> int:
    """Characters that a line may have: one that reaches the last column makes some terminals go to
    the next, where a carriage return can't go back from."""
    try:
        found = os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        found = 0
    return (found or 80) - 1


def _progress(pull: PullSnapshot, columns: int | None = None) -> str:
    """One line of at most *columns* characters: the bar gives way first, then the beginning of the
    image's name. None: as many as it takes."""
    share = pull.received / pull.size if pull.size else 0.0
    left = f"  {duration(pull.time_left)} left" if pull.time_left is not None else ""
    numbers = (
        f"{share:4.0%}  {size(pull.received)} of {size(pull.size)}  {size(pull.speed)}/s{left}"
    )
    image = printable(pull.image)
    room = BAR if columns is None else min(BAR, columns - cells(image) - len(numbers) - len(" [] "))
    if room >= SHORTEST_BAR:
        return f"{image} {bar(share, room)} {numbers}"
    line = f"{image} {numbers}"
    return (
        line if columns is None or cells(line) <= columns else f"...{last_cells(line, columns - 3)}"
    )
