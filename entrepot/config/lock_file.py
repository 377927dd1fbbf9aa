"""The lock file of a data directory, which names the running engine.

It has pid, start and socket. The kernel does not say which process has a lock of flock(2), and to
try the lock would disturb an engine that is starting. So the engine writes its pid, with the time
at which the process started, because pids are used again (F68).
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

RECORD_SIZE = 8192
"""The most bytes of a record: a path has at most 4,096, and JSON may write six bytes for one."""


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """An engine that runs now. *socket* is None until it answers there."""

    pid: int
    socket: Path | None


def record_engine(lock: Path, socket: Path | None) -> None:
    """Write this process into the file *lock*, which it has locked.

    On a disk that is full or read-only, the engine runs without a record.
    """
    pid = os.getpid()
    record = {"pid": pid, "started": _started(pid), "socket": str(socket) if socket else None}
    with suppress(OSError):
        descriptor = os.open(lock, os.O_WRONLY | os.O_CLOEXEC)
        try:
            content = json.dumps(record).encode() + b"\n"
            os.ftruncate(descriptor, os.pwrite(descriptor, content, 0))
        finally:
            os.close(descriptor)


def running_engine(lock: Path) -> RunningEngine | None:
    """The engine that the file *lock* names, if that process still runs."""
    try:
        with lock.open("rb") as file:
            record = json.loads(file.read(RECORD_SIZE))
        pid, started, socket = int(record["pid"]), record["started"], record["socket"]
    except (OSError, ValueError, KeyError, TypeError):
        # There is no record, or one of another version.
        return None
    if pid <= 0 or not _is_running(pid, started):
        return None
    return RunningEngine(pid, Path(socket) if isinstance(socket, str) else None)


def _is_running(pid: int, started: object) -> bool:
    now = _started(pid)
    if now is not None:
        return now == started
    if started is not None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return False
    return True


def _started(pid: int) -> str | None:
    """When a process started: boot and clock ticks since then.

    None if it does not run. Fields 3 and 22 of /proc/PID/stat (proc(5)). A zombie does not run.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else f"{boot} {fields[19]}"
