"""Secrets that a program prints: credential helpers of docker, and commands of the administrator's
own."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress

from entrepot.causes import program_cause
from entrepot.secrets.secret import SECRET_LENGTH, SecretUnavailable, unreadable

PATIENCE = 15.0
"""Seconds that a program may take: those that ask a cloud for a token need some."""

_REAPING = 2.0
"""Seconds that a killed program has to be gone."""


class _Output(asyncio.SubprocessProtocol):
    """What a program prints, up to the longest secret."""

    def __init__(self) -> None:
        self.content = b""
        self.full = asyncio.Event()
        self.over = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.content += data[: SECRET_LENGTH + 1 - len(self.content)]
        if len(self.content) > SECRET_LENGTH:
            self.full.set()
            self.over.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set()


async def run(
    words: Sequence[str],
    identifier: object,
    *,
    given: bytes | None = None,
    patience: float | None = None,
) -> tuple[int, bytes]:
    """Run a program without a shell, with *given* on its standard input: its exit status, and what
    it printed on its standard output.

    What it prints elsewhere is thrown away: it might tell the secret. It has `PATIENCE`, or
    *patience* seconds, and then is killed with all that it started. Raises `SecretUnavailable`.
    """
    loop = asyncio.get_running_loop()
    seconds = PATIENCE if patience is None else patience
    try:
        transport, output = await loop.subprocess_exec(
            _Output,
            *words,
            stdin=asyncio.subprocess.DEVNULL if given is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        cause = await asyncio.to_thread(program_cause, error, words[0])
        raise unreadable(identifier, cause) from None
    try:
        if given is not None and (pipe := transport.get_pipe_transport(0)) is not None:
            assert isinstance(pipe, asyncio.WriteTransport)
            pipe.write(given)
            pipe.write_eof()
        async with asyncio.timeout(seconds):
            await output.over.wait()
        if output.full.is_set():
            raise SecretUnavailable(
                f"The secret {identifier} is not read: {words[0]} prints more than {SECRET_LENGTH:,} bytes.",
                "It must print the secret and nothing else.",
            )
        return transport.get_returncode() or 0, output.content
    except TimeoutError:
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: {words[0]} did not end within {seconds:.0f} s.",
            "Try it by hand, as the user of the engine.",
        ) from None
    finally:
        await _end(transport, output)


async def _end(transport: asyncio.SubprocessTransport, output: _Output) -> None:
    output.content = b""
    if transport.get_returncode() is None:
        with suppress(ProcessLookupError):
            os.killpg(transport.get_pid(), signal.SIGKILL)
    transport.close()
    # Its exit is to be heard before the loop goes on; a process that hangs in the kernel is left to
    # the kernel.
    with suppress(TimeoutError):
        async with asyncio.timeout(_REAPING):
            while transport.get_returncode() is None:
                output.over.clear()
                await output.over.wait()


async def read_command(words: Sequence[str], identifier: object) -> bytes:
    """The first line that a command prints on its standard output, without its end."""
    status, printed = await run(words, identifier)
    if status:
        how = f"ended with status {status}" if status > 0 else f"was ended by signal {-status}"
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: {words[0]} {how}.",
            "Try it by hand, as the user of the engine.",
        )
    return printed.partition(b"\n")[0]
