"""A dashboard that watches pulls whose progress is scripted look by look: a program for a
pseudo-terminal.

Its arguments are the numbers of pulls that go on and that have ended, the looks that a pull takes,
and a file to which it adds a byte at each look.
"""

from __future__ import annotations

import os
import sys
import time

from entrepot.api.models import PullSnapshot
from entrepot.core.states import PullState
from tests.tui.scripted import ScriptedEngine, pull
from tui import polling
from tui.app import Dashboard
from tui.screens import base

SIZE = 700_000_000


class PolledEngine(ScriptedEngine):
    """Pulls that come as far at each look as the script says, each at a speed of its own."""

    def __init__(self, under_way: int, ended: int, looks: int, file: str) -> None:
        super().__init__()
        self._under_way, self._ended, self._looks = under_way, ended, looks
        self._tell = os.open(file, os.O_WRONLY | os.O_APPEND)
        self._look = 0
        self._over: list[PullSnapshot] = []
        self._began = time.time()
        self.before_status = lambda _: self._go_on()
        self._go_on()

    def _go_on(self) -> None:
        os.write(self._tell, b".")
        self._look += 1
        over = self._over = self._over or [
            self._pull(
                number, state=PullState.COMPLETED, ended=self._began, speed=0.0, time_left=None
            )
            for number in range(self._ended)
        ]
        self.pulls = [*(self._running(number) for number in range(self._under_way)), *over]

    def _running(self, number: int) -> PullSnapshot:
        looks = self._looks + number
        received = min(SIZE - 1, SIZE * self._look // looks)
        # Speeds are never quite the same at two looks.
        speed = 2.0 * SIZE / looks * (1 + (self._look * 7 + number * 3) % 5 / 100)
        return self._pull(
            100_000 + number, received=received, speed=speed, time_left=(SIZE - received) / speed
        )

    def _pull(self, number: int, **changes: object) -> PullSnapshot:
        return pull(
            str(number),
            repository=f"library/image-{number % 1000}",
            started=self._began - 100,
            **{"size": SIZE, **changes},
        )


LOOK_INTERVAL = 0.2
"""Seconds between two looks, whether something moves or not: bytes are counted by looks, and need
not be waited for."""

if __name__ == "__main__":
    vars(base)["POLL_INTERVAL"] = polling.IDLE_POLL_INTERVAL = LOOK_INTERVAL
    under_way, ended, looks = (int(each) for each in sys.argv[1:4])
    Dashboard(PolledEngine(under_way, ended, looks, sys.argv[4]).client()).run()
