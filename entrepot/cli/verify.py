"""``entrepot verify``."""

from __future__ import annotations

import sys
import time

import click

from entrepot.api.client import CacheClient
from entrepot.api.errors import EngineRefused
from entrepot.api.models import VerificationSnapshot
from entrepot.cli.options import as_json
from entrepot.cli.output import REFUSED, print_json, print_text
from entrepot.cli.session import call_engine
from entrepot.core.states import VerificationState
from entrepot.formatting import counted, duration, parse_size, size

DEFAULT_SPEED = "100 MB/s"
"""`entrepot.engine.verification.DEFAULT_SPEED` as text: half of what a hard disk reads."""

UNLIMITED = "unlimited"

POLL_INTERVAL = 0.5
"""Seconds between two requests for the state of a verification."""

PLAIN_PROGRESS_INTERVAL = 10.0
"""Seconds between two lines of progress where there is no terminal."""


def parse_speed(text: str) -> int | None:
    """Bytes per second of ``100 MB/s`` or ``50MB``; None for ``unlimited``.

    Raises ValueError.
    """
    if text.strip().lower() == UNLIMITED:
        return None
    speed = parse_size(text.strip().removesuffix("/s"))
    if speed < 1:
        raise ValueError(f"{text!r} is not a speed")
    return speed


def _speed(_: click.Context, __: click.Parameter, value: str) -> int | None:
    try:
        return parse_speed(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}. Write 100 MB/s, 50MB, or {UNLIMITED}.") from None


@click.command()
@click.option(
    "--speed",
    default=DEFAULT_SPEED,
    show_default=True,
    callback=_speed,
    metavar="SPEED",
    help=f"How much may be read per second, or {UNLIMITED}.",
)
@as_json
def verify(speed: int | None, as_json: bool) -> None:
    """Hash all cached blobs. Damaged ones are removed, and fetched again at their next pull. Exit
    status 1 when something is wrong; ctrl+c cancels it."""
    verification = call_engine(lambda client: _verify(client, speed), waits=True)
    if as_json:
        print_json(verification)
    else:
        for digest in verification.wrong_digests:
            print_text(f"damaged and removed  {digest}")
    click.echo(_summary(verification), err=True)
    if not verification.is_clean:
        sys.exit(REFUSED)


async def _verify(client: CacheClient, speed: int | None) -> VerificationSnapshot:
    import asyncio

    try:
        verification = await client.system.start_verification(speed)
    except EngineRefused as refused:
        if refused.code != "VerificationUnderWay":
            raise
        click.echo("A verification is already running; this is it.", err=True)
        verification = await client.system.verification()
    in_terminal = sys.stderr.isatty()
    reported = time.monotonic()
    try:
        while not verification.state.ended:
            if in_terminal:
                click.echo(f"\r{_progress(verification)}\x1b[K", err=True, nl=False)
            elif time.monotonic() - reported >= PLAIN_PROGRESS_INTERVAL:
                click.echo(_progress(verification), err=True)
                reported = time.monotonic()
            await asyncio.sleep(POLL_INTERVAL)
            verification = await client.system.verification()
    except asyncio.CancelledError:
        cancelled = await client.system.cancel_verification()
        click.echo(f"\n{_summary(cancelled)}", err=True)
        raise
    if in_terminal:
        click.echo("\r\x1b[K", err=True, nl=False)
    return verification


def _progress(verification: VerificationSnapshot) -> str:
    share = verification.checked_size / verification.total_size if verification.total_size else 0.0
    progress = f"{size(verification.checked_size)} of {size(verification.total_size)}"
    return f"{min(share, 1.0):4.0%}  {progress}{_findings(verification)}"


def _findings(verification: VerificationSnapshot) -> str:
    findings = (
        (verification.wrong, "damaged"),
        (verification.missing, "missing"),
        (verification.unreadable, "unreadable"),
    )
    return "".join(f"  {count:,} {what}" for count, what in findings if count)


def _summary(verification: VerificationSnapshot) -> str:
    seconds = (verification.ended or verification.started) - verification.started
    checked = (
        f"{counted(verification.checked, 'blob')} ({size(verification.checked_size)}) "
        f"verified in {duration(seconds)}"
    )
    findings = _findings(verification).strip().replace("  ", ", ") or "nothing wrong"
    if verification.state is VerificationState.COMPLETED:
        return f"{checked}: {findings}."
    if verification.state is VerificationState.CANCELLED:
        return f"The verification was cancelled. Until then: {checked}, {findings}."
    return f"Error: the verification failed: {verification.error_message}"
