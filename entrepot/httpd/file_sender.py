"""Sending of files by a thread of its own, apart from the event loop.

On the event loop, a step of sendfile(2) for each of 200 clients takes up to a third of a second,
for which every other response waits. The thread has its own selector, and gives each client whose
socket is writable one step in turn; the event loop only hands over a transfer, and learns its end.

Our own, because asyncio's sendfile calls the selector twice for each step, which costs as much as
the sending. On two processors that are busy, a second thread gives clients a third more bytes per
second, and lets manifests wait five times as long: both then wait for a processor.

The thread has the priority of the event loop, above that of the threads that fetch blobs. With
theirs, ten of them leave it a small share of a processor, and clients of cached blobs get less.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from entrepot.httpd.sendfile import (
    NO_SENDFILE,
    SENDFILE_CHUNK,
    FileCutShort,
    NoSendfile,
    OpenFile,
    are_cached,
    load_in_background,
)
from entrepot.tasks import uninterrupted

TURN_SIZE = 64 * 1024 * 1024
"""Bytes that all clients together get in one turn of the thread, as far as `MIN_STEP` allows it.

A turn is how long a client waits for its first byte."""

MIN_STEP = 512 * 1024
"""Bytes of one step, at least. With steps of 128 KiB, the thread waits for the interpreter lock so
often that clients get a third less while blobs are filled."""

TLS_PIECE = 64 * 1024
"""Bytes that OpenSSL gets at a time, which are four records."""

PROGRESS_INTERVAL = 0.25
"""Seconds between two reports of the bytes sent, while a transfer goes on."""

_CORK: int | None = getattr(socket, "TCP_CORK", None)


class FileSender:
    """Sends parts of files for one event loop.

    Its thread starts with the first one, and ends after `close`.
    """

    def __init__(self) -> None:
        self._transfers: set[_Transfer] = set()
        self._thread: _SendingThread | None = None
        self._report_timer: asyncio.TimerHandle | None = None

    async def send(
        self,
        out: socket.socket,
        file: OpenFile,
        offset: int,
        count: int,
        on_sent: Callable[[int], None],
        *,
        secured: ssl.SSLSocket | None = None,
    ) -> None:
        """Send *count* bytes from *offset* to a connected socket, within the kernel.

        With TLS *secured* sends them on the same connection; nothing else uses it meanwhile.

        *on_sent* gets numbers of bytes that were sent, each `PROGRESS_INTERVAL` and at the end.
        *out* is non-blocking and has no asyncio transport of its own: it is a duplicate. A caller
        that is cancelled waits until the thread uses neither socket nor file. Raises
        ConnectionError when the client is gone, `FileCutShort` and `NoSendfile`.
        """
        loop = asyncio.get_running_loop()
        transfer = _Transfer(
            out, file, offset, offset + count, on_sent, loop.create_future(), secured
        )
        if self._thread is None:
            self._thread = _SendingThread(loop)
        thread = self._thread
        self._transfers.add(transfer)
        if self._report_timer is None:
            self._report_timer = loop.call_later(PROGRESS_INTERVAL, self._report_on_time)
        thread.begin(transfer)
        try:
            await asyncio.shield(transfer.ended)
        except asyncio.CancelledError:
            thread.cancel(transfer)
            await uninterrupted(transfer.ended)
            raise
        finally:
            self._transfers.discard(transfer)
            transfer.report()
        if transfer.error is not None:
            raise transfer.error

    def report(self) -> None:
        """Tell each *on_sent* what was sent until now."""
        for transfer in self._transfers:
            transfer.report()

    def close(self) -> None:
        """End the thread after its last transfer."""
        if self._report_timer is not None:
            self._report_timer.cancel()
        if self._thread is not None:
            self._thread.close()

    def _report_on_time(self) -> None:
        self._report_timer = None
        self.report()
        if self._transfers:
            loop = asyncio.get_running_loop()
            self._report_timer = loop.call_later(PROGRESS_INTERVAL, self._report_on_time)


class _Transfer:
    """A part of a file on its way to one client.

    From its start to its end only the thread changes it, except what was reported.
    """

    def __init__(
        self,
        out: socket.socket,
        file: OpenFile,
        offset: int,
        end: int,
        on_sent: Callable[[int], None],
        ended: asyncio.Future[None],
        secured: ssl.SSLSocket | None,
    ) -> None:
        self.secured = secured
        self.retried_size = 0
        """Bytes that OpenSSL has to get once more, because it could not send all of them."""
        self.socket = out.fileno()
        self.file = file.fileno()
        self.offset = offset
        self.end = end
        self.loaded_to = offset
        """Where the bytes end that the kernel has in memory."""
        self.ended = ended
        self.error: BaseException | None = None
        """Why it ended before its end; None also for one that was cancelled."""
        self.is_registered = False
        """Whether the thread waits for its socket."""
        self.is_cancelled = False
        self._out = out
        self._can_cork = _CORK is not None and out.family != socket.AF_UNIX
        self._reported = offset
        self._on_sent = on_sent

    def report(self) -> None:
        """Tell the bytes sent since the last report."""
        size = self.offset - self._reported
        if size:
            self._reported += size
            self._on_sent(size)

    def cork(self, corked: bool) -> None:
        """Send only full packets from now on, or else all that is left (tcp(7), TCP_CORK).

        nginx's tcp_nopush does the same. Without it a file takes the kernel a third more time.
        """
        if self._can_cork and _CORK is not None:
            # A closed connection has nothing left to send.
            with suppress(OSError):
                self._out.setsockopt(socket.IPPROTO_TCP, _CORK, corked)


class _SendingThread:
    """A thread that sends; the event loop calls `begin`, `cancel` and `close`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._commands: deque[Callable[[], None]] = deque()
        self._is_woken = False
        """Whether the thread will look at its commands."""
        self._ended: deque[_Transfer] = deque()
        self._is_notified = False
        """Whether the event loop will look at what has ended."""
        self._running = 0
        self._is_closing = False
        self._step_size = SENDFILE_CHUNK
        self._piece = memoryview(bytearray(TLS_PIECE))
        threading.Thread(target=self._run, name="entrepot-send", daemon=True).start()

    def begin(self, transfer: _Transfer) -> None:
        """Send a part of a file; its future *ended* is done when the thread has let go of it."""
        self._command(lambda: self._begin(transfer))

    def cancel(self, transfer: _Transfer) -> None:
        """End a transfer soon."""
        self._command(lambda: self._cancel(transfer))

    def close(self) -> None:
        """End the thread after its last transfer."""
        self._command(self._close)

    def _settle(self) -> None:
        """Learn which transfers have ended; on the event loop."""
        self._is_notified = False
        while self._ended:
            self._ended.popleft().ended.set_result(None)

    def _command(self, command: Callable[[], None]) -> None:
        """Let the thread call a function; from any thread."""
        self._commands.append(command)
        if not self._is_woken:
            self._is_woken = True
            # Closed where the thread has ended.
            with suppress(OSError):
                self._wake.send(b"\0")

    # Within the thread

    def _run(self) -> None:
        with self._selector, self._wake, self._woken:
            while not self._is_closing or self._running:
                ready = self._selector.select()
                self._step_size = min(SENDFILE_CHUNK, max(MIN_STEP, TURN_SIZE // len(ready)))
                for key, _ in ready:
                    if key.data is None:
                        self._run_commands()
                    elif key.data.is_registered:
                        self._go_on(key.data)

    def _run_commands(self) -> None:
        self._woken.recv(64)
        self._is_woken = False
        while self._commands:
            self._commands.popleft()()

    def _close(self) -> None:
        self._is_closing = True

    def _begin(self, transfer: _Transfer) -> None:
        self._running += 1
        transfer.cork(True)
        self._go_on(transfer)

    def _cancel(self, transfer: _Transfer) -> None:
        transfer.is_cancelled = True
        if transfer.is_registered:
            self._end(transfer, None)

    def _go_on(self, transfer: _Transfer) -> None:
        """Send one step, and wait for what the next one needs."""
        try:
            if transfer.offset == transfer.loaded_to and not self._load(transfer):
                return
            self._send_step(transfer)
            if transfer.offset == transfer.end:
                self._end(transfer, None)
            elif not transfer.is_registered:
                self._selector.register(transfer.socket, selectors.EVENT_WRITE, transfer)
                transfer.is_registered = True
        except Exception as error:
            self._end(transfer, error)

    def _send_step(self, transfer: _Transfer) -> None:
        count = min(self._step_size, transfer.loaded_to - transfer.offset)
        if transfer.secured is not None:
            self._send_secured(transfer, transfer.secured, transfer.offset + count)
            return
        try:
            size = os.sendfile(transfer.socket, transfer.file, transfer.offset, count)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if error.errno in NO_SENDFILE:
                raise NoSendfile from error
            raise
        if not size:
            raise FileCutShort
        transfer.offset += size

    def _send_secured(self, transfer: _Transfer, secured: ssl.SSLSocket, end: int) -> None:
        while transfer.offset < end:
            count = transfer.retried_size or min(TLS_PIECE, transfer.end - transfer.offset)
            size = os.preadv(transfer.file, [self._piece[:count]], transfer.offset)
            if size < count:
                raise FileCutShort
            try:
                sent = secured.send(self._piece[:count])
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                transfer.retried_size = count
                return
            except ssl.SSLError as error:
                raise ConnectionAbortedError(str(error)) from error
            transfer.retried_size = 0
            transfer.offset += sent

    def _load(self, transfer: _Transfer) -> bool:
        """Whether the next chunk is in memory; if not, the transfer goes on when it is."""
        count = min(SENDFILE_CHUNK, transfer.end - transfer.offset)
        if are_cached(transfer.file, transfer.offset, count):
            transfer.loaded_to += count
            return True
        self._unregister(transfer)

        def loaded(loading: Future[bytes]) -> None:
            self._command(lambda: self._loaded(transfer, count, loading))

        load_in_background(transfer.file, transfer.offset, count).add_done_callback(loaded)
        return False

    def _loaded(self, transfer: _Transfer, count: int, loading: Future[bytes]) -> None:
        error = loading.exception()
        if error is not None or transfer.is_cancelled:
            self._end(transfer, error)
            return
        transfer.loaded_to += count
        self._go_on(transfer)

    def _unregister(self, transfer: _Transfer) -> None:
        if transfer.is_registered:
            transfer.is_registered = False
            self._selector.unregister(transfer.socket)

    def _end(self, transfer: _Transfer, error: BaseException | None) -> None:
        self._unregister(transfer)
        transfer.cork(False)
        transfer.error = error
        self._running -= 1
        self._ended.append(transfer)
        if not self._is_notified:
            self._is_notified = True
            # The event loop may be closed already.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._settle)
