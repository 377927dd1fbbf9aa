"""A machine elsewhere: a real sshd on loopback, and a real ssh that knows the way to it as ``far``."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.processes import reserved_port, tied
from tests.programs import require_program

CHECKOUT = Path(__file__).parents[2]

PATIENCE = 60.0
"""Seconds until sshd has to listen, or what it began has to be gone."""

SERVER = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {root}/host
AuthorizedKeysFile {root}/key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PidFile none
AllowStreamLocalForwarding {forwarding}
SetEnv {environment}
"""

CLIENT = """\
Host far far-and-unknown
  HostName 127.0.0.1
  Port {port}
  IdentityFile {root}/key
  IdentitiesOnly yes
  UserKnownHostsFile {root}/%n
  HostKeyAlias far
  PermitLocalCommand yes
  ControlMaster auto
  ControlPath {root}/another-%C
"""


class FarMachine:
    """What is in *environment* holds for who logs in there. `programs` stands before all else in
    the PATH of who speaks to it."""

    def __init__(
        self, root: Path, environment: Mapping[str, str], *, forwarding: bool = True
    ) -> None:
        sshd = require_program("sshd")
        ssh, keygen = require_program("ssh"), require_program("ssh-keygen")
        self.root = root
        self.programs = root / "near"
        self.entrepot = root / "there/entrepot"
        for each in (self.programs, self.entrepot.parent):
            each.mkdir(parents=True)
        for name in ("host", "key"):
            subprocess.run(
                [keygen, "-q", "-t", "ed25519", "-N", "", "-f", root / name],
                check=True,
                timeout=PATIENCE,
            )
        self.port = reserved_port()
        self.entrepot.write_text(
            f'#!/bin/sh\nPYTHONPATH={CHECKOUT} exec {shlex.quote(sys.executable)} -m entrepot "$@"\n'
        )
        self.entrepot.chmod(0o755)
        there = {"PATH": f"{self.entrepot.parent}:/usr/bin:/bin", "LANG": "C.UTF-8", **environment}
        settings = {"port": self.port, "root": root, "forwarding": "yes" if forwarding else "no"}
        (root / "server").write_text(
            SERVER.format(
                environment=" ".join(f"{name}={value}" for name, value in there.items()), **settings
            )
        )
        (root / "client").write_text(CLIENT.format(**settings))
        kind, key, *_ = (root / "host.pub").read_text().split()
        (root / "far").write_text(f"far {kind} {key}\n")
        wrapper = self.programs / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec {ssh} -F {root}/client "$@"\n')
        wrapper.chmod(0o755)
        if os.geteuid() == 0:
            # Where sshd goes to lock itself in; at the start of a machine the system makes it.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._process = subprocess.Popen(
            tied([sshd, "-D", "-E", root / "log", "-f", root / "server"]), start_new_session=True
        )
        until = time.monotonic() + PATIENCE
        try:
            while not self._listens():
                assert self._process.poll() is None, (root / "log").read_text()
                assert time.monotonic() < until, "sshd does not listen."
        except BaseException:
            self.close()
            raise

    def _listens(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self.port)) == 0

    def connections(self) -> list[int]:
        """The processes that serve those who are logged in."""
        return _children(self._process.pid)

    def cut(self) -> None:
        """Break all connections, as a network does that fails."""
        for each in self.connections():
            for process in (*_children(each), each):
                # It may have ended by itself meanwhile.
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    def close(self) -> None:
        """Switch the machine off."""
        self.cut()
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()


def _children(process: int) -> list[int]:
    try:
        return [
            int(each)
            for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()
        ]
    except OSError:
        return []


def processes_that_name(text: str) -> list[int]:
    """Processes on this machine with *text* on their command lines."""
    processes = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit() and int(each.name) != os.getpid():
            try:
                if text.encode() in (each / "cmdline").read_bytes():
                    processes.append(int(each.name))
            except OSError:
                continue
    return processes
