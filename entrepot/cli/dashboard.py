"""Opening the dashboard.

On a running engine, on one that is started for it, or on a demo.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click

from entrepot.api.client import CacheClient
from entrepot.api.errors import ClientError, EngineUnreachable
from entrepot.api.models import EngineStatus
from entrepot.cli.connection import Connection
from entrepot.cli.no_engine import why_no_engine
from entrepot.cli.output import REFUSED, fail, note, print_text
from entrepot.cli.session import run_blocking
from entrepot.cli.signals import exit_on_signals
from entrepot.config.directories import Directories
from entrepot.config.lock_file import running_engine
from entrepot.errors import EngineError, EntrepotError
from entrepot.formatting import printable

START_TIMEOUT = 15.0
"""Seconds within which a new engine must answer."""

QUICK_STOP = 1.0
"""Seconds in which an engine without transfers stops; only after these the user is told why not."""

STOP_TIMEOUT = 25.0
"""Seconds for which an engine is waited for that stops; it gives its transfers 20 seconds."""

SOCKET_TIMEOUT = 5.0
"""Seconds within which a running engine creates its socket again if it was removed (F68)."""

LOG_LINES = 5
"""Lines of the log that are shown when an engine did not start."""

_CODE_OF_ERROR = re.compile(r" \(\w+\)$")
"""With what the message of an error ends."""

_SET_TMPDIR = "Set TMPDIR to another directory, with free space and a short path."


def require_terminal(instead: str) -> None:
    """End the program where the dashboard can't be drawn.

    The message names commands to use *instead*. Textual draws on standard error.
    """
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        note(f"Error: the dashboard needs a terminal. Without one: {instead}")
        sys.exit(2)
    if os.environ.get("TERM", "") in {"", "dumb"}:
        note(
            "Error: the dashboard needs a terminal that can move its cursor; TERM says that this "
            f"one can't. Without one: {instead}"
        )
        sys.exit(2)


def open_dashboard(connection: Connection, chosen: Mapping[str, Any]) -> None:
    """Open the dashboard on the engine of *connection*.

    *chosen* are the dashboard's options of the command line. This user's own engine is started if
    none answers.
    """
    require_terminal(
        "entrepot status, entrepot rule list, entrepot pull IMAGE; entrepot serve runs the engine; "
        "all commands: entrepot --help"
    )
    try:
        if connection.is_elsewhere:
            _open_elsewhere(connection, chosen)
        else:
            _open_here(connection, chosen)
    except (ClientError, EntrepotError) as error:
        fail(error)


def _open_elsewhere(connection: Connection, chosen: Mapping[str, Any]) -> None:
    with connection.link(keep=True) as link:
        asyncio.run(_status(link.client()))
        _run(link.client(), chosen, started_engine=False)


def _open_here(connection: Connection, chosen: Mapping[str, Any]) -> None:
    directories = Directories.of_user()
    directories.make()
    process = None
    if not _answers(directories.socket) and not _answers_again(directories):
        if connection.read_only:
            raise EngineUnreachable(
                "No engine is running, and with --read-only none is started. "
                "Start one with: entrepot serve"
            )
        process = start_engine(directories)
    client = CacheClient.at(
        directories.socket,
        read_only=connection.read_only,
        absent=lambda: why_no_engine(directories),
    )
    keeps_engine = _run(client, chosen, started_engine=process is not None)
    if process is not None and not keeps_engine:
        stop_engine(process)
    elif process is not None:
        note("The engine keeps running. See its status with: entrepot status")


def open_demo(chosen: Mapping[str, Any], *, read_only: bool, headless: bool) -> None:
    """Open the dashboard on a demo in a temporary directory.

    *chosen* are the dashboard's options of the command line.
    """
    from entrepot.demo import DEMO_IMAGES

    if not headless:
        require_terminal("entrepot demo --headless; all commands: entrepot --help")
    note(
        "This is a demo: a simulated source registry, in a temporary directory. "
        "Nothing of it stays."
    )
    with ExitStack() as stack:
        stack.enter_context(exit_on_signals())
        # Short, because the path of a Unix socket must be.
        try:
            root = Path(
                stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="entrepot-demo-", ignore_cleanup_errors=True)
                )
            )
            directories = Directories.under(root)
            directories.make()
        except OSError as error:
            fail(
                EngineError(
                    f"No temporary directory can be created: {error.strerror}.", _SET_TMPDIR
                )
            )
        except EngineError as error:
            fail(EngineError(error.what, _SET_TMPDIR))
        try:
            status = stack.enter_context(_demo_engine(directories))
        except (ClientError, EntrepotError) as error:
            fail(error)
        if headless:
            _print_instructions(status, DEMO_IMAGES)
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                click.echo(err=True)
        else:
            _run(
                CacheClient.at(directories.socket, read_only=read_only),
                chosen,
                started_engine=False,
                offered=DEMO_IMAGES,
            )
    note("The demo has ended, and all of it is removed. Open the real dashboard with: entrepot")


@contextmanager
def _demo_engine(directories: Directories) -> Iterator[EngineStatus]:
    log = directories.log / "engine.log"
    with _open_log(log, _SET_TMPDIR) as output:
        # The engine ends when the other end of its standard input is closed, and so when this
        # program is killed.
        process = subprocess.Popen(
            [sys.executable, "-m", "entrepot.demo.run", str(directories.config.parent)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
        )
    try:
        yield _wait_until_ready(directories.socket, process, log, since=0)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _print_instructions(status: EngineStatus, offered: Sequence[str]) -> None:
    print_text(
        f"The demo answers container clients on {status.address}. Its source has these images:"
    )
    print_text(f"  {', '.join(offered)}")
    print_text("Try, in another terminal:")
    print_text(f"  podman pull --tls-verify=false {status.address}/{offered[0]}")
    print_text(f"  skopeo inspect --tls-verify=false docker://{status.address}/{offered[0]}")
    print_text(f"  docker pull {status.address}/{offered[0]}")
    print_text("ctrl+c stops it.")


def start_engine(
    directories: Directories, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start an engine that outlives this terminal, and wait until it answers.

    It runs in its own session. Raises `EngineError`.
    """
    log = directories.log / "engine.log"
    with _open_log(log) as output:
        since = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "entrepot", "serve", "--log-file", str(log)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    _wait_until_ready(directories.socket, process, log, since=since)
    return process


def stop_engine(process: subprocess.Popen[bytes]) -> None:
    """Stop an engine that `start_engine` started, and say how that ended.

    Another one can start as soon as it says that this one is stopped.
    """
    # With a signal: a read-only engine refuses the request to stop.
    process.terminate()
    try:
        process.wait(QUICK_STOP)
    except subprocess.TimeoutExpired:
        note("The engine is stopping: running transfers have 20 seconds.")
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            note("The engine has not stopped yet. See: entrepot status")
            return
    note("The engine is stopped.")


def _open_log(log: Path, hint: str | None = None) -> BinaryIO:
    try:
        # `Directories.make` skips a directory that it can't create: the reason is given here.
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return log.open("ab")
    except OSError as error:
        if hint is None:
            is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            advice = "Free space there" if is_full else "Let this user write there"
            hint = f"{advice}, or set XDG_STATE_HOME to another directory."
        raise EngineError(f"The log {log} can't be written: {error.strerror}.", hint) from None


def _wait_until_ready(
    socket: Path, process: subprocess.Popen[bytes], log: Path, *, since: int
) -> EngineStatus:
    """Wait until the engine answers.

    Its lines in the log begin at byte *since*; lines of earlier engines are before it.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        try:
            return _status_at(socket)
        except EngineUnreachable:
            if process.poll() is not None:
                raise EngineError(
                    f"The engine did not start. {_failure_in_log(log, since)}", f"Its log: {log}"
                ) from None
            time.sleep(0.05)
    process.terminate()
    raise EngineError(f"The engine does not answer after {START_TIMEOUT:.0f} s.", f"Its log: {log}")


def _failure_in_log(log: Path, since: int) -> str:
    """The error with which an engine ended, else the last lines that it wrote."""
    with log.open("rb") as log_file:
        # A log that was rotated meanwhile is read from its beginning.
        log_file.seek(since if since <= os.fstat(log_file.fileno()).st_size else 0)
        lines = log_file.read().decode(errors="replace").splitlines()
    if not lines:
        return "It gave no reason."
    begins = [number for number, line in enumerate(lines) if line.startswith("Error: ")]
    if begins and (begins[-1] == len(lines) - 1 or _CODE_OF_ERROR.search(lines[-1]) is not None):
        # The error that this text becomes a part of has a code of its own.
        error = "\n".join(lines[begins[-1] :])
        return _CODE_OF_ERROR.sub("", error.removeprefix("Error: "))
    return "\n".join(["It wrote:", *(f"  {printable(line)}" for line in lines[-LOG_LINES:]), ""])


async def _status(client: CacheClient) -> EngineStatus:
    async with client:
        return await client.system.status()


def _status_at(socket: Path) -> EngineStatus:
    return run_blocking(CacheClient.blocking_at(socket).system.status())


def _answers(socket: Path) -> bool:
    try:
        _status_at(socket)
    except EngineUnreachable:
        return False
    return True


def _answers_again(directories: Directories) -> bool:
    """Whether an engine that runs on the data directory answers after a moment.

    False where none runs; raises `EngineUnreachable` where one runs and does not answer.
    """
    deadline = time.monotonic() + SOCKET_TIMEOUT
    while running_engine(directories.lock) is not None:
        if _answers(directories.socket):
            return True
        if time.monotonic() > deadline:
            raise EngineUnreachable(why_no_engine(directories))
        time.sleep(0.1)
    return False


def show_keys(*, markdown: bool, check: bool) -> None:
    """Print all keys of the dashboard, including this user's key bindings.

    With *check*, print only the problems.
    """
    with _dashboard_import():
        from tui.run import format_keys
    try:
        text, problems = format_keys(Directories.of_user().config, markdown=markdown)
    except EntrepotError as error:
        fail(error)
    for problem in problems:
        note(f"! {problem}")
    if not check:
        print_text(text)
    elif problems:
        sys.exit(REFUSED)
    else:
        note("All keys of keymap.toml can be used.")


def _run(
    client: CacheClient,
    chosen: Mapping[str, Any],
    *,
    started_engine: bool,
    offered: Sequence[str] = (),
) -> bool:
    """Run the dashboard; whether the engine keeps running afterwards.

    Ends the program when a signal has ended the dashboard. *offered* are the images of a demo's
    source.
    """
    # Colours, keys and the crash log are this user's, also in a demo and for the engine of another
    # user or machine.
    own = Directories.of_user()
    with _dashboard_import():
        from tui.run import run_dashboard
    try:
        outcome = run_dashboard(
            client,
            config=own.config,
            data=own.data,
            log=own.log,
            chosen=chosen,
            started_engine=started_engine,
            demo_images=offered,
        )
    except EntrepotError as error:
        fail(error)
    if outcome.status:
        sys.exit(outcome.status)
    return outcome.keep_engine


@contextmanager
def _dashboard_import() -> Iterator[None]:
    """Import the dashboard within it; end the program if it is not installed.

    The dashboard is a client of the engine like any other. It is only imported when it is opened.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        note(
            f"Error: the dashboard is not installed ({error}). Install Entrepot as its README says."
        )
        sys.exit(REFUSED)
