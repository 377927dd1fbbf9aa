"""The real programs that some tests drive: container clients, registries, servers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

REQUIRED = "ENTREPOT_REQUIRE_PROGRAMS"
"""The environment variable that turns a missing program from a skipped test into a failed one."""

_PACKAGES = {
    "chattr": "e2fsprogs",
    "ctr": "containerd",
    "docker": "docker.io",
    "dockerd": "docker.io",
    "htpasswd": "apache2-utils",
    "ip": "iproute2",
    "mount": "mount",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "systemd-analyze": "systemd",
    "umount": "mount",
    "unshare": "util-linux",
}
"""The Debian packages of programs whose package has another name than they have."""


def require_program(name: str) -> Path:
    """The path of a program, looked for in the system's own directories too; the test is skipped, or fails when programs are required, where it is missing."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        _missing(f"the program {name} is not installed (Debian package: {_PACKAGES.get(name, name)})")
    return Path(found)


def require_root(name: str) -> None:
    """Some programs work for root only: the test is skipped, or fails when programs are required, for anyone else."""
    if os.geteuid() != 0:
        _missing(f"{name} needs root")


def _missing(what: str) -> NoReturn:
    if os.environ.get(REQUIRED):
        pytest.fail(f"{what}, and {REQUIRED} is set")
    pytest.skip(what)
