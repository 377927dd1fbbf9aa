"""A tunnel over ssh to an engine on another machine.

Its local end is a Unix socket that leads to the engine's own.

The system's ``ssh`` does the work, so that its configuration, keys, agent and known hosts apply.
One ssh process lives as long as the tunnel: on the remote machine it runs ``entrepot dial``, which
prints the path of the engine's socket and waits until its standard input ends. So nothing stays on
either machine, however this program ends. The process is also the master of a control socket
(ssh(1), ``-M``), through which forwarding is requested once the remote path is known.
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

from entrepot.api.errors import EngineUnreachable
from entrepot.causes import CauseCode, program_cause
from entrepot.config.directories import SOCKET_PATH_LENGTH
from entrepot.core.reference import quoted
from entrepot.errors import EntrepotError

CONNECT_TIMEOUT: Final = 30.0
"""Seconds that a connection may take where ssh asks no question."""

PASSWORD_TIMEOUT: Final = 180.0
"""Seconds that it may take with a person who types a password and confirms a host key."""

RETRY_INTERVAL: Final = 2.0
"""Seconds between two attempts to reconnect."""

MAX_OUTPUT: Final = 64 * 1024
"""Bytes that the remote shell may print before the announcement, and of ssh's error output."""

ANNOUNCEMENT: Final = "entrepot-socket "
"""The beginning of the line that names the remote socket."""

RANDOM_SUFFIX: Final = 17
"""Characters that ssh adds to the path of a control socket while it creates it."""

_OPTIONS: Final = {
    "ControlMaster": "yes",
    "ControlPersist": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "PermitLocalCommand": "no",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ConnectTimeout": "10",
    # A connection that died silently is noticed after 15 s.
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    # Other messages, such as that nothing listens on the remote socket, would be repeated at each
    # request.
    "LogLevel": "ERROR",
}
"""Options that the tunnel depends on; they override the user's configuration of ssh."""


_SSH_ADDRESS: Final = re.compile(
    r"ssh://(?:(?P<user>[^@:/\s]+)@)?"
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[\w.-]+))"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>/[^\0\n\r]*)?"
)


class ConnectionFailed(EntrepotError):
    """The other machine can't be reached, or has no engine that can be used."""

    code = "ConnectionFailed"


@dataclass(frozen=True, slots=True)
class SshAddress:
    """``ssh://[user@]host[:port][/path/of/the/socket]``.

    Without a path, the remote machine is asked for it.
    """

    host: str
    user: str | None = None
    port: int | None = None
    socket: str | None = None

    @classmethod
    def parse(cls, text: str) -> SshAddress:
        """Read an address; raises `ConnectionFailed`."""
        parts = _SSH_ADDRESS.fullmatch(text)
        # A leading dash would be an option of ssh.
        if parts is None or any((parts[name] or "").startswith("-") for name in ("user", "host")):
            raise ConnectionFailed(
                f"{without_password(text)} is not an address that ssh can reach.",
                "Write ssh://HOST, ssh://USER@HOST:PORT, or ssh://HOST/PATH/OF/THE/SOCKET. "
                "ssh asks for a password; it never belongs into the address.",
            )
        path = unquote(parts["path"] or "")
        port = int(parts["port"]) if parts["port"] else None
        user = unquote(parts["user"]) if parts["user"] else None
        return cls(parts["six"] or parts["host"], user, port, path if len(path) > 1 else None)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return "".join(
            [f"{self.user}@" if self.user else "", host, f":{self.port}" if self.port else ""]
        )

    @property
    def arguments(self) -> list[str]:
        """The arguments of ssh that name the machine."""
        return [
            *(["-l", self.user] if self.user else []),
            *(["-p", str(self.port)] if self.port else []),
            "--",
            self.host,
        ]

    @property
    def ssh_command(self) -> str:
        """The ssh command with which a person can try the connection."""
        return shlex.join(
            [
                "ssh",
                *(["-l", self.user] if self.user else []),
                *(["-p", str(self.port)] if self.port else []),
                self.host,
            ]
        )


class Tunnel:
    """A tunnel over ssh; `socket` is its local end.

    Use it as ``with``, then call `open`: at the end the connection and its files are removed.
    """

    def __init__(self, address: SshAddress) -> None:
        self.address = address
        self.problem: str | None = None
        """What is wrong now, in a sentence; None while the connection is open."""
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None
        self._closing = threading.Event()
        try:
            # mkdtemp creates it for this user alone (mode 0700).
            self._directory = tempfile.TemporaryDirectory(
                prefix="entrepot-", ignore_cleanup_errors=True
            )
        except OSError as error:
            raise ConnectionFailed(
                f"No temporary directory can be created: {error.strerror}.",
                "Set TMPDIR to another directory, with free space.",
            ) from None
        root = Path(self._directory.name)
        self.socket = root / "engine"
        self._control = root / "control"
        self._error_log = root / "errors"
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
        """Connect to the engine.

        Raises `ConnectionFailed`, or `EngineUnreachable` when no engine runs there.

        *asks* lets ssh ask on the terminal for a password or about a host key. Without it, such a
        question is an error.
        """
        self._end()
        self._check_open()
        for path in (self.socket, self._control):
            path.unlink(missing_ok=True)
        remote_socket = self.address.socket
        # The semicolon means the same in all login shells.
        command = "entrepot dial" if remote_socket is None else f"echo {ANNOUNCEMENT}; cat"
        options = _OPTIONS if asks else _OPTIONS | {"BatchMode": "yes"}
        with self._error_log.open("wb") as error_log:
            process = self._start(
                "-T",
                "-S",
                str(self._control),
                *_as_arguments(options),
                *self.address.arguments,
                command,
                error_log=error_log,
                asks=asks,
            )
        self._process = process
        try:
            # A close() in another thread has either terminated the process or is noticed here.
            self._check_open()
            announced_socket = self._read_announcement(
                process, time.monotonic() + (PASSWORD_TIMEOUT if asks else CONNECT_TIMEOUT)
            )
            self._forward(remote_socket or announced_socket)
            # The remote command has reached an engine on the socket that it announced.
            if remote_socket is None and not self._is_answered():
                raise ConnectionFailed(
                    f"The ssh server on {self.address} does not forward to the engine's socket.",
                    "Its sshd_config needs: AllowStreamLocalForwarding yes",
                )
        except BaseException:
            self._end()
            raise
        self.problem = None

    def keep(self) -> None:
        """Reconnect whenever the connection is lost, until it is closed.

        ssh asks no question then: the dashboard has the terminal.
        """
        self._keeper = threading.Thread(target=self._reconnect, name="tunnel", daemon=True)
        self._keeper.start()

    def close(self) -> None:
        """Close the connection and remove its files."""
        self._closing.set()
        if self._keeper is not None:
            if (process := self._process) is not None:
                process.terminate()
            self._keeper.join(CONNECT_TIMEOUT)
        self._end()
        self._directory.cleanup()

    def absent(self) -> str:
        """The message when no engine answers at the local end."""
        process = self._process
        if self.problem is None and process is not None and process.poll() is not None:
            return self._lost()
        return (
            self.problem
            or f"No engine answers on {self.address}. Start one there with: entrepot serve"
        )

    def _lost(self) -> str:
        return f"The connection to {self.address} is lost. Reconnecting every few seconds."

    def _reconnect(self) -> None:
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
                    self.problem = f"{error.message} Reconnecting every few seconds."
                except (OSError, subprocess.SubprocessError) as error:
                    self.problem = (
                        f"The connection to {self.address} is lost, and reconnecting fails: {error}"
                    )
                else:
                    break

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise ConnectionFailed(f"The connection to {self.address} is closed.")

    def _start(self, *arguments: str, error_log: BinaryIO, asks: bool) -> subprocess.Popen[bytes]:
        try:
            # In its own session it can't reach the terminal.
            return subprocess.Popen(
                ["ssh", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=error_log,
                start_new_session=not asks,
            )
        except OSError as error:
            cause = program_cause(error, "ssh", where="")
            package = (
                " (Debian package: openssh-client)"
                if cause.code is CauseCode.PROGRAM_MISSING
                else ""
            )
            raise ConnectionFailed(cause.what, f"{cause.hint}{package}") from None

    def _read_announcement(self, process: subprocess.Popen[bytes], deadline: float) -> str:
        """The path of the remote socket; other output of the remote shell is ignored."""
        assert process.stdout is not None
        output = b""
        while len(output) < MAX_OUTPUT:
            time_left = deadline - time.monotonic()
            if time_left <= 0 or not select.select([process.stdout], [], [], time_left)[0]:
                raise ConnectionFailed(
                    f"{self.address} does not answer in time.",
                    f"Check it with: {self.address.ssh_command}",
                )
            chunk = os.read(process.stdout.fileno(), 4096)
            if not chunk:
                raise self._failure(process.wait(CONNECT_TIMEOUT))
            output += chunk
            *lines, _ = output.split(b"\n")
            for line in lines:
                if line.startswith(ANNOUNCEMENT.encode().rstrip()):
                    return os.fsdecode(line.rstrip(b"\r")[len(ANNOUNCEMENT) :])
        raise ConnectionFailed(
            f"The login on {self.address} prints a lot of text, and not where its engine is.",
            f"Check it with: {self.address.ssh_command}",
        )

    def _forward(self, remote_socket: str) -> None:
        # A colon would end the path; a backslash escapes it.
        paths = (str(self.socket), remote_socket)
        ends = ":".join(re.sub(r"([:\\])", r"\\\1", path) for path in paths)
        completed = subprocess.run(
            ["ssh", "-S", str(self._control), "-O", "forward", "-L", ends, *self.address.arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CONNECT_TIMEOUT,
            check=False,
        )
        if completed.returncode:
            raise ConnectionFailed(
                f"ssh does not forward to {remote_socket} on {self.address}: "
                f"{_last_line(completed.stderr)}"
            )

    def _is_answered(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(CONNECT_TIMEOUT)
            try:
                connection.connect(str(self.socket))
                connection.sendall(
                    b"GET /entrepot/v1/status HTTP/1.1\r\n"
                    b"Host: entrepot\r\nConnection: close\r\n\r\n"
                )
                return bool(connection.recv(1))
            except OSError:
                return False

    def _failure(self, status: int) -> ConnectionFailed | EngineUnreachable:
        """The error for the exit status of ssh.

        255 is ssh's own failure; others are the status of the remote command.
        """
        with self._error_log.open("rb") as error_log:
            errors = error_log.read(MAX_OUTPUT)
        last_line, host = _last_line(errors), str(self.address)
        try_it = f"Check it with: {self.address.ssh_command}"
        if status == 255:
            if b"Could not resolve hostname" in errors:
                return ConnectionFailed(
                    f"The host {self.address.host} is not known: ssh finds no address for it.",
                    "Check the spelling of the name.",
                )
            if b"Host key verification failed" in errors:
                return ConnectionFailed(
                    f"The host key of {host} is not known here, or has changed.", try_it
                )
            if b"Permission denied" in errors:
                hint = "Where ssh can't ask for a password, it needs a key of the ssh agent."
                return ConnectionFailed(
                    f"Permission denied: {host} does not let you in ({last_line}).",
                    f"{hint} {try_it}",
                )
            return ConnectionFailed(f"{host} can't be reached: {last_line}", try_it)
        if status == 3 and last_line.startswith("Error: The engine with pid "):
            # An engine runs, and the remote command says why it can't be reached (F68).
            reason = last_line.removeprefix("Error: ").removesuffix(" (EngineUnreachable)")
            return EngineUnreachable(f"On {host}: {reason}")
        if status == 3:
            return EngineUnreachable(
                f"No engine is running on {host}. Start one there with: entrepot serve"
            )
        if status in {126, 127}:
            return ConnectionFailed(
                f"The command entrepot is not found on {host}.",
                "Install it there, where a login without a terminal finds it, "
                "or name the socket of its engine: "
                f"ssh://{host}/PATH (entrepot paths prints it there).",
            )
        if status == 2:
            return ConnectionFailed(
                f"Entrepot on {host} is of another version, which can't be reached this way.",
                "Install the same version on both.",
            )
        return ConnectionFailed(
            f"The connection to {host} ended at once: {last_line or f'exit status {status}'}",
            try_it,
        )

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def without_password(address: str) -> str:
    """An invalid address for an error message, without its password.

    A password in it must not reach the log.
    """
    return quoted(re.sub(r"(?<=//)[^/]*@", "…@", address))


def _as_arguments(options: dict[str, str]) -> list[str]:
    return [argument for name, value in options.items() for argument in ("-o", f"{name}={value}")]


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").split("\n")
    cleaned = [re.sub(r"[\x00-\x1f\x7f]", "", line).strip() for line in lines]
    return next((line for line in reversed(cleaned) if line), "")
