"""The faults behind failures, with what to do about them.

A `Cause` is created once, where the fault is recognised, and goes as it is to the client whose pull
fails, the state of a source, the status, ``doctor``, the dashboard and the log. So one fault has
the same words everywhere, and the source registry is not blamed for a fault of this machine.
"""

from __future__ import annotations

import errno
import os
import pwd
import shlex
import shutil
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from entrepot.formatting import printable


class Fault(StrEnum):
    """Where a fault is, and so where it can be fixed."""

    MACHINE = "machine"
    """The machine of the engine, or the configuration of the engine."""
    NETWORK = "network"
    """Between this machine and the source: a proxy, a name server, a sign-in page."""
    SOURCE = "source"
    """The source registry."""


class CauseCode(StrEnum):
    """The faults that Entrepot recognises. The values are stable."""

    CLOCK_WRONG = "clock-wrong"

    CERTIFICATE_EXPIRED = "certificate-expired"
    CERTIFICATE_NOT_YET_VALID = "certificate-not-yet-valid"
    CERTIFICATE_SELF_SIGNED = "certificate-self-signed"
    CERTIFICATE_UNTRUSTED = "certificate-untrusted"
    CERTIFICATE_CHAIN_INCOMPLETE = "certificate-chain-incomplete"
    CERTIFICATE_WRONG_NAME = "certificate-wrong-name"
    CERTIFICATE_REFUSED = "certificate-refused"
    TRUST_STORE_EMPTY = "trust-store-empty"
    TLS_TOO_OLD = "tls-too-old"
    TLS_FAILED = "tls-failed"
    PLAIN_HTTP = "plain-http"

    PROXY_UNREACHABLE = "proxy-unreachable"
    PROXY_NAME_UNKNOWN = "proxy-name-unknown"
    PROXY_SIGN_IN = "proxy-sign-in"
    PROXY_FORBIDS = "proxy-forbids"
    PROXY_FAILS = "proxy-fails"
    PROXY_UNUSABLE = "proxy-unusable"
    WEB_PAGE = "web-page"

    NO_NETWORK = "no-network"
    NO_ROUTE = "no-route"
    NO_IPV6 = "no-ipv6"
    NAME_SERVER_MISSING = "name-server-missing"
    NAME_SERVER_SILENT = "name-server-silent"
    NAME_UNKNOWN = "name-unknown"
    LOOKUPS_BUSY = "lookups-busy"
    CONNECTION_REFUSED = "connection-refused"
    CONNECTION_SILENT = "connection-silent"
    CONNECTION_ENDED = "connection-ended"
    ANSWER_SILENT = "answer-silent"

    OPEN_FILES = "open-files"
    MEMORY = "memory"
    PORTS = "ports"

    DISK_FULL = "disk-full"
    INODES = "inodes"
    QUOTA = "quota"
    READ_ONLY = "file-system-read-only"
    PERMISSION = "permission"
    DISK_FAILS = "disk-fails"
    NO_LOCKS = "no-locks"

    PROGRAM_MISSING = "program-missing"
    PROGRAM_NOT_EXECUTABLE = "program-not-executable"
    PROGRAM_WRONG_ARCHITECTURE = "program-wrong-architecture"
    KEYRING_MISSING = "keyring-missing"
    EXTRA_MISSING = "extra-missing"


_OF_SOURCE = frozenset(
    {
        CauseCode.CERTIFICATE_EXPIRED,
        CauseCode.CERTIFICATE_NOT_YET_VALID,
        CauseCode.CERTIFICATE_CHAIN_INCOMPLETE,
        CauseCode.CERTIFICATE_WRONG_NAME,
        CauseCode.CERTIFICATE_REFUSED,
        CauseCode.TLS_TOO_OLD,
        CauseCode.TLS_FAILED,
        CauseCode.CONNECTION_REFUSED,
        CauseCode.CONNECTION_SILENT,
        CauseCode.CONNECTION_ENDED,
        CauseCode.ANSWER_SILENT,
        CauseCode.NAME_UNKNOWN,
    }
)
_OF_NETWORK = frozenset(
    {
        CauseCode.PROXY_UNREACHABLE,
        CauseCode.PROXY_NAME_UNKNOWN,
        CauseCode.PROXY_SIGN_IN,
        CauseCode.PROXY_FORBIDS,
        CauseCode.PROXY_FAILS,
        CauseCode.WEB_PAGE,
        CauseCode.NAME_SERVER_SILENT,
        CauseCode.LOOKUPS_BUSY,
        CauseCode.NO_ROUTE,
        CauseCode.NO_IPV6,
    }
)


def at_fault(code: CauseCode) -> Fault:
    """Where a fault has to be fixed."""
    if code in _OF_SOURCE:
        return Fault.SOURCE
    return Fault.NETWORK if code in _OF_NETWORK else Fault.MACHINE


@dataclass(frozen=True, slots=True)
class Cause:
    """One fault. *what* is a whole sentence; *hint* says what to do, in sentences too."""

    code: CauseCode
    what: str
    hint: str

    @property
    def fault(self) -> Fault:
        """Where it has to be fixed."""
        return at_fault(self.code)

    @property
    def message(self) -> str:
        """Sentence and hint as one text."""
        return f"{self.what} {self.hint}"


OPEN_FILES_HINT: Final = (
    "Raise the limit where the engine is started: LimitNOFILE=65536 for systemd, "
    "--ulimit nofile=65536 for a container, ulimit -n 65536 in a shell."
)
"""What to do about too few open files."""


def disk_cause(error: OSError, directory: Path, place: str) -> Cause:
    """Why the engine can't use *directory*; *place* names its file system. Blocks."""
    kind = f"the file system of {directory} ({place})"
    why = error.strerror or str(error)
    number = error.errno
    if number in {errno.EACCES, errno.EPERM} and _is_read_only(directory):
        number = errno.EROFS
    match number:
        case errno.ENOSPC if _has_no_inodes(directory):
            return Cause(
                CauseCode.INODES,
                f"No inode is left on {kind}: no file can be created there, though bytes are free.",
                "Remove files there that are not needed (df -i counts them), or move the data.",
            )
        case errno.ENOSPC:
            return Cause(
                CauseCode.DISK_FULL,
                f"{kind[:1].upper()}{kind[1:]} is full.",
                "Free space there, or move the data to a larger disk.",
            )
        case errno.EDQUOT:
            return Cause(
                CauseCode.QUOTA,
                f"The disk quota of {_user(os.geteuid())} is used up on {kind}.",
                "Free space of this user there, or let an administrator raise the quota.",
            )
        case errno.EROFS:
            return Cause(
                CauseCode.READ_ONLY,
                f"{kind[:1].upper()}{kind[1:]} is read-only.",
                "Mount it for writing, or set XDG_DATA_HOME to a directory that can be written.",
            )
        case errno.EACCES | errno.EPERM:
            return _permission_cause(directory, error)
        case errno.EMFILE | errno.ENFILE:
            return open_files_cause(number, "no file can be opened")
        case errno.ENOMEM:
            return memory_cause()
    if number == errno.ENOENT:
        hint = (
            "The directory was moved or removed: put it back, or restart the engine, which creates "
            "a new one."
        )
    elif number in {errno.ENOTDIR, errno.EEXIST}:
        hint = "There is a file in the place of a directory: move it away."
    else:
        hint = f"Look at the disk behind {kind}, and at the kernel's log (dmesg)."
    return Cause(CauseCode.DISK_FAILS, f"The disk of {directory} fails: {why}.", hint)


def locks_cause(why: str, directory: Path, place: str) -> Cause:
    """A file system that can't lock files, or share memory for a database (F88)."""
    return Cause(
        CauseCode.NO_LOCKS,
        f"The file system of {directory} ({place}) can't lock files: {why}.",
        "Set XDG_DATA_HOME to a directory on a local file system (ext4, xfs, btrfs); over NFS the "
        "server's lock service (rpc.lockd, rpc.statd) has to run.",
    )


def open_files_cause(number: int, so: str) -> Cause:
    """EMFILE or ENFILE; *so* names the consequence."""
    if number == errno.ENFILE:
        return Cause(
            CauseCode.OPEN_FILES,
            f"This machine has as many files open as it may, so {so}.",
            "Quit programs that hold many, or raise fs.file-max with sysctl.",
        )
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return Cause(
        CauseCode.OPEN_FILES,
        f"The engine has as many files open as it may ({limit:,}), so {so}.",
        OPEN_FILES_HINT,
    )


def memory_cause() -> Cause:
    """ENOMEM or ENOBUFS."""
    return Cause(
        CauseCode.MEMORY,
        "This machine has no memory left for another connection or file.",
        "Quit programs that take much, or raise the memory limit of the engine or its container.",
    )


def program_cause(
    error: OSError, program: str, *, where: str = " where the engine is started"
) -> Cause:
    """Why a program can't be started; *where* is added to the advice on PATH. Blocks."""
    path = shutil.which(program)
    present = path or (program if os.path.exists(program) else _on_path(program))
    user, machine = _user(os.geteuid()), os.uname().machine
    if error.errno == errno.ENOEXEC:
        return Cause(
            CauseCode.PROGRAM_WRONG_ARCHITECTURE,
            f"{present or program} is not a program that this machine ({machine}) can run.",
            f"Install the one for {machine}; a script begins with #! and its interpreter.",
        )
    if present is None:
        searched = printable(os.environ.get("PATH", os.defpath), 200)
        place = "is not there" if os.sep in program else f"is in no directory of PATH ({searched})"
        return Cause(
            CauseCode.PROGRAM_MISSING,
            f"The program {program} {place}.",
            "Install it there."
            if os.sep in program
            else f"Install it, or add its directory to PATH{where}.",
        )
    if error.errno == errno.ENOENT:
        return Cause(
            CauseCode.PROGRAM_MISSING,
            f"The program {present} exists, but not the interpreter or loader that it names.",
            "Install that (for a script it is in its first line), or a build for this system.",
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return Cause(
            CauseCode.PROGRAM_NOT_EXECUTABLE,
            f"The program {present} can't be run by {user}: its mode or its mount forbids that.",
            f"Allow it: chmod a+rx {shlex.quote(present)}; on a mount with noexec, put it "
            "elsewhere.",
        )
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return open_files_cause(error.errno, f"{program} can't be started")
    if error.errno in {errno.ENOMEM, errno.EAGAIN}:
        return memory_cause()
    return Cause(
        CauseCode.PROGRAM_NOT_EXECUTABLE,
        f"The program {present} can't be started: {error.strerror}.",
        f"Try it by hand, as {user}.",
    )


def _on_path(program: str) -> str | None:
    """The file on PATH of a program that can't be run; `shutil.which` ignores it."""
    if os.sep in program:
        return None
    directories = os.environ.get("PATH", os.defpath).split(os.pathsep)
    files = (os.path.join(directory, program) for directory in directories if directory)
    return next((file for file in files if os.path.isfile(file)), None)


_CAP_DAC_OVERRIDE = 1
"""Its bit in the sets of ``/proc/self/status``."""


def _permission_cause(directory: Path, error: OSError) -> Cause:
    """The part of *directory*, or the file in it, that keeps this user out."""
    uid = os.geteuid()
    deeper = _forbidden_on_the_way(directory, error)
    place = deeper or _forbidden(directory)
    try:
        status = place.stat()
    except OSError:
        # stat(2) fails too: this user can't enter a directory above it.
        place = _passable(place)
        status = place.stat()
    mode = stat.S_IMODE(status.st_mode)
    needed = 0o700 if stat.S_ISDIR(status.st_mode) else 0o600
    if _passes_modes() or (status.st_uid == uid and mode & needed == needed):
        return Cause(
            CauseCode.PERMISSION,
            f"{place} can't be written by {_user(uid)}, though its mode allows it: an attribute, "
            "an access list or a security module forbids that.",
            f"Look at lsattr -d and getfacl of {shlex.quote(str(place))}, and at what SELinux or "
            "AppArmor log.",
        )
    if status.st_uid != uid and place != directory and directory.is_relative_to(place):
        return _above_cause(place, directory, status)
    if status.st_uid != uid:
        # Other files beside it belong to that user too, as after the engine ran as root once.
        owned = shlex.quote(str(place if deeper is None else directory))
        return Cause(
            CauseCode.PERMISSION,
            f"{place} belongs to {_user(status.st_uid)}, and the engine runs as {_user(uid)}, who "
            "may not write there.",
            f"Give it to the engine's user, as root: chown -R {uid}:{os.getegid()} {owned}",
        )
    return Cause(
        CauseCode.PERMISSION,
        f"{place} has mode {mode:04o}, in which {_user(uid)}, its owner, may not write it.",
        f"Allow it: chmod {'u+rwx' if place.is_dir() else 'u+rw'} {shlex.quote(str(place))}",
    )


def _passes_modes() -> bool:
    """Whether modes of files do not apply to this user.

    That is root with CAP_DAC_OVERRIDE (capabilities(7)). Containers take it from root with
    ``--cap-drop=all``.
    """
    if os.geteuid():
        return False
    try:
        lines = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
        effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    except (OSError, StopIteration, IndexError, ValueError):
        return True
    return bool(effective >> _CAP_DAC_OVERRIDE & 1)


def _above_cause(place: Path, directory: Path, status: os.stat_result) -> Cause:
    """The cause if *place*, above *directory*, keeps this user out.

    Other files in it belong to other users, so the hint leaves its owner as it is.
    """
    uid = os.geteuid()
    owner = f"{place} belongs to {_user(status.st_uid)}, and the engine runs as {_user(uid)}"
    if not os.access(place, os.X_OK):
        return Cause(
            CauseCode.PERMISSION,
            f"{owner}, who may not enter it.",
            f"Let that user pass it, as root: chmod o+x {shlex.quote(str(place))}",
        )
    return Cause(
        CauseCode.PERMISSION,
        f"{owner}, who may not write there.",
        f"Create the directory, as root: install -d -m 700 -o {uid} -g {os.getegid()} "
        f"{shlex.quote(str(directory))}",
    )


def _forbidden(directory: Path) -> Path:
    """*directory* if it can't be written, else the first of its files that can't be."""
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        return directory
    try:
        entries = sorted(directory.iterdir())
    except OSError:
        return directory
    own_entries = (entry for entry in entries if entry.name != "lost+found")
    return next(
        (entry for entry in own_entries if not os.access(entry, os.R_OK | os.W_OK)), directory
    )


def _forbidden_on_the_way(directory: Path, error: OSError) -> Path | None:
    """The unusable part of the path from *directory* to the file of *error*, or None."""
    for name in (error.filename2, error.filename):
        path = Path(name) if isinstance(name, str | Path) else directory
        if not path.is_relative_to(directory):
            continue
        for part in reversed([path, *path.parents][: len(path.relative_to(directory).parts)]):
            if not os.path.lexists(part):
                break
            access = os.R_OK | os.W_OK | (os.X_OK if part.is_dir() else 0)
            if not os.access(part, access):
                return part
    return None


def _passable(place: Path) -> Path:
    """The nearest parent of *place* that stat(2) works for."""
    for parent in place.parents:
        if parent.parent == parent or os.access(parent.parent, os.X_OK):
            return parent
    return Path(place.anchor)


def _is_read_only(directory: Path) -> bool:
    try:
        return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _has_no_inodes(directory: Path) -> bool:
    try:
        status = os.statvfs(directory)
    except OSError:
        return False
    # Some file systems count none (btrfs): there f_files is 0.
    return status.f_files > 0 and status.f_favail == 0 and status.f_bavail > 0


def user_name(user: int | None, *, before_number: str = "") -> str:
    """The name of a user; without one, *before_number* and the number."""
    try:
        return pwd.getpwuid(-1 if user is None else user).pw_name
    except (KeyError, OverflowError):
        return f"{before_number}{user}"


def _user(uid: int) -> str:
    return f"user {user_name(uid)}"
