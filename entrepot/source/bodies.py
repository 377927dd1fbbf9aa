"""Bodies of responses that a thread can read, too."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import httpx


class ThreadedStream(httpx.AsyncByteStream):
    """The body of a response, for the event loop to iterate over, or for a thread.

    What the thread has read does not come by iteration again.
    """

    @property
    @abstractmethod
    def is_threaded(self) -> bool:
        """Whether a thread can read it: its length is stated."""

    @abstractmethod
    def read_into(self, buffer: memoryview, before_waiting: Callable[[], None]) -> int:
        """Read 1 to ``len(buffer)`` bytes as they come; 0 at the end. Blocks.

        It calls *before_waiting* once before it waits longer than a few milliseconds. Raises
        `httpx.TransportError`.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """Let a running or later `read_into` raise. Called in the thread of the event loop."""
