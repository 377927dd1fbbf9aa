"""Opening the dashboard: on an engine that runs, on one that is started for it, or on a demo."""

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

from entrepot.api.client import CacheClient, ClientError, EngineUnreachable
from entrepot.api.models import EngineStatus
from entrepot.cli.connection import Connection
from entrepot.cli.no_engine import why_no_engine
from entrepot.cli.session import REFUSED, cleans_up_when_ended, fail, note, tell, without_waiting
from entrepot.config.directories import Directories
from entrepot.config.lock_file import running_engine
from entrepot.errors import EngineError, EntrepotError
from entrepot.formatting import printable

START_PATIENCE = 15.0
"""Seconds that a new engine may take until it answers."""

RUNNING_PATIENCE = 5.0
"""Seconds within which an engine that runs makes its socket again, when that was removed (F68)."""

LOG_LINES = 5
"""Lines of the log that are shown when an engine did not come up."""

_ELSEWHERE = "Set TMPDIR to another directory, with room in it and a short path."


def require_terminal(instead: str) -> None:
    """Refuse in one sentence where nothing can be drawn, and name what does without: *instead*.
    Textual draws on standard error, whatever that is."""
    if not all(each.isatty() for each in (sys.stdin, sys.stdout, sys.stderr)):
        note(f"Error: the dashboard needs a terminal. Without one: {instead}")
        sys.exit(2)
    if os.environ.get("TERM", "") in {"", "dumb"}:
        note(
            f"Error: the dashboard needs a terminal that can place characters; TERM says that this is none. Without one: {instead}"
        )
        sys.exit(2)


def open_dashboard(connection: Connection, chosen: Mapping[str, Any]) -> None:
    """Open the dashboard on the engine that the connection leads to, with the options *chosen* on
    the command line.

    On this user's own one is started when none answers.
    """
    require_terminal(
        "entrepot status, entrepot rule list, entrepot pull IMAGE; entrepot serve runs the engine; all of them: entrepot --help"
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
                "No engine is running, and with --read-only none is started. Start one with: entrepot serve"
            )
        process = start_engine(directories)
    client = CacheClient.at(
        directories.socket,
        read_only=connection.read_only,
        absent=lambda: why_no_engine(directories),
    )
    stays = _run(client, chosen, started_engine=process is not None)
    if process is not None and not stays:
        # By its own signal: a read-only engine takes no orders, not even this one.
        process.terminate()
        note("The engine is stopped.")
    elif process is not None:
        note("The engine goes on. See it with: entrepot status")


def open_demo(chosen: Mapping[str, Any], *, read_only: bool, headless: bool) -> None:
    """Open the dashboard on a demo that leaves nothing behind, with the options *chosen* on the
    command line."""
    from entrepot.demo import DEMO_IMAGES

    if not headless:
        require_terminal("entrepot demo --headless; all commands: entrepot --help")
    note(
        "This is a demo: a make-believe source registry, in a temporary directory. Nothing of it stays."
    )
    with ExitStack() as stack:
        stack.enter_context(cleans_up_when_ended())
        # Short, because the path of a Unix socket has to be.
        try:
            root = Path(
                stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="entrepot-demo-", ignore_cleanup_errors=True)
                )
            )
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
            _explain(status, DEMO_IMAGES)
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
    note("The demo is over, and all of it is removed. The real thing: entrepot")


@contextmanager
def _demo_engine(directories: Directories) -> Iterator[EngineStatus]:
    log = directories.log / "engine.log"
    with _opened(log, _ELSEWHERE) as output:
        # The engine ends when the other end of its standard input is closed, so also when this
        # program is killed.
        process = subprocess.Popen(
            [sys.executable, "-m", "entrepot.demo.run", str(directories.config.parent)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
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


def _explain(status: EngineStatus, offered: Sequence[str]) -> None:
    tell(f"The demo answers container clients on {status.address}. Its source has these images:")
    tell(f"  {', '.join(offered)}")
    tell("Try, in another terminal:")
    tell(f"  podman pull --tls-verify=false {status.address}/{offered[0]}")
    tell(f"  skopeo inspect --tls-verify=false docker://{status.address}/{offered[0]}")
    tell(f"  docker pull {status.address}/{offered[0]}")
    tell("ctrl+c ends it.")


def start_engine(
    directories: Directories, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start an engine in a session of its own, so that it outlives this terminal, and wait until it
    answers; raises `EngineError`."""
    log = directories.log / "engine.log"
    with _opened(log) as output:
        since = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "entrepot", "serve", "--log-file", str(log)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    _wait_for(directories.socket, process, log, since=since)
    return process


def _opened(log: Path, hint: str | None = None) -> BinaryIO:
    try:
        # `Directories.make` leaves a directory out that can't be made: here it is said why.
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return log.open("ab")
    except OSError as error:
        if hint is None:
            is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            cure = "Free space there" if is_full else "Let this user write there"
            hint = f"{cure}, or set XDG_STATE_HOME to another directory."
        raise EngineError(f"The log {log} can't be written: {error.strerror}.", hint) from None


def _wait_for(
    socket: Path, process: subprocess.Popen[bytes], log: Path, *, since: int
) -> EngineStatus:
    """Wait until the engine answers. Its words in the log begin at byte *since*; before it are
    those of engines that ran earlier."""
    until = time.monotonic() + START_PATIENCE
    while time.monotonic() < until:
        try:
            return _status_at(socket)
        except EngineUnreachable:
            if process.poll() is not None:
                raise EngineError(
                    f"The engine did not come up. {_last_words(log, since)}", f"Its log: {log}"
                ) from None
            time.sleep(0.05)
    process.terminate()
    raise EngineError(
        f"The engine does not answer after {START_PATIENCE:.0f} s.", f"Its log: {log}"
    )


def _last_words(log: Path, since: int) -> str:
    """The error that an engine ended with, else the last lines that it wrote."""
    with log.open("rb") as written:
        # A log that has become another one in between is read from its beginning.
        written.seek(since if since <= os.fstat(written.fileno()).st_size else 0)
        lines = written.read().decode(errors="replace").splitlines()
    if not lines:
        return "It gave no reason."
    if lines[-1].startswith("Error: "):
        # The code in parentheses at its end would stand before that of the error which this becomes
        # a part of.
        return re.sub(r" \(\w+\)$", "", lines[-1].removeprefix("Error: "))
    return "\n".join(["It wrote:", *(f"  {printable(line)}" for line in lines[-LOG_LINES:]), ""])


async def _status(client: CacheClient) -> EngineStatus:
    async with client:
        return await client.system.status()


def _status_at(socket: Path) -> EngineStatus:
    return without_waiting(CacheClient.blocking_at(socket).system.status())


def _answers(socket: Path) -> bool:
    try:
        _status_at(socket)
    except EngineUnreachable:
        return False
    return True


def _answers_again(directories: Directories) -> bool:
    """Whether an engine that runs on the data answers after a moment; raises `EngineUnreachable`
    where it does not, False where none runs."""
    until = time.monotonic() + RUNNING_PATIENCE
    while running_engine(directories.lock) is not None:
        if _answers(directories.socket):
            return True
        if time.monotonic() > until:
            raise EngineUnreachable(why_no_engine(directories))
        time.sleep(0.1)
    return False


def show_keys(*, markdown: bool, check: bool) -> None:
    """Print all keys of the dashboard, with this user's own; with *check* only what is wrong with
    those."""
    try:
        told, problems = _dashboard().format_keys(Directories.of_user().config, markdown=markdown)
    except EntrepotError as error:
        fail(error)
    for each in problems:
        note(f"! {each}")
    if not check:
        tell(told)
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
    """Run the dashboard; whether the engine shall go on afterwards. Ends the program when a signal
    has ended the dashboard.

    *offered* are the images of a demo's source.
    """
    # Colours, keys and faults are this user's, whoever's engine it is: also in a demo, and for one
    # that runs elsewhere.
    own = Directories.of_user()
    try:
        outcome = _dashboard().run_dashboard(
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
    return bool(outcome.keep_engine)


def _dashboard() -> Any:
    # The dashboard is a client of the engine like any other: the engine's package knows it only
    # here, by name, and only when it is opened.
    from importlib import import_module

    try:
        return import_module("tui.run")
    except ModuleNotFoundError as error:
        note(
            f"Error: the dashboard is not installed ({error}). Install Entrepot as its README says."
        )
        sys.exit(REFUSED)
