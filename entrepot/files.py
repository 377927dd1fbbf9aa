"""Files and file systems: what the kernel says about the place of a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from entrepot.formatting import printable

READABLE_STORES: Final = (Path("/nix/store"), Path("/gnu/store"))
"""Where the package managers Nix and Guix keep what they build: every user can read it, and nothing
but them may write there, not even root."""


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The kind of file system that *path* is on, and where it is mounted: ``nfs4 on /srv``.
    ``unknown`` where the system does not tell (proc(5))."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
        real = path.resolve()
    except OSError:
        return "unknown"
    best, kind = "", "unknown"
    for line in lines:
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        place = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        # The one mounted last at the same place is the one that is seen.
        if len(place) >= len(best) and real.is_relative_to(place):
            best, kind = place, after.split(" ")[0]
    return printable(f"{kind} on {best}" if best else kind, 200)
