"""Files and file systems: where a file is, and how one is replaced in one step.

Blobs are fsynced and renamed into place in `entrepot.store.blobs`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

from entrepot.formatting import printable

READABLE_STORES: Final = (Path("/nix/store"), Path("/gnu/store"))
"""Where the package managers Nix and Guix keep what they build: every user can read it, and nothing
but them may write there, not even root."""

_SYNC_FILE_RANGE_WRITE: Final = 2
_WITHOUT_WRITE_BACK: Final = {
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.ESPIPE,
    errno.EPERM,
}
"""What sync_file_range(2) answers where the kernel, a sandbox or the file does not have it."""


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The file system that *path* is on, and its mount point: ``nfs4 on /srv``.

    ``unknown`` where *mounts* does not say (proc(5)).
    """
    try:
        lines = mounts.read_text(errors="replace").splitlines()
        real_path = path.resolve()
    except OSError:
        return "unknown"
    mount_point, kind = "", "unknown"
    for line in lines:
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        place = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        # Of several mounts at one place the last one is visible.
        if len(place) >= len(mount_point) and real_path.is_relative_to(place):
            mount_point, kind = place, after.split(" ")[0]
    return printable(f"{kind} on {mount_point}" if mount_point else kind, 200)


def replace_file(file: Path, content: bytes, mode: int = 0o600) -> os.stat_result:
    """Replace a file in one step that a crash can't halve.

    Return the status of the new one, which has *mode*: only its owner can use it. Where *file*
    is a symbolic link, perhaps into a repository of dotfiles, the file that it points at is
    replaced and the link stays. Raises `OSError`, and then the file is as it was.
    """
    target = Path(os.path.realpath(file))
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with open(descriptor, "wb") as opened:
            os.fchmod(descriptor, mode)
            opened.write(content)
            opened.flush()
            os.fsync(descriptor)
            status = os.fstat(descriptor)
        os.replace(temporary, target)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    # Some file systems can't sync a directory: there the new name lasts as long as they let it.
    with suppress(OSError):
        sync_directory(target.parent)
    return status


def sync_directory(directory: Path) -> None:
    """Make new and changed names in a directory survive a power cut; raises `OSError`."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def start_write_back(descriptor: int, offset: int, length: int) -> bool:
    """Have the kernel begin to write *length* bytes of a file to the disk, from *offset* on.

    It waits for nothing but the queue of the disk, and nothing is safe before a later fdatasync(2),
    which also reports the errors of these writes: this call consumes none. False where it is not
    supported (anywhere but on Linux). Raises `OSError`.
    """
    sync_file_range = _sync_file_range()
    if sync_file_range is None:
        return False
    if sync_file_range(descriptor, offset, length, _SYNC_FILE_RANGE_WRITE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _WITHOUT_WRITE_BACK:
        return False
    raise OSError(number, os.strerror(number))


@cache
def _sync_file_range() -> Any:
    """The function of the C library, which the standard library lacks; None where it has none."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function
