"""Files and file systems: where a file is, and how one is replaced in one step.

Blobs are fsynced and renamed into place in `entrepot.store.blobs`.
"""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from entrepot.formatting import printable

READABLE_STORES: Final = (Path("/nix/store"), Path("/gnu/store"))
"""Where the package managers Nix and Guix keep what they build: every user can read it, and nothing
but them may write there, not even root."""


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


def replace_file(file: Path, content: bytes) -> os.stat_result:
    """Replace a file in one step that a crash can't halve.

    Return the status of the new one. Only its owner can read and write the new file. Where *file*
    is a symbolic link, perhaps into a repository of dotfiles, the file that it points at is
    replaced and the link stays. Raises `OSError`, and then the file is as it was.
    """
    target = Path(os.path.realpath(file))
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with open(descriptor, "wb") as opened:
            os.fchmod(descriptor, 0o600)
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
