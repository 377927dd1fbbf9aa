"""A limit for log lines of one kind, so that they can't fill a disk (S10, F92)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

INTERVAL = 1.0
"""Seconds over which lines of one kind are counted."""

MAX_LINES = 50
"""Lines of one kind in an interval, at the most. A busy engine logs fewer pulls than that."""

MAX_TRACEBACKS = 5
"""Lines of one kind with a traceback, which is some thousand characters, in an interval at the
most."""

MAX_KINDS = 1000
"""Kinds that are counted, at the most; when there are more, those without dropped lines are
forgotten."""

Kind = tuple[str, int, str, str | None]


@dataclass(slots=True)
class _Count:
    since: float
    lines: int = 0
    dropped: int = 0


def _after(seconds: float, call: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()


class LogLimit(logging.Filter):
    """Limits the lines of one kind in each interval; one at its end counts the rest.

    One kind is: the same logger, level, format string, and kind of event. *later* calls a function
    after some seconds, in any thread.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], None] = _after,
    ) -> None:
        super().__init__()
        self._clock = clock
        self._later = later
        self._counts: dict[Kind, _Count] = {}
        self._lock = threading.Lock()
        self._waits = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written."""
        if getattr(record, "is_summary", False):
            return True
        kind = (record.name, record.levelno, str(record.msg), getattr(record, "kind", None))
        most = MAX_TRACEBACKS if record.exc_info else MAX_LINES
        now = self._clock()
        with self._lock:
            if len(self._counts) > MAX_KINDS:
                self._counts = {
                    kind: count for kind, count in self._counts.items() if count.dropped
                }
            count = self._counts.setdefault(kind, _Count(now))
            if now - count.since >= INTERVAL and not count.dropped:
                count.since, count.lines = now, 0
            count.lines += 1
            if count.lines <= most:
                return True
            count.dropped += 1
            starts, self._waits = not self._waits, True
        if starts:
            self._later(INTERVAL, self._summarize)
        return False

    def _summarize(self) -> None:
        now = self._clock()
        with self._lock:
            self._waits = False
            dropped_by_kind = {
                kind: count.dropped for kind, count in self._counts.items() if count.dropped
            }
            for kind in dropped_by_kind:
                self._counts[kind] = _Count(now)
        for (name, level, message, event), dropped in dropped_by_kind.items():
            what = f"of {event}" if event is not None else f"like {message!r}"
            text = (
                f"{dropped:,} more lines {what} were left out: at most {MAX_LINES} a second of one "
                f"kind are written, {MAX_TRACEBACKS} with a traceback."
            )
            logging.getLogger(name).log(level, "%s", text, extra={"is_summary": True})
