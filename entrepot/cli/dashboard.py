"""Opening the dashboard: on an engine that runs, on one that is started for it, or on a demo."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import BinaryIO

import click

from entrepot.cli.session import REFUSED, ask, fail
from entrepot.client import CacheClient, ClientError, EngineUnreachable
from entrepot.errors import EngineError, EntrepotError
from entrepot.settings import Directories
from entrepot.snapshots import EngineStatus

START_PATIENCE = 15.0
"""Seconds that a new engine may take until it answers."""

LOG_LINES = 5
"""Lines of the log that are shown when an engine did not come up."""

_ELSEWHERE = "Set TMPDIR to another directory, with room in it and a short path."


def require_terminal() -> None:
    """Refuse in one sentence where nothing can be drawn. Textual itself would draw on standard error, whatever that is."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        click.echo("Error: the dashboard needs a terminal. Without one, use the commands: entrepot --help", err=True)
        sys.exit(2)
    if os.environ.get("TERM", "") in {"", "dumb"}:
        click.echo("Error: the dashboard needs a terminal that can place characters; TERM says that this is none. Use the commands: entrepot --help", err=True)
        sys.exit(2)


def open_dashboard() -> None:
    """Open the dashboard on this user's engine; start one when none answers."""
    require_terminal()
    try:
        directories = Directories.of_user()
        directories.make()
        started = not _answers(directories.socket)
        if started:
            start_engine(directories)
    except (ClientError, EntrepotError) as error:
        fail(error)
    if not _run(directories.socket, started_engine=started) and started:
        ask(CacheClient.stop)
        click.echo("The engine is stopped.", err=True)
    elif started:
        click.echo("The engine goes on. See it with: entrepot status", err=True)


def open_demo(*, headless: bool) -> None:
    """Open the dashboard on a demo that leaves nothing behind."""
    if not headless:
        require_terminal()
    click.echo("This is a demo: a make-believe source registry, in a temporary directory. Nothing of it stays.", err=True)
    with ExitStack() as stack:
        stack.enter_context(_cleans_up_when_ended())
        # Short, because the path of a Unix socket has to be.
        try:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="entrepot-demo-", ignore_cleanup_errors=True)))
            directories = Directories.under(root)
            directories.make()
        except OSError as error:
            fail(EngineError(f"No temporary directory can be made: {error.strerror}.", _ELSEWHERE))
        except EngineError as error:
            fail(EngineError(error.what, _ELSEWHERE))
        try:
            status = stack.enter_context(_demo_engine(directories))
        except (ClientError, EntrepotError) as error:
            fail(error)
        if headless:
            _explain(status)
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                click.echo(err=True)
        else:
            _run(directories.socket, started_engine=False, demo=True)
    click.echo("The demo is over, and all of it is removed. The real thing: entrepot", err=True)


@contextmanager
def _cleans_up_when_ended() -> Iterator[None]:
    """Within it a SIGTERM or a lost terminal ends the program as an exception does, so that what was begun is also removed; Python would just end."""

    def end(number: int, _: FrameType | None) -> None:
        # A second one must not interrupt the cleaning up.
        for each in caught:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    # Whoever started it with nohup wants it to stay.
    wanted = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
    caught = {each: signal.signal(each, end) for each in wanted}
    try:
        yield
    finally:
        for each, before in caught.items():
            signal.signal(each, before)


@contextmanager
def _demo_engine(directories: Directories) -> Iterator[EngineStatus]:
    log = directories.log / "engine.log"
    with _opened(log, _ELSEWHERE) as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "entrepot.demo.run", str(directories.config.parent)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield _wait_for(directories.socket, process, log, since=0)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _explain(status: EngineStatus) -> None:
    click.echo(f"The demo answers container clients on {status.address}. Try, in another terminal:")
    click.echo(f"  podman pull --tls-verify=false {status.address}/library/nginx:1.27")
    click.echo(f"  skopeo inspect --tls-verify=false docker://{status.address}/library/nginx:1.27")
    click.echo(f"  docker pull {status.address}/library/nginx:1.27")
    click.echo("ctrl+c ends it.")


def start_engine(directories: Directories, environment: Mapping[str, str] | None = None) -> None:
    """Start an engine in a session of its own, so that it outlives this terminal, and wait until it answers; raises `EngineError`."""
    log = directories.log / "engine.log"
    with _opened(log, "Free space there, let this user write it, or set XDG_STATE_HOME to another directory.") as output:
        since = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "entrepot", "serve"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    _wait_for(directories.socket, process, log, since=since)


def _opened(log: Path, hint: str) -> BinaryIO:
    try:
        return log.open("ab")
    except OSError as error:
        raise EngineError(f"The log {log} can't be written: {error.strerror}.", hint) from None


def _wait_for(socket: Path, process: subprocess.Popen[bytes], log: Path, *, since: int) -> EngineStatus:
    """Wait until the engine answers. Its words in the log begin at byte *since*; before it are those of engines that ran earlier."""
    until = time.monotonic() + START_PATIENCE
    while time.monotonic() < until:
        try:
            return asyncio.run(_status(socket))
        except EngineUnreachable:
            if process.poll() is not None:
                raise EngineError(f"The engine did not come up. {_last_words(log, since)}", f"Its log: {log}") from None
            time.sleep(0.05)
    process.terminate()
    raise EngineError(f"The engine does not answer after {START_PATIENCE:.0f} s.", f"Its log: {log}")


def _last_words(log: Path, since: int) -> str:
    """The error that an engine ended with, else the last lines that it wrote."""
    with log.open("rb") as written:
        written.seek(since)
        lines = written.read().decode(errors="replace").splitlines()
    if not lines:
        return "It gave no reason."
    if lines[-1].startswith("Error: "):
        # The code in parentheses at its end would stand before that of the error which this becomes a part of.
        return re.sub(r" \(\w+\)$", "", lines[-1].removeprefix("Error: "))
    return "\n".join(["It wrote:", *(f"  {line}" for line in lines[-LOG_LINES:]), ""])


async def _status(socket: Path) -> EngineStatus:
    async with CacheClient.at(socket) as client:
        return await client.status()


def _answers(socket: Path) -> bool:
    try:
        asyncio.run(_status(socket))
    except EngineUnreachable:
        return False
    return True


def _run(socket: Path, *, started_engine: bool, demo: bool = False) -> bool:
    """Run the dashboard; whether the engine shall go on afterwards."""
    # The dashboard is a client of the engine like any other: the engine's package knows it only here, by name, and only when it is opened.
    from importlib import import_module

    try:
        run_dashboard = import_module("tui.app").run_dashboard
    except ModuleNotFoundError as error:
        click.echo(f"Error: the dashboard is not installed ({error}). Install Entrepot as its README says.", err=True)
        sys.exit(REFUSED)
    return bool(run_dashboard(socket, started_engine=started_engine, demo=demo).keep_engine)
