"""``entrepot events``."""

from __future__ import annotations

import sys
from contextlib import aclosing

import click
import msgspec

from entrepot.api.client import CacheClient
from entrepot.api.models import Event
from entrepot.cli.options import as_json
from entrepot.cli.output import date_and_time, note, print_json, print_text
from entrepot.cli.session import call_engine
from entrepot.formatting import printable, printable_json


@click.command()
@click.option(
    "--follow", "-f", is_flag=True, help="Print new events too, until ctrl+c or the engine stops."
)
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Number of recent events.",
)
@as_json
def events(follow: bool, limit: int, as_json: bool) -> None:
    """Show recent events, oldest first. With --follow and --json each event is one line of JSON."""
    if not follow:
        recent_events = call_engine(lambda client: _recent(client, limit))
        if as_json:
            print_json(recent_events)
            return
        for event in recent_events:
            print_text(_line(event))
        if not recent_events:
            note("No events to show.")
        return
    try:
        call_engine(lambda client: _follow(client, limit, as_json=as_json))
    except KeyboardInterrupt:
        sys.exit(130)
    note("The event stream has ended: the engine has stopped, or the connection to it is lost.")


async def _recent(client: CacheClient, limit: int) -> list[Event]:
    # The engine takes 0 for all of them; it is asked also for none, to say where none answers.
    recent_events = await client.system.recent_events(max(limit, 1))
    return recent_events if limit else []


async def _follow(client: CacheClient, limit: int, *, as_json: bool) -> None:
    async with aclosing(client.system.follow_events(limit)) as stream:
        async for event in stream:
            if as_json:
                print_text(printable_json(msgspec.json.encode(event).decode()))
            else:
                print_text(_line(event))


def _line(event: Event) -> str:
    time = date_and_time(event.time, seconds=True)
    return f"{time}  {event.severity:<7}  {printable(event.message)}"
