"""The real programs that some tests drive: container clients, registries, servers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
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
    """The path of a program, looked for in the system's own directories too; the test is skipped,
    or fails when programs are required, where it is missing."""
    path = os.pathsep.join(
        [os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"]
    )
    executable = shutil.which(name, path=path)
    if executable is None:
        _missing(
            f"the program {name} is not installed (Debian package: {_PACKAGES.get(name, name)})"
        )
    return Path(executable)


def require_root(name: str) -> None:
    """Some programs work for root only: the test is skipped, or fails when programs are required,
    for anyone else."""
    if os.geteuid() != 0:
        _missing(f"{name} needs root")


def run_in_mount_namespace(module: str, *arguments: str | Path) -> str:
    """The output of a test module that runs in a mount namespace of its own.

    The test is skipped where such a namespace is forbidden.
    """
    require_root("a mount namespace")
    require_program("mount")
    command = [
        require_program("unshare"),
        "--mount",
        "--propagation",
        "private",
        sys.executable,
        "-m",
        module,
        *arguments,
    ]
    completed = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    if completed.returncode and re.search(
        r"^(unshare|mount|chattr): .*(permitted|permission denied|not supported)",
        completed.stderr,
        re.IGNORECASE | re.MULTILINE,
    ):
        pytest.skip(f"this can't be brought about here: {completed.stderr.splitlines()[0]}")
    assert completed.stderr == ""
    return completed.stdout


def _missing(what: str) -> NoReturn:
    if os.environ.get(REQUIRED):
        pytest.fail(f"{what}, and {REQUIRED} is set")
    pytest.skip(what)
