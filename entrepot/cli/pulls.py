"""``entrepot pull`` and ``entrepot refresh``."""

from __future__ import annotations

import os
import sys
import time

import click

from entrepot.api.client import CacheClient
from entrepot.api.labels import refreshed_tag_text
from entrepot.api.models import PullSnapshot
from entrepot.cli.completion import cached_images, images, platforms
from entrepot.cli.options import as_json
from entrepot.cli.output import REFUSED, note, print_json, print_text
from entrepot.cli.session import call_engine
from entrepot.core.states import PullState
from entrepot.formatting import bar, cells, duration, last_cells, printable, size

PLAIN_PROGRESS_INTERVAL = 2.0
"""Seconds between two lines of progress where there is no terminal to draw a bar in."""

BAR_WIDTH = 24
"""Cells of a pull's bar where there is room for all of it."""

MIN_BAR_WIDTH = 6
"""With fewer cells a bar says nothing that the per cent beside it does not say."""


@click.command()
@click.argument("image", shell_complete=images)
@click.option(
    "--platform",
    shell_complete=platforms,
    help="Such as linux/arm64, arm64, x86_64 or linux/arm/v7 "
    "[default: that of the engine's machine].",
)
@click.option(
    "--referrers",
    is_flag=True,
    help="Pull what refers to the image too: signatures, attestations and SBOMs, so that they can "
    "be verified while the source registry is down.",
)
@as_json
def pull(image: str, platform: str | None, referrers: bool, as_json: bool) -> None:
    """Pull IMAGE (library/nginx:1.27) into the cache, without a container client."""
    ended_pull = call_engine(lambda client: _pull(client, image, platform, referrers), waits=True)
    if as_json:
        print_json(ended_pull)
    if ended_pull.state is not PullState.COMPLETED:
        reason = (
            f": {ended_pull.error_message} ({ended_pull.error_cause or ended_pull.error_code})"
            if ended_pull.error_message
            else "."
        )
        outcome = "was cancelled" if ended_pull.state is PullState.CANCELLED else "failed"
        note(printable(f"Error: the pull of {ended_pull.image} {outcome}{reason}"))
        sys.exit(REFUSED)


async def _pull(
    client: CacheClient, image: str, platform: str | None, referrers: bool
) -> PullSnapshot:
    import asyncio

    started = latest = await client.pulls.start(image, platform, referrers=referrers)
    in_terminal = sys.stderr.isatty()
    printed_at = time.monotonic()
    try:
        async for latest in client.pulls.follow(started.id):
            if in_terminal:
                click.echo(f"\r{_progress(latest, _columns())}\x1b[K", err=True, nl=False)
            elif (
                time.monotonic() - printed_at >= PLAIN_PROGRESS_INTERVAL and not latest.state.ended
            ):
                note(_progress(latest))
                printed_at = time.monotonic()
    except asyncio.CancelledError:
        note(
            "\nThe pull continues in the engine. The dashboard lists it under Pulls, "
            f"where x cancels it. (pull {latest.id})"
        )
        raise
    if latest.state is PullState.COMPLETED:
        seconds = (latest.ended or latest.started) - latest.started
        origin = (
            f"{size(latest.from_source)} from {latest.login_server} in {seconds:.1f} s"
            if latest.from_source
            else "all of it was cached already"
        )
        line_start, line_end = ("\r", "\x1b[K") if in_terminal else ("", "")
        line = printable(f"{latest.image} {latest.platform or ''}: {size(latest.size)}, {origin}.")
        click.echo(f"{line_start}{line}{line_end}", err=True)
    elif in_terminal:
        click.echo(err=True)
    return latest


@click.command()
@click.argument("image", shell_complete=cached_images)
@as_json
def refresh(image: str, as_json: bool) -> None:
    """Ask the source of IMAGE (library/nginx:1.27) where its tag points now, whatever its tag
    lifetime is. No layers are fetched."""
    refreshed = call_engine(lambda client: client.repositories.refresh_tag(image))
    if as_json:
        print_json(refreshed)
    else:
        print_text(printable(refreshed_tag_text(refreshed, short=False)))
    if refreshed.problem is not None:
        sys.exit(REFUSED)


def _columns() -> int:
    """Characters that a progress line may have.

    A line that reaches the last column makes some terminals wrap, and a carriage return can't go
    back from there.
    """
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        columns = 0
    return (columns or 80) - 1


def _progress(pull: PullSnapshot, columns: int | None = None) -> str:
    """One line of at most *columns* characters; None: as long as it is.

    Where there is too little room, the bar goes first, then the beginning of the image's name.
    """
    share = pull.received / pull.size if pull.size else 0.0
    time_left = f"  {duration(pull.time_left)} left" if pull.time_left is not None else ""
    numbers = (
        f"{share:4.0%}  {size(pull.received)} of {size(pull.size)}  {size(pull.speed)}/s{time_left}"
    )
    image = printable(pull.image)
    bar_width = (
        BAR_WIDTH
        if columns is None
        else min(BAR_WIDTH, columns - cells(image) - len(numbers) - len(" [] "))
    )
    if bar_width >= MIN_BAR_WIDTH:
        return f"{image} {bar(share, bar_width)} {numbers}"
    line = f"{image} {numbers}"
    return (
        line if columns is None or cells(line) <= columns else f"...{last_cells(line, columns - 3)}"
    )
