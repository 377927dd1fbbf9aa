"""A command that is ended by a signal cleans up."""

from __future__ import annotations

import os
import signal

import pytest

from entrepot.cli.signals import exit_on_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_program_as_an_exception_does(number: signal.Signals) -> None:
    cleaned_up = []

    def work() -> None:
        with exit_on_signals():
            try:
                os.kill(os.getpid(), number)
            finally:
                # A second signal must not interrupt the clean-up.
                os.kill(os.getpid(), number)
                cleaned_up.append(number)

    with pytest.raises(SystemExit) as ended:
        work()
    assert (cleaned_up, ended.value.code) == ([number], 128 + number)


def test_the_handlers_before_it_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with exit_on_signals():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with exit_on_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
