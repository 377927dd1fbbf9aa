"""Why no engine answers on the socket of this user, in the words of a command (F68).

An engine may run and not be reached: its socket is gone, this shell has another ``XDG_RUNTIME_DIR``
(cron, su), or one that belongs to another user (sudo -E).
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
    """Why nobody answers on the socket, and what to do."""
    if (problem := socket_path_problem(directories.socket)) is not None:
        return f"{problem} {SHORTER_PATH}"
    if (problem := runtime_problem(directories.runtime)) is not None:
        return problem
    mode = _mode(directories.socket)
    engine = running_engine(directories.lock)
    if engine is not None:
        return _unreachable(engine, directories, is_there=mode is not None and stat.S_ISSOCK(mode))
    if mode is not None and not stat.S_ISSOCK(mode):
        what = "a directory" if stat.S_ISDIR(mode) else "a file that is no socket"
        return f"No engine is running, and in the place of its socket {_shown(directories.socket)} is {what}. Move it away, and start one with: entrepot serve"
    return NO_ENGINE


def note_of_another_user(socket: Path) -> str | None:
    """What root should know that reaches the engine of another user, because ``sudo -E`` kept that
    user's environment."""
    if os.geteuid():
        return None
    try:
        owner = socket.lstat().st_uid
    except OSError:
        return None
    if owner == 0:
        return None
    return f"This is the engine of the user {user_name(owner)}, not of root: XDG_RUNTIME_DIR is that user's."


def _unreachable(engine: RunningEngine, directories: Directories, *, is_there: bool) -> str:
    what = f"The engine with pid {engine.pid} runs"
    otherwise = f"If it stays so, end it (kill {engine.pid}) and start it again: entrepot serve"
    if engine.socket is None:
        return f"{what}, but it has not answered yet: it starts. {otherwise}"
    if engine.socket != directories.socket:
        return (
            f"{what}, but on the socket {_shown(engine.socket)}, and this shell looks for {_shown(directories.socket)}. "
            f"Set XDG_RUNTIME_DIR={_shown(engine.socket.parent.parent)} here as well."
        )
    if is_there:
        return f"{what}, but does not answer on its socket {_shown(directories.socket)}: it may be about to end. {otherwise}"
    return f"{what}, but its socket {_shown(directories.socket)} is gone. It makes it again within seconds, unless it is ending. {otherwise}"


def _mode(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except OSError:
        return None


def _shown(path: Path) -> str:
    return printable(str(path), 300)
