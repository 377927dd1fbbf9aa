"""Watch of the event loop: how late it is, and what holds it.

A call that blocks the event loop delays every client. The watch measures how late the loop runs a
timer, and a thread beside it notices when the timer is overdue and samples the frames of the loop's
thread, while what holds it is still there.

A process that is stopped (SIGSTOP, a suspended machine) or gets no processor is late too, and no
call is at fault. Then the thread of the watch is late as well, and the loop's thread has used no
processor time; a call that keeps all other threads from running, such as a regular expression, uses
it. A loop that waits for its sockets is not held either.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from entrepot.api.models import LoopLag

INTERVAL = 0.1
"""Seconds between two samples of the lag."""

SAMPLES = 600
"""Samples that the gauge covers: a minute."""

STALL = 0.25
"""Seconds of lag from which on a warning names the place."""

FIRST_LOOK = 0.15
"""Seconds of lag at which the thread wakes for the first time. It has to be in time then and at
`STALL`, so that no call is blamed where the process was stopped."""

LATE = 0.1
"""Seconds from which on the thread itself is late."""

WARNING_INTERVAL = 10.0
"""Seconds between two warnings; those in between are counted."""

LONG_STALL = 1.0
"""Seconds of a stall from which on its end is logged too."""

FRAMES = 3
"""Frames of our own code that a warning names, the innermost first."""

_OUR_FILES = str(Path(__file__).parents[1])

_log = logging.getLogger("entrepot.stalls")


@dataclass(frozen=True, slots=True)
class Stall:
    """The event loop was held."""

    lag: float
    """Seconds for which it had been held when it was noticed."""
    place: str | None
    """What held it, the innermost first; None where no other thread could run to find out."""
    unreported: int = 0
    """Stalls since the last warning that got none."""

    def __str__(self) -> str:
        place = (
            f"at {self.place}"
            if self.place is not None
            else "by a call that lets no other thread run, so its place is unknown"
        )
        more = f" ({self.unreported} more since the last warning)" if self.unreported else ""
        return f"The event loop was held for more than {self.lag:.2f} s {place}{more}."


class StallWatch:
    """The watch of one event loop, in which `run` runs.

    *report* gets stalls, mostly in another thread; by default each is a warning in the log.
    *monotonic* and *processor_time*, that of the loop's thread, are in seconds.
    """

    def __init__(
        self,
        *,
        report: Callable[[Stall], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        processor_time: Callable[[], float] = time.thread_time,
    ) -> None:
        self.stalls = 0
        """Stalls since the start."""
        self._report = report if report is not None else _warn
        self._monotonic = monotonic
        self._processor_time = processor_time
        self._samples: deque[float] = deque(maxlen=SAMPLES)
        self._beat = 0.0
        """When the loop ran last, as far as known."""
        self._processor_time_at_beat = 0.0
        self._noticed_beat: float | None = None
        """The beat after which the loop is held, once that was noticed."""
        self._reported_at = -WARNING_INTERVAL
        self._unreported = 0
        self._ended = threading.Event()

    def lag(self) -> LoopLag:
        """How late the loop was within the last minute."""
        samples = sorted(self._samples)
        if not samples:
            return LoopLag(stalls=self.stalls)
        p99 = samples[min(len(samples) - 1, len(samples) * 99 // 100)]
        return LoopLag(max=samples[-1], p99=p99, stalls=self.stalls)

    async def run(self) -> None:
        """Watch the running loop until cancelled."""
        self._ended.clear()
        self._start_span()
        threading.Thread(
            target=self._watch, args=(threading.get_ident(),), name="entrepot-stalls", daemon=True
        ).start()
        try:
            while True:
                await asyncio.sleep(INTERVAL)
                self.beat()
        finally:
            self._ended.set()

    def beat(self) -> None:
        """Record that the loop runs, `INTERVAL` seconds after the last time if it is in time."""
        lag = max(0.0, self._monotonic() - self._beat - INTERVAL)
        is_noticed = self._noticed_beat == self._beat
        if lag >= STALL and not is_noticed and self._was_stopped(lag):
            # How late the loop itself would have been is unknown.
            self._start_span()
            return
        self._samples.append(lag)
        if lag >= STALL and not is_noticed:
            self._notice(Stall(lag, None))
        if lag >= LONG_STALL:
            _log.warning("The event loop goes on, after %.1f s.", lag)
        self._start_span()

    def _start_span(self) -> None:
        self._processor_time_at_beat = self._processor_time()
        self._beat = self._monotonic()

    def _was_stopped(self, seconds: float) -> bool:
        """Whether the loop's thread used hardly any processor time since the last beat."""
        return self._processor_time() - self._processor_time_at_beat < seconds / 2

    # The thread

    def _watch(self, loop_thread: int) -> None:
        while not self._ended.is_set():
            beat = self._beat
            due = beat + INTERVAL
            while self._beat == beat and not self._ended.is_set():
                if not (self._waits_until(due + FIRST_LOOK) and self._waits_until(due + STALL)):
                    # This thread was late too. What is overdue counts from now on only.
                    due = self._monotonic()
                    continue
                frame = sys._current_frames().get(loop_thread)
                if self._beat == beat and frame is not None and not _waits_for_sockets(frame):
                    self._noticed_beat = beat
                    self._notice(Stall(self._monotonic() - due, place_of(frame)))
                del frame
                while self._beat == beat and not self._ended.wait(INTERVAL):
                    pass

    def _waits_until(self, moment: float) -> bool:
        """Wait until a *moment*; whether this thread is in time, and the watch has not ended."""
        has_ended = self._ended.wait(max(0.0, moment - self._monotonic()))
        return not has_ended and self._monotonic() - moment < LATE

    def _notice(self, stall: Stall) -> None:
        self.stalls += 1
        now = self._monotonic()
        if now - self._reported_at < WARNING_INTERVAL:
            self._unreported += 1
            return
        self._reported_at = now
        unreported, self._unreported = self._unreported, 0
        self._report(Stall(stall.lag, stall.place, unreported))


def _warn(stall: Stall) -> None:
    _log.warning("%s", stall)


def _waits_for_sockets(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_name == "select" and Path(code.co_filename).name == "selectors.py"


def place_of(frame: FrameType) -> str:
    """File, line and function of the innermost frame, and of the innermost ones of our own code."""
    frames = list(_frames(frame))
    ours = [each for each in frames if each[0].startswith(_OUR_FILES)][:FRAMES]
    named = ours if frames[0] in ours or not ours else [frames[0], *ours]
    return " < ".join(
        f"{'/'.join(Path(file).parts[-2:])}:{line} {function}"
        for file, line, function in named or frames[:FRAMES]
    )


def _frames(frame: FrameType | None) -> Iterator[tuple[str, int, str]]:
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname
        frame = frame.f_back
