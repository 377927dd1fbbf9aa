"""A check of the doctor that fails itself is a finding, and stops no other (S27)."""

from __future__ import annotations

import pytest

from entrepot.api.models import Finding
from entrepot.core.states import Outcome
from entrepot.engine.findings import ok
from entrepot.engine.isolated_checks import isolated
from entrepot.errors import EngineError


async def test_a_check_may_be_a_coroutine_or_a_plain_function() -> None:
    finding = ok("docker.io", "name", "has 1 address")

    async def check() -> Finding:
        return finding

    assert await isolated("docker.io", "name", check) == finding
    assert await isolated("docker.io", "name", lambda: finding) == finding


async def test_an_error_with_advice_is_the_finding() -> None:
    def fail() -> Finding:
        raise EngineError("The catalog fails.", "Look at the disk.")

    finding = await isolated("this machine", "space", fail)
    assert (finding.outcome, finding.what, finding.advice) == (
        Outcome.FAILED,
        "The catalog fails.",
        "Look at the disk.",
    )


async def test_an_unforeseen_error_is_told_in_one_line_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> Finding:
        raise ValueError("odd \x1b[31m thing")

    finding = await isolated("docker.io", "registry", fail)
    assert finding.outcome is Outcome.FAILED
    assert finding.what == r"This could not be checked: ValueError: odd \x1b[31m thing."
    assert "failed in an unforeseen way" in caplog.text
