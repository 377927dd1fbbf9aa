"""Polling the engine: how often, and what is shown while it does not answer.

The poll itself is `tui.screens.base.EngineScreen.poll`.

The dashboard polls also for events, and does not subscribe to the engine's event stream. Each poll
asks for the engine's status anyway, so the stream would save one small answer every two seconds,
and only on two screens. It has no replay: after each broken connection the list must be fetched
again. With polling one path serves the first look, every later one and the time after a loss.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from textual.app import App

from entrepot.api.client import CacheClient
from entrepot.api.errors import ClientError
from entrepot.api.models import EngineStatus
from tui.outcome import DashboardOutcome

POLL_INTERVAL = 0.5
"""Seconds between two polls while something is being pulled. Twice a second is enough to watch, and
costs little over ssh."""

IDLE_POLL_INTERVAL = 2.0
"""Seconds between two polls while nothing is being pulled."""

RESPONSE_TIMEOUT = 3.0
"""Seconds after which a missing answer is shown as a lost connection. The poll itself goes on."""

RETRY_INTERVAL = 2.0
"""Seconds between two attempts to reach an engine whose connection was lost."""

Result = TypeVar("Result")


class EnginePolling(App[DashboardOutcome]):
    """An application whose screens poll an engine.

    Without an answer the last values stay.
    """

    def __init__(self, client: CacheClient, **options: Any) -> None:
        super().__init__(**options)
        self.client = client
        self.status: EngineStatus | None = None
        self.lost_since: float | None = None
        """Unix time since which the engine does not answer."""
        self._next_poll = 0.0

    @property
    def is_disconnected(self) -> bool:
        """Whether the engine did not answer the last poll."""
        return self.lost_since is not None

    @property
    def connection_alert(self) -> str:
        """Since when the engine does not answer, for the status line; empty while it does."""
        if self.lost_since is None:
            return ""
        since = time.strftime("%H:%M:%S", time.localtime(self.lost_since))
        return f"no answer from the engine since {since}"

    def record_status(self, status: EngineStatus) -> None:
        """Take an answer of the engine."""
        if self.is_disconnected:
            self.notify("The engine answers again.")
        self.status = status
        self.lost_since = None
        # The timers of the screens tick every POLL_INTERVAL; while nothing is pulled, most ticks
        # are skipped.
        self._next_poll = time.monotonic() + (
            IDLE_POLL_INTERVAL - POLL_INTERVAL / 2 if not status.pulls_running else 0.0
        )

    def record_loss(self, error: ClientError) -> None:
        """Note that the engine did not answer; the last values stay on the screen."""
        if self.lost_since is None:
            self.lost_since = time.time()
            self.notify(error.message, severity="error")
        self._next_poll = time.monotonic() + RETRY_INTERVAL

    def record_silence(self, since: float) -> None:
        """Note that the engine takes long to answer: it is stopped, or its disk hangs."""
        if self.lost_since is None:
            self.lost_since = since

    def is_poll_early(self) -> bool:
        """Whether it is too early for the next poll."""
        return time.monotonic() < self._next_poll

    def poll_now(self) -> None:
        """Poll at the next tick, even while nothing is being pulled."""
        self._next_poll = 0.0

    async def attempt(
        self, request: Awaitable[Result], *, shown_for: float | None = None
    ) -> Result | None:
        """The answer to *request*; None if it failed, which is shown for *shown_for* s."""
        try:
            return await request
        except ClientError as error:
            self.notify(error.message, severity="error", timeout=shown_for)
            return None

    async def succeeds(self, request: Awaitable[object]) -> bool:
        """Whether *request* succeeds; a failure is shown."""
        try:
            await request
        except ClientError as error:
            self.notify(error.message, severity="error")
            return False
        return True
