"""The way to an engine on another machine over ssh: a Unix socket here that leads to the engine's
own.

The system's ``ssh`` does the work, so that its configuration, keys, agent and known hosts hold. One
process of it lives as long as the tunnel: at the far side it runs ``entrepot dial``, which tells
where the engine's socket is and stays until its standard input ends. So nothing is left behind,
neither there nor here, however this program ends. The process is also the master of a control
socket (ssh(1), ``-M``), through which the forwarding is asked for once the far path is known.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self
from urllib.parse import unquote

from entrepot.api.client import EngineUnreachable
from entrepot.causes import CauseCode, program_cause
from entrepot.config.directories import SOCKET_PATH_LENGTH
from entrepot.core.reference import quoted
from entrepot.errors import EntrepotError

CONNECT_PATIENCE: Final = 30.0
"""Seconds that a connection may take where nobody is asked for a password."""

ASKING_PATIENCE: Final = 180.0
"""Seconds that it may take with a person who looks for a password, and confirms a host key."""

RETRY_INTERVAL: Final = 2.0
"""Seconds between two tries to connect again."""

TOLD: Final = 64 * 1024
"""Bytes of what the far side's shell may print before the line that is waited for, and of what ssh
complains."""

ANNOUNCEMENT: Final = "entrepot-socket "
"""What the line begins with that names the socket at the far side."""

RANDOM_SUFFIX: Final = 17
"""Characters that ssh adds to the path of a control socket while it makes it."""

_OPTIONS: Final = {
    "ControlMaster": "yes",
    "ControlPersist": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "PermitLocalCommand": "no",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ConnectTimeout": "10",
    # A connection that died without a word is noticed after 15 s.
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    # What it says besides errors, such as that nobody listens at the far socket, would be written
    # again and again.
    "LogLevel": "ERROR",
}
"""What the tunnel depends on goes before the user's configuration; all else is as it says there."""


class ConnectionFailed(EntrepotError):
    """There is no way to the other machine, or nothing of use at its end."""

    code = "ConnectionFailed"


@dataclass(frozen=True, slots=True)
class SshAddress:
    """``ssh://[user@]host[:port][/path/of/the/socket]``. Without a path the far side is asked for
    it."""

    host: str
    user: str | None = None
    port: int | None = None
    socket: str | None = None

    @classmethod
    def parse(cls, text: str) -> SshAddress:
        """Read an address; raises `ConnectionFailed`."""
        found = re.fullmatch(
            r"ssh://(?:(?P<user>[^@:/\s]+)@)?(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[\w.-]+))(?::(?P<port>[0-9]{1,5}))?(?P<path>/[^\0\n\r]*)?",
            text,
        )
        # A leading dash would be an option of ssh.
        if found is None or any((found[part] or "").startswith("-") for part in ("user", "host")):
            raise ConnectionFailed(
                f"{without_password(text)} is no address of a machine that ssh could reach.",
                "Write ssh://HOST, ssh://USER@HOST:PORT, or ssh://HOST/PATH/OF/THE/SOCKET. A password is asked for, and never stands there.",
            )
        path = unquote(found["path"] or "")
        port = int(found["port"]) if found["port"] else None
        user = unquote(found["user"]) if found["user"] else None
        return cls(found["six"] or found["host"], user, port, path if len(path) > 1 else None)

    def __str__(self) -> str:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return "".join(
            [f"{self.user}@" if self.user else "", shown, f":{self.port}" if self.port else ""]
        )

    @property
    def arguments(self) -> list[str]:
        """How ssh is told where to go."""
        return [
            *(["-l", self.user] if self.user else []),
            *(["-p", str(self.port)] if self.port else []),
            "--",
            self.host,
        ]

    @property
    def by_hand(self) -> str:
        """What a person types to see for themselves."""
        return shlex.join(
            [
                "ssh",
                *(["-l", self.user] if self.user else []),
                *(["-p", str(self.port)] if self.port else []),
                self.host,
            ]
        )


class Tunnel:
    """Use it with ``with``, after `open`: at the end the connection is closed and all of it
    removed. `socket` is the near end."""

    def __init__(self, address: SshAddress) -> None:
        self.address = address
        self.problem: str | None = None
        """What is wrong now, in a sentence; None while the connection stands."""
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None
        self._closing = threading.Event()
        try:
            # mkdtemp makes it for this user alone (mode 0700).
            self._directory = tempfile.TemporaryDirectory(
                prefix="entrepot-", ignore_cleanup_errors=True
            )
        except OSError as error:
            raise ConnectionFailed(
                f"No temporary directory can be made: {error.strerror}.",
                "Set TMPDIR to another directory, with room in it.",
            ) from None
        root = Path(self._directory.name)
        self.socket = root / "engine"
        self._control = root / "control"
        self._complaints = root / "complaints"
        if len(os.fsencode(self._control)) + RANDOM_SUFFIX > SOCKET_PATH_LENGTH:
            self._directory.cleanup()
            raise ConnectionFailed(
                f"The path {root} is too long for a socket.",
                "Set TMPDIR to a directory with a shorter path.",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open(self, *, asks: bool) -> None:
        """Connect; raises `ConnectionFailed`, or `EngineUnreachable` when no engine runs there.

        *asks* lets ssh ask on the terminal for a password or whether a host key is right. Without
        it what would have to be asked is an error.
        """
        self._end()
        self._check_open()
        for each in (self.socket, self._control):
            each.unlink(missing_ok=True)
        far = self.address.socket
        # The semicolon means the same to all shells that somebody may have there.
        command = "entrepot dial" if far is None else f"echo {ANNOUNCEMENT}; cat"
        options = _OPTIONS if asks else _OPTIONS | {"BatchMode": "yes"}
        with self._complaints.open("wb") as complaints:
            process = self._start(
                "-T",
                "-S",
                str(self._control),
                *_as_arguments(options),
                *self.address.arguments,
                command,
                complaints=complaints,
                asks=asks,
            )
        self._process = process
        try:
            # Whoever closes it meanwhile has seen the process, or is seen here.
            self._check_open()
            announced = self._announced(
                process, time.monotonic() + (ASKING_PATIENCE if asks else CONNECT_PATIENCE)
            )
            self._forward(far or announced)
            # Who announced the socket has reached an engine there.
            if far is None and not self._leads_somewhere():
                raise ConnectionFailed(
                    f"The ssh server on {self.address} does not forward to the socket of the engine.",
                    "Its sshd_config needs: AllowStreamLocalForwarding yes",
                )
        except BaseException:
            self._end()
            raise
        self.problem = None

    def keep(self) -> None:
        """From now on connect again whenever the connection is lost, until it is closed. Nobody is
        asked for a password then: who draws has the terminal."""
        self._keeper = threading.Thread(target=self._keep, name="tunnel", daemon=True)
        self._keeper.start()

    def close(self) -> None:
        """End the connection, and remove what was made for it."""
        self._closing.set()
        if self._keeper is not None:
            if (process := self._process) is not None:
                process.terminate()
            self._keeper.join(CONNECT_PATIENCE)
        self._end()
        self._directory.cleanup()

    def absent(self) -> str:
        """What to tell when no engine answers at the near end."""
        process = self._process
        if self.problem is None and process is not None and process.poll() is not None:
            return self._lost()
        return (
            self.problem
            or f"No engine answers on {self.address}. Start one there with: entrepot serve"
        )

    def _lost(self) -> str:
        return f"The connection to {self.address} is lost. It is tried again every few seconds."

    def _keep(self) -> None:
        while True:
            if (process := self._process) is not None:
                process.wait()
            self.problem = self._lost()
            while True:
                if self._closing.wait(RETRY_INTERVAL):
                    return
                try:
                    self.open(asks=False)
                except (ConnectionFailed, EngineUnreachable) as error:
                    self.problem = f"{error.message} It is tried again every few seconds."
                except (OSError, subprocess.SubprocessError) as error:
                    self.problem = f"The connection to {self.address} is lost, and can't be made again: {error}"
                else:
                    break

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise ConnectionFailed(f"The connection to {self.address} is closed.")

    def _start(self, *arguments: str, complaints: BinaryIO, asks: bool) -> subprocess.Popen[bytes]:
        try:
            # In a session of its own it can't reach the terminal.
            return subprocess.Popen(
                ["ssh", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                start_new_session=not asks,
            )
        except OSError as error:
            cause = program_cause(error, "ssh", where="")
            more = (
                " (Debian package: openssh-client)"
                if cause.code is CauseCode.PROGRAM_MISSING
                else ""
            )
            raise ConnectionFailed(cause.what, f"{cause.hint}{more}") from None

    def _announced(self, process: subprocess.Popen[bytes], until: float) -> str:
        """The path of the socket at the far side. What its shell prints besides is passed over."""
        assert process.stdout is not None
        told = b""
        while len(told) < TOLD:
            left = until - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                raise ConnectionFailed(
                    f"{self.address} does not answer in time.",
                    f"Look at it with: {self.address.by_hand}",
                )
            piece = os.read(process.stdout.fileno(), 4096)
            if not piece:
                raise self._why(process.wait(CONNECT_PATIENCE))
            told += piece
            *lines, _ = told.split(b"\n")
            for line in lines:
                if line.startswith(ANNOUNCEMENT.encode().rstrip()):
                    return os.fsdecode(line.rstrip(b"\r")[len(ANNOUNCEMENT) :])
        raise ConnectionFailed(
            f"The login on {self.address} prints a lot, and not where its engine is.",
            f"Look at it with: {self.address.by_hand}",
        )

    def _forward(self, far: str) -> None:
        # A colon would end the path, and a backslash keeps it from that.
        ends = ":".join(re.sub(r"([:\\])", r"\\\1", each) for each in (str(self.socket), far))
        asked = subprocess.run(
            ["ssh", "-S", str(self._control), "-O", "forward", "-L", ends, *self.address.arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CONNECT_PATIENCE,
            check=False,
        )
        if asked.returncode:
            raise ConnectionFailed(
                f"ssh does not forward to {far} on {self.address}: {_last_line(asked.stderr)}"
            )

    def _leads_somewhere(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(CONNECT_PATIENCE)
            try:
                connection.connect(str(self.socket))
                connection.sendall(
                    b"GET /entrepot/v1/status HTTP/1.1\r\nHost: entrepot\r\nConnection: close\r\n\r\n"
                )
                return bool(connection.recv(1))
            except OSError:
                return False

    def _why(self, status: int) -> ConnectionFailed | EngineUnreachable:
        """What the end of ssh means: 255 is its own failure, all else the status of what ran at the
        far side."""
        with self._complaints.open("rb") as written:
            complaints = written.read(TOLD)
        said, there, try_it = (
            _last_line(complaints),
            str(self.address),
            f"See for yourself with: {self.address.by_hand}",
        )
        if status == 255:
            if b"Could not resolve hostname" in complaints:
                return ConnectionFailed(
                    f"The host {self.address.host} is not known: ssh finds no address for it.",
                    "Look for a slip in the name.",
                )
            if b"Host key verification failed" in complaints:
                return ConnectionFailed(
                    f"The host key of {there} is not known here, or is another than before.", try_it
                )
            if b"Permission denied" in complaints:
                hint = "Where nobody can be asked for a password, a key of the ssh agent is needed."
                return ConnectionFailed(
                    f"Permission denied: {there} does not let you in ({said}).", f"{hint} {try_it}"
                )
            return ConnectionFailed(f"{there} can't be reached: {said}", try_it)
        if status == 3 and said.startswith("Error: The engine with pid "):
            # It runs, and why it can't be reached is known there (F68).
            return EngineUnreachable(
                f"On {there}: {said.removeprefix('Error: ').removesuffix(' (EngineUnreachable)')}"
            )
        if status == 3:
            return EngineUnreachable(
                f"No engine is running on {there}. Start one there with: entrepot serve"
            )
        if status in {126, 127}:
            return ConnectionFailed(
                f"The command entrepot is not found on {there}.",
                "Install it there, where a login without a terminal finds it, or name the socket of its engine: "
                f"ssh://{there}/PATH (entrepot paths prints it there).",
            )
        if status == 2:
            return ConnectionFailed(
                f"Entrepot on {there} is of another version, which can't be reached this way.",
                "Install the same version on both.",
            )
        return ConnectionFailed(
            f"The connection to {there} ended at once: {said or f'exit status {status}'}", try_it
        )

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for each in (process.stdin, process.stdout):
            if each is not None:
                each.close()
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def without_password(address: str) -> str:
    """An address that is wrong, as it may be shown: who wrote a password into it did not mean it
    for the log."""
    return quoted(re.sub(r"(?<=//)[^/]*@", "…@", address))


def _as_arguments(options: dict[str, str]) -> list[str]:
    return [argument for name, value in options.items() for argument in ("-o", f"{name}={value}")]


def _last_line(complaints: bytes) -> str:
    lines = complaints.decode(errors="replace").split("\n")
    told = [re.sub(r"[\x00-\x1f\x7f]", "", each).strip() for each in lines]
    return next((each for each in reversed(told) if each), "")
