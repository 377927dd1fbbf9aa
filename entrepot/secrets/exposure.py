"""Whether a secret in a file is safe from other users of the machine (F71).

Modes alone don't tell. systemd mounts a credential with 0440 (the group bits are the mask of its
access list), Docker and Podman with 0444, Kubernetes with 0644: there the place protects it, a
directory that no other user can enter, or a read-only mount, and its mode can't be changed. A file
with the same mode in an open directory is refused.
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from entrepot.causes import user_name
from entrepot.files import READABLE_STORES, file_system

CREDENTIALS_DIRECTORY: Final = "CREDENTIALS_DIRECTORY"
"""The variable with the directory of a service's credentials (systemd.exec(5))."""

_WITHOUT_MODES: Final = frozenset(
    {"9p", "cifs", "drvfs", "exfat", "fuseblk", "msdos", "ntfs", "ntfs3", "smb3", "vfat"},
)
"""File systems on which chmod has no effect, unless they are mounted with options for it."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """Why other users could read or change a file.

    *reason* is part of a sentence about the file, *hint* says what to do.
    """

    mode: int
    reason: str
    hint: str


def find_exposure(descriptor: int, path: str, *, allowed: int = 0) -> Exposure | None:
    """How an open file is exposed to other users; None if it is safe.

    *path* is the path by which it was opened. Mode bits that are *allowed* expose nothing. The open
    file is checked, even if another one is at its path by now. Blocks.
    """
    status = os.fstat(descriptor)
    bits = stat.S_IMODE(status.st_mode) & 0o077 & ~allowed
    if not bits:
        return None
    place = _real_path(descriptor, path)
    if any(place.is_relative_to(store) for store in READABLE_STORES):
        return Exposure(
            stat.S_IMODE(status.st_mode),
            "it is in a store that every user of this machine can read",
            "Keep the secret out of it: with agenix, sops-nix or systemd's LoadCredential=.",
        )
    if os.fstatvfs(descriptor).f_flag & os.ST_RDONLY:
        return None
    if _is_sealed(status, place) or _is_delivered(status, descriptor, place):
        return None
    return _exposure(status, bits, path, place)


def _is_delivered(status: os.stat_result, descriptor: int, place: Path) -> bool:
    """Whether root or the service manager gave the file to this user alone."""
    if status.st_mode & 0o022 or not _is_trusted(status) or not _chain_is_trusted(place):
        return False
    if _is_given_to_our_group(status):
        return True
    return _is_credential(place) or _is_mounted_alone(descriptor, place)


def _is_given_to_our_group(status: os.stat_result) -> bool:
    """Whether root let our group, or us by an access list, read a private file."""
    if status.st_uid == os.geteuid() or status.st_mode & 0o007:
        return False
    return status.st_gid in {0, *_our_groups()}


def _is_credential(place: Path) -> bool:
    directory = os.environ.get(CREDENTIALS_DIRECTORY, "")
    return os.path.isabs(directory) and place.is_relative_to(os.path.realpath(directory))


def _is_mounted_alone(descriptor: int, place: Path) -> bool:
    """Whether the file is a mount point, as container engines mount a secret.

    Linux only.
    """
    try:
        parent = os.open(place.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (AttributeError, OSError):
        return False
    try:
        file_mount, parent_mount = _mount_id(descriptor), _mount_id(parent)
    finally:
        os.close(parent)
    return file_mount is not None and parent_mount is not None and file_mount != parent_mount


def _mount_id(descriptor: int) -> str | None:
    """The number of the mount that an open file is on (proc_pid_fdinfo(5))."""
    try:
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    except OSError:
        return None
    return next((line.split()[1] for line in lines if line.startswith("mnt_id:")), None)


def _is_sealed(status: os.stat_result, place: Path) -> bool:
    """Whether a directory above *place* keeps other users from the file."""
    # A file of a third user is not sealed: its owner may have opened it before.
    if not _is_trusted(status):
        return False
    for directory in _ancestors(place):
        if not _is_trusted(directory):
            return False
        group_is_kept_out = not directory.st_mode & 0o010 or _is_own_group(directory)
        if not directory.st_mode & 0o001 and group_is_kept_out:
            return True
        if _is_open_for_changes(directory):
            return False
    return False


def _chain_is_trusted(place: Path) -> bool:
    """Whether no other user could put another file in the place of this one."""
    return all(
        _is_trusted(directory) and not _is_open_for_changes(directory)
        for directory in _ancestors(place)
    )


def _is_open_for_changes(directory: os.stat_result) -> bool:
    """Whether other users may rename files in it.

    In a sticky directory only their owners may.
    """
    return bool(directory.st_mode & 0o022) and not directory.st_mode & stat.S_ISVTX


def _ancestors(place: Path) -> Iterator[os.stat_result]:
    """The directories above *place*, from the root down.

    An unreadable one has no owner.
    """
    for directory in reversed(place.parents):
        try:
            yield directory.stat()
        except OSError:
            yield os.stat_result((0o777, 0, 0, 0, -1, -1, 0, 0, 0, 0))


def _is_trusted(status: os.stat_result) -> bool:
    """Whether root or this user is the owner."""
    return status.st_uid in {0, os.geteuid()}


def _is_own_group(status: os.stat_result) -> bool:
    """Whether the group of a directory has no other users in it.

    It is root's group, also where its bits are the mask of an access list; or root gave the
    directory to one of our groups; or the group has our user's name and, by custom, no other
    members.
    """
    if status.st_gid == 0 or (status.st_uid != os.geteuid() and status.st_gid in _our_groups()):
        return True
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
        return status.st_gid == os.getegid() and grp.getgrgid(status.st_gid).gr_name == name
    except KeyError:
        # A container whose user has no name has no other users in its group.
        return status.st_gid == os.getegid()


def _our_groups() -> set[int]:
    return {os.getegid(), *os.getgroups()}


def _real_path(descriptor: int, path: str) -> Path:
    """Where the open file is, without links: Kubernetes' ``..data`` is one."""
    try:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    except OSError:
        return Path(os.path.realpath(path))


def _exposure(status: os.stat_result, bits: int, path: str, place: Path) -> Exposure:
    mode = stat.S_IMODE(status.st_mode)
    reason = f"others than its owner may use {path} (mode {mode:04o})"
    kind = file_system(place).partition(" on ")[0]
    if kind in _WITHOUT_MODES:
        return Exposure(
            mode,
            reason,
            f"The file system there ({kind}) keeps no modes: keep the secret on another one.",
        )
    quoted = shlex.quote(path)
    change = f"chmod {mode & ~bits:o} {quoted}"
    if status.st_uid == os.geteuid():
        return Exposure(mode, reason, f"Run: {change}")
    if status.st_uid:
        reason = f"{reason}, and {user_name(status.st_uid, before_number='user ')} owns it"
        copy = change if os.geteuid() == 0 else f"install -m 600 {quoted} COPY, and name the copy"
        return Exposure(mode, reason, f"Run: {copy}. In a container, mount it read-only instead.")
    group = shlex.quote(_group_name(os.getegid()))
    return Exposure(
        mode,
        reason,
        f"Let root run: chgrp {group} {quoted} && chmod 640 {quoted}. In a container, mount it "
        "read-only instead.",
    )


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
