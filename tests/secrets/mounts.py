"""Secrets as service managers and container engines mount them, in a mount namespace of its own:
run with ``unshare --mount``, as root.

``python -m tests.secrets.mounts CASE DIRECTORY UID`` lays out a case of `CASES` below a directory,
becomes that user, reads the secret, and prints what it is, or the refusal.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

from entrepot.secrets.file import read_private_file
from entrepot.secrets.secret import SecretUnavailable

READ_ONLY = "remount,ro,nosuid,nodev,noexec"


def mount(*words: str | Path) -> None:
    subprocess.run(["mount", *words], check=True)


def file(path: Path, mode: int, uid: int = 0, gid: int = 0) -> Path:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.write_text("hunter2")
    os.chown(path, uid, gid)
    path.chmod(mode)
    return path


def memory(place: Path) -> Path:
    place.mkdir(mode=0o755, parents=True)
    mount("-t", "tmpfs", "-o", "mode=0755,size=1m", "none", place)
    return place


def allow(path: Path, uid: int, permissions: int) -> None:
    """Give one user more than the mode says, with an access list (acl(5)), as systemd does."""
    owner = (os.stat(path).st_mode >> 6) & 7
    entries = (
        (0x01, owner, -1),
        (0x02, permissions, uid),
        (0x04, 0, -1),
        (0x10, permissions, -1),
        (0x20, 0, -1),
    )
    os.setxattr(
        path,
        "system.posix_acl_access",
        struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries),
    )


def systemd_credential(root: Path, uid: int) -> Path:
    """LoadCredential= with User=: root's, 0500 and 0400 with an access list, on a tmpfs that is
    read-only (systemd 254)."""
    place = memory(root / "run" / "credentials" / "entrepot.service")
    secret = file(place / "hub-token", 0o400)
    place.chmod(0o500)
    allow(secret, uid, 4)
    allow(place, uid, 5)
    assert (secret.stat().st_mode & 0o777, place.stat().st_mode & 0o777) == (0o440, 0o550)
    mount("-o", READ_ONLY, place)
    return secret


def systemd_credential_writable(root: Path, uid: int) -> Path:
    """The same where the mount can be written, as in some containers."""
    secret = systemd_credential(root, uid)
    mount("-o", "remount,rw", secret.parent)
    return secret


def systemd_without_access_lists(root: Path, uid: int) -> Path:
    """LoadCredential= on a file system without access lists: the files belong to the user."""
    place = memory(root / "run" / "credentials" / "entrepot.service")
    secret = file(place / "hub-token", 0o400, uid, uid)
    place.chmod(0o500)
    os.chown(place, uid, uid)
    return secret


def credentials_directory(root: Path, uid: int) -> Path:
    """Any directory that the service manager names, here an open one."""
    secret = file(root / "credentials" / "hub-token", 0o444)
    os.environ["CREDENTIALS_DIRECTORY"] = str(secret.parent)
    return secret


def docker_secret(root: Path, uid: int) -> Path:
    """Docker Swarm: 0444 on a tmpfs, each file mounted alone and read-only."""
    secret = file(memory(root / "host") / "hub", 0o444)
    place = file(root / "run" / "secrets" / "hub", 0o644)
    mount("--bind", secret, place)
    mount("-o", "remount,bind,ro", place)
    return place


def podman_secret(root: Path, uid: int) -> Path:
    """0444, each file mounted alone, and the mount can be written."""
    secret = file(root / "host" / "hub", 0o444)
    place = file(root / "run" / "secrets" / "hub", 0o644)
    mount("--bind", secret, place)
    return place


def compose_directory(root: Path, uid: int) -> Path:
    """``-v ./secrets:/run/secrets:ro``: a directory of the host's disk, with the host's owner."""
    secret = file(root / "host" / "hub", 0o664, 12345, 12345)
    (root / "run").mkdir(mode=0o755)
    mount("--bind", secret.parent, root / "run")
    mount("-o", "remount,bind,ro", root / "run")
    return root / "run" / "hub"


def kubernetes_secret(root: Path, uid: int) -> Path:
    """0644 on a read-only tmpfs, by two links."""
    volume = memory(root / "secrets")
    file(volume / "..2026_11_30" / "hub", 0o644)
    (volume / "..data").symlink_to("..2026_11_30")
    (volume / "hub").symlink_to("..data/hub")
    mount("-o", READ_ONLY, volume)
    return volume / "hub"


def kubernetes_with_group(root: Path, uid: int) -> Path:
    """``fsGroup`` with ``defaultMode: 0440``: the group is the engine's. A volume of that kind can
    be writable."""
    volume = memory(root / "secrets")
    file(volume / "..2026_11_30" / "hub", 0o440, 0, uid)
    (volume / "..data").symlink_to("..2026_11_30")
    (volume / "hub").symlink_to("..data/hub")
    return volume / "hub"


def given_to_group(root: Path, uid: int) -> Path:
    """root's, in a directory that is open, for the group of the engine."""
    return file(root / "etc" / "hub", 0o640, 0, uid)


def sealed_directory(root: Path, uid: int) -> Path:
    """0644 below a directory that only the group of the engine can enter."""
    secret = file(root / "etc" / "entrepot" / "hub", 0o644)
    os.chown(secret.parent, 0, uid)
    secret.parent.chmod(0o750)
    return secret


def own_home(root: Path, uid: int) -> Path:
    """0644 in the home directory of the engine's user, which no other user can enter."""
    secret = file(root / "home" / "hub", 0o644, uid, uid)
    os.chown(secret.parent, uid, uid)
    secret.parent.chmod(0o700)
    return secret


def open_home(root: Path, uid: int) -> Path:
    """0644 in a home directory that everybody can enter."""
    secret = own_home(root, uid)
    secret.parent.chmod(0o755)
    return secret


def of_root_for_all(root: Path, uid: int) -> Path:
    """0644, root's, in an open directory: the engine's user can't change its mode."""
    return file(root / "etc" / "hub", 0o644)


def of_another_user(root: Path, uid: int) -> Path:
    """0644, another user's, who can change it, in an open directory."""
    return file(root / "etc" / "hub", 0o644, 12345, 12345)


def given_to_other_group(root: Path, uid: int) -> Path:
    """root's, for the group, and for everybody else too."""
    return file(root / "etc" / "hub", 0o644, 0, uid)


def replaceable(root: Path, uid: int) -> Path:
    """root's for our group, in a directory where everybody can put another file in its place."""
    secret = file(root / "open" / "hub", 0o640, 0, uid)
    secret.parent.chmod(0o777)
    return secret


def replaceable_credential(root: Path, uid: int) -> Path:
    """In the named directory, with a file that its group can write."""
    secret = credentials_directory(root, uid)
    secret.chmod(0o464)
    return secret


def sealed_in_a_directory_of_another(root: Path, uid: int) -> Path:
    """A closed directory below one of another user, who can put another one in its place."""
    secret = file(root / "their" / "closed" / "hub", 0o644)
    secret.parent.chmod(0o750)
    os.chown(secret.parent, 0, uid)
    os.chown(secret.parent.parent, 12345, 12345)
    return secret


def by_a_link_from_a_sealed_directory(root: Path, uid: int) -> Path:
    """A link in a closed directory to a file in an open one: the file counts."""
    secret = open_home(root, uid)
    link = root / "closed" / "hub"
    link.parent.mkdir(mode=0o700)
    os.chown(link.parent, uid, uid)
    link.symlink_to(secret)
    return link


CASES = {
    each.__name__: each
    for each in tuple(globals().values())
    if callable(each) and "uid" in getattr(each, "__annotations__", {}) and each.__doc__
}
del CASES["allow"]


def main(case: str, root: str, uid: str) -> None:
    """See above."""
    secret = CASES[case](Path(root), int(uid))
    os.setgroups([])
    os.setegid(int(uid))
    os.seteuid(int(uid))
    try:
        sys.stdout.write(read_private_file(str(secret), "file:x").decode())
    except SecretUnavailable as refusal:
        sys.stdout.write(refusal.message)


if __name__ == "__main__":
    main(*sys.argv[1:])
