"""Signals, and an end that takes a bounded time (F79)."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from entrepot.server import shutdown
from entrepot.server.shutdown import NOT_IN_ORDER, Deadline, handle_signals

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "has_terminal", lambda: False)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "has_terminal", lambda: True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
async def test_f79_in_a_terminal_these_signals_end_the_engine(
    terminal: None, number: signal.Signals
) -> None:
    async with handle_signals(asyncio.Event()) as signals, asyncio.timeout(60):
        os.kill(os.getpid(), number)
        await signals.stopping.wait()
        assert not signals.asked_again.is_set()
        os.kill(os.getpid(), number)
        await signals.asked_again.wait()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
async def test_f79_in_a_service_these_signals_change_nothing_and_say_so(
    no_terminal: None, number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with handle_signals(asyncio.Event()) as signals, asyncio.timeout(60):
        os.kill(os.getpid(), number)
        while not caplog.messages:
            await asyncio.sleep(0)
        assert not signals.stopping.is_set()
    assert (
        "settings.toml and certificates are read at the start only: restart the engine for them."
        in caplog.text
    )


async def test_f79_hangup_that_is_ignored_at_the_start_stays_ignored(terminal: None) -> None:
    """nohup(1)."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        async with handle_signals(asyncio.Event()) as signals, asyncio.timeout(60):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            await signals.stopping.wait()
            assert not signals.asked_again.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_afterwards_signals_do_what_they_did_before(terminal: None) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(each) for each in numbers]
    async with handle_signals(asyncio.Event()):
        assert signal.getsignal(signal.SIGUSR1) is not before[-1]
    assert [signal.getsignal(each) for each in numbers] == before


class ProcessEnd:
    """What a deadline calls instead of ending the test."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.happened = threading.Event()

    def __call__(self, status: int) -> None:
        self.status = status
        self.happened.set()


def test_f79_an_end_that_takes_too_long_is_cut_and_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    process_end, log_texts = ProcessEnd(), []
    deadline = Deadline(0, end_process=process_end)
    deadline.reason = lambda: "The disk of /data has not answered for 30 s."
    deadline.flush_log = lambda: log_texts.append(caplog.text)
    deadline.begin()
    assert process_end.happened.wait(60)
    assert process_end.status == NOT_IN_ORDER
    assert (
        "The engine could not end in order. The disk of /data has not answered for 30 s. It ends "
        "now as in a power cut: the data on the disk is consistent." in log_texts[0]
    )


def test_f79_asked_again_an_engine_has_less_time(caplog: pytest.LogCaptureFixture) -> None:
    process_end = ProcessEnd()
    deadline = Deadline(10_000, end_process=process_end)
    deadline.begin()
    deadline.begin(20_000)
    deadline.begin(0)
    assert process_end.happened.wait(60)


def test_f79_before_its_end_has_begun_an_engine_has_all_the_time() -> None:
    process_end = ProcessEnd()
    Deadline(0, end_process=process_end)
    assert not [each for each in threading.enumerate() if each.name == "entrepot-deadline"]
    assert not process_end.happened.is_set()


def test_a_process_in_a_session_of_its_own_has_no_terminal() -> None:
    """setsid(2)."""
    code = "import sys; from entrepot.server.shutdown import has_terminal; sys.exit(has_terminal())"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=CHECKOUT, start_new_session=True, check=False
        ).returncode
        == 0
    )
