"""Why no engine answers on this user's socket, for an error message (F68).

An engine may run and be unreachable: its socket was removed, this shell has another
``XDG_RUNTIME_DIR`` (cron, su), or one that belongs to another user (sudo -E).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from entrepot.api.client import NO_ENGINE
from entrepot.causes import user_name
from entrepot.config.directories import (
    SHORTER_PATH,
    Directories,
    runtime_problem,
    socket_path_problem,
)
from entrepot.config.lock_file import RunningEngine, running_engine
from entrepot.formatting import printable


def why_no_engine(directories: Directories) -> str:
    """Why no engine answers on the socket, and what to do."""
    if (problem := socket_path_problem(directories.socket)) is not None:
        return f"{problem} {SHORTER_PATH}"
    if (problem := runtime_problem(directories.runtime)) is not None:
        return problem
    mode = _mode(directories.socket)
    engine = running_engine(directories.lock)
    if engine is not None:
        has_socket = mode is not None and stat.S_ISSOCK(mode)
        return _unreachable(engine, directories, has_socket=has_socket)
    if mode is not None and not stat.S_ISSOCK(mode):
        obstacle = "a directory" if stat.S_ISDIR(mode) else "a file that is no socket"
        return (
            f"No engine is running, and in the place of its socket "
            f"{_printable_path(directories.socket)} is {obstacle}. "
            "Move it away, and start one with: entrepot serve"
        )
    return NO_ENGINE


def note_of_another_user(socket: Path) -> str | None:
    """A warning for root that the engine is another user's.

    ``sudo -E`` kept the environment.
    """
    if os.geteuid():
        return None
    try:
        owner = socket.lstat().st_uid
    except OSError:
        return None
    if owner == 0:
        return None
    return (
        f"This is the engine of the user {user_name(owner)}, not of root: "
        "XDG_RUNTIME_DIR is that user's."
    )


def _unreachable(engine: RunningEngine, directories: Directories, *, has_socket: bool) -> str:
    is_running = f"The engine with pid {engine.pid} is running"
    restart = (
        f"If this persists, stop it (kill {engine.pid}) and start it again with: entrepot serve"
    )
    socket = _printable_path(directories.socket)
    if engine.socket is None:
        return f"{is_running}, but it has not answered yet: it is starting. {restart}"
    if engine.socket != directories.socket:
        return (
            f"{is_running}, but on the socket {_printable_path(engine.socket)}, "
            f"and this shell looks for {socket}. "
            f"Set XDG_RUNTIME_DIR={_printable_path(engine.socket.parent.parent)} here as well."
        )
    if has_socket:
        return (
            f"{is_running}, but does not answer on its socket {socket}: "
            f"it may be stopping. {restart}"
        )
    return (
        f"{is_running}, but its socket {socket} is gone. "
        f"It creates it again within seconds, unless it is stopping. {restart}"
    )


def _mode(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except OSError:
        return None


def _printable_path(path: Path) -> str:
    return printable(str(path), 300)
