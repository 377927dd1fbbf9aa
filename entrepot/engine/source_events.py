"""What the engine does when a source registry becomes unreachable or reachable."""

from __future__ import annotations

from entrepot.cache.cache import ArtifactCache
from entrepot.event_kinds import EventKind, Severity
from entrepot.events import EventLog
from entrepot.source.circuit_breaker import CircuitBreaker


class SourceEvents:
    """Records it, and lets the cache ask a source that answers again."""

    def __init__(self, cache: ArtifactCache, events: EventLog) -> None:
        self._cache = cache
        self._events = events

    def reachability_changed(self, breaker: CircuitBreaker) -> None:
        """A circuit breaker opened, because its source can't be reached, or closed."""
        if breaker.error is not None:
            self._events.record(
                EventKind.SOURCE_UNREACHABLE,
                f"{breaker.error.message} Until {breaker.login_server} answers again, only what is "
                "cached is served.",
                breaker.login_server,
                severity=Severity.WARNING,
            )
            return
        # What failed because the source did not answer may work now.
        self._cache.forget_failures()
        self._events.record(
            EventKind.SOURCE_REACHABLE,
            f"{breaker.login_server} ({breaker.origin.partition('://')[2]}) can be reached again.",
            breaker.login_server,
        )
