"""Read secrets that a program prints: a credential helper, or any other command."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress

from entrepot.causes import program_cause
from entrepot.secrets.secret import SECRET_LENGTH, SecretUnavailable, unreadable

PROGRAM_TIMEOUT = 15.0
"""How long a program may take, in seconds: one that asks a cloud for a token needs some."""

_EXIT_TIMEOUT = 2.0
"""How long the exit of a killed program is waited for, in seconds."""


class _Output(asyncio.SubprocessProtocol):
    """What a program prints, up to the longest secret."""

    def __init__(self) -> None:
        self.content = b""
        self.full = asyncio.Event()
        self.over = asyncio.Event()

    def pipe_data_received(self, _fd: int, data: bytes) -> None:
        self.content += data[: SECRET_LENGTH + 1 - len(self.content)]
        if len(self.content) > SECRET_LENGTH:
            self.full.set()
            self.over.set()

    def connection_lost(self, _error: Exception | None) -> None:
        self.over.set()


async def run(
    words: Sequence[str],
    identifier: object,
    *,
    stdin: bytes | None = None,
) -> tuple[int, bytes]:
    """Run a program without a shell; return its exit status and its standard output.

    Its standard error is discarded: it might have the secret. After `PROGRAM_TIMEOUT` it is killed
    with all its children. Raises `SecretUnavailable`.
    """
    loop = asyncio.get_running_loop()
    try:
        transport, output = await loop.subprocess_exec(
            _Output,
            *words,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        cause = await asyncio.to_thread(program_cause, error, words[0])
        raise unreadable(identifier, cause) from None
    try:
        if stdin is not None and (pipe := transport.get_pipe_transport(0)) is not None:
            assert isinstance(pipe, asyncio.WriteTransport)
            pipe.write(stdin)
            pipe.write_eof()
        async with asyncio.timeout(PROGRAM_TIMEOUT):
            await output.over.wait()
        if output.full.is_set():
            raise SecretUnavailable(
                f"The secret {identifier} is not read: {words[0]} prints more than "
                f"{SECRET_LENGTH:,} bytes.",
                "It must print the secret and nothing else.",
            )
        return transport.get_returncode() or 0, output.content
    except TimeoutError:
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: {words[0]} did not end within "
            f"{PROGRAM_TIMEOUT:.0f} s.",
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
    # asyncio must see the exit before the loop goes on. A process that hangs in the kernel stays.
    with suppress(TimeoutError):
        async with asyncio.timeout(_EXIT_TIMEOUT):
            while transport.get_returncode() is None:
                output.over.clear()
                await output.over.wait()


async def read_command(words: Sequence[str], identifier: object) -> bytes:
    """The first line that a command prints on its standard output, without its end."""
    status, output = await run(words, identifier)
    if status:
        how = f"ended with status {status}" if status > 0 else f"was ended by signal {-status}"
        raise SecretUnavailable(
            f"The secret {identifier} can't be read: {words[0]} {how}.",
            "Try it by hand, as the user of the engine.",
        )
    return output.partition(b"\n")[0]
