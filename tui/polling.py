"""The engine, found and lost: when the screens ask it, and what is shown while it does not answer."""

from __future__ import annotations

import time
from typing import Any

from textual.app import App

from entrepot.api.client import ClientError
from entrepot.api.models import EngineStatus
from tui.quit import DashboardOutcome

POLL_INTERVAL = 0.5
"""Seconds between two looks at the engine while something moves: twice a second is enough to watch,
and costs little over ssh."""

IDLE_POLL_INTERVAL = 2.0
"""Seconds between two looks when nothing is being pulled."""

RESPONSE_TIMEOUT = 3.0
"""Seconds after which an answer that does not come is shown as missing; it is waited for all the
same."""

RETRY_INTERVAL = 2.0
"""Seconds between two tries to reach an engine that was lost."""


class EnginePolling(App[DashboardOutcome]):
    """An application whose screens look at an engine again and again. While none answers the last
    picture stays."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.status: EngineStatus | None = None
        self.lost_since: float | None = None
        self._next_look = 0.0

    @property
    def is_disconnected(self) -> bool:
        """Whether the engine has not answered the last time it was asked."""
        return self.lost_since is not None

    @property
    def connection_alert(self) -> str:
        """Since when there has been no answer, for the status line; empty while all is well."""
        return (
            f"no answer from the engine since {time.strftime('%H:%M:%S', time.localtime(self.lost_since))}"
            if self.lost_since is not None
            else ""
        )

    def record_status(self, status: EngineStatus) -> None:
        """The engine has answered."""
        if self.is_disconnected:
            self.notify("The engine answers again.")
        self.status = status
        self.lost_since = None
        # Where nothing moves, there is no need to look twice a second.
        self._next_look = time.monotonic() + (
            IDLE_POLL_INTERVAL - POLL_INTERVAL / 2 if not status.pulls_running else 0.0
        )

    def record_loss(self, error: ClientError) -> None:
        """The engine has not answered; the last picture stays on the screen."""
        if self.lost_since is None:
            self.lost_since = time.time()
            self.notify(error.message, severity="error")
        self._next_look = time.monotonic() + RETRY_INTERVAL

    def record_silence(self, moment: float) -> None:
        """The engine takes long to answer, as one does that is stopped or whose disk hangs."""
        if self.lost_since is None:
            self.lost_since = moment

    def is_poll_early(self) -> bool:
        """Whether it is too early to ask again."""
        return time.monotonic() < self._next_look

    def poll_now(self) -> None:
        """Ask at the next occasion, however quiet it was."""
        self._next_look = 0.0
