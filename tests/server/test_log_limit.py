"""Log lines of one kind are bounded (S10, F92)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from entrepot.server import log_format
from entrepot.server.log_limit import INTERVAL, MAX_KINDS, MAX_LINES, MAX_TRACEBACKS, LogLimit
from tests.conftest import Clock


class Written(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def later() -> list[Callable[[], None]]:
    return []


@pytest.fixture
def logger(
    later: list[Callable[[], None]], clock: Clock
) -> Iterator[tuple[logging.Logger, list[str]]]:
    logger, handler = logging.getLogger("entrepot.test_limit"), Written()
    handler.addFilter(LogLimit(clock=clock, later=lambda seconds, call: later.append(call)))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield logger, handler.lines
    logger.removeHandler(handler)


def test_lines_of_one_kind_are_limited_and_then_counted(
    logger: tuple[logging.Logger, list[str]], later: list[Callable[[], None]], clock: Clock
) -> None:
    log, lines = logger
    for number in range(MAX_LINES + 7):
        log.warning("Client %d does it again.", number)
    log.warning("Another kind.")
    assert lines == [
        *(f"Client {number} does it again." for number in range(MAX_LINES)),
        "Another kind.",
    ]
    clock.now += INTERVAL
    [summarize] = later
    summarize()
    assert lines[-1].startswith("7 more lines like 'Client %d does it again.' were left out")
    log.warning("Client %d does it again.", 1)
    assert lines[-1] == "Client 1 does it again."


def test_tracebacks_are_limited_more_tightly(logger: tuple[logging.Logger, list[str]]) -> None:
    log, lines = logger
    for _ in range(100):
        try:
            raise ValueError
        except ValueError:
            log.exception("It failed.")
    assert len(lines) == MAX_TRACEBACKS


def test_after_an_interval_lines_are_written_again(
    logger: tuple[logging.Logger, list[str]], clock: Clock
) -> None:
    log, lines = logger
    for _ in range(3 * MAX_LINES):
        clock.now += INTERVAL / (MAX_LINES - 1)
        log.info("Now and then.")
    assert len(lines) == 3 * MAX_LINES


def test_kinds_of_events_have_a_limit_each(logger: tuple[logging.Logger, list[str]]) -> None:
    log, lines = logger
    for kind in ("pull-started", "pull-ended"):
        for _ in range(MAX_LINES + 1):
            log.info("%s", "It happened.", extra={"kind": kind})
    assert len(lines) == 2 * MAX_LINES


def test_what_is_remembered_of_kinds_is_bounded(logger: tuple[logging.Logger, list[str]]) -> None:
    log, _ = logger
    for number in range(3 * MAX_KINDS):
        log.info(f"Kind {number}")
    limit = next(each for each in log.handlers[0].filters if isinstance(each, LogLimit))
    assert len(limit._counts) <= MAX_KINDS + 1


def test_s10_the_engine_and_the_libraries_without_a_handler_share_the_limit() -> None:
    log_format.set_up_logging("plain")
    [handler] = logging.getLogger("entrepot").handlers
    last_resort = logging.lastResort
    assert last_resort is not None
    assert [type(each) for each in handler.filters] == [LogLimit]
    assert handler.filters == last_resort.filters
