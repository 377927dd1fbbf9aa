"""Documents that are edited by hand, and use that is written down."""

from __future__ import annotations

import asyncio

import pytest

from entrepot.config.document_files import DocumentInvalid
from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER


async def test_a_hand_edit_is_picked_up(engine: Engine) -> None:
    edited = engine.directories.rules.read_text().replace("example-library", "edited-by-hand")
    engine.directories.rules.write_text(edited)
    async with asyncio.timeout(30):
        with engine.events.watching() as events:
            async for event in events:
                if event.kind == "documents-read":
                    break
    assert [rule.name for rule in await engine.rules.list()] == ["edited-by-hand"]


async def test_a_broken_hand_edit_is_refused_shown_and_not_overwritten(engine: Engine) -> None:
    engine.directories.rules.write_text("[[rules]\n")
    async with asyncio.timeout(30):
        with engine.events.watching() as events:
            async for event in events:
                if event.kind == "documents-refused":
                    break
    assert [rule.name for rule in await engine.rules.list()] == ["example-library"]
    assert any("rules.toml" in notice for notice in (await engine.status.get()).notices)
    with pytest.raises(DocumentInvalid):
        await engine.rules.create(RuleDraft("another-one", f"{LOGIN_SERVER}/other/*", "other/*"))
    assert engine.directories.rules.read_text() == "[[rules]\n"


def test_s19_the_same_failure_is_logged_once_and_another_one_again(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    for error in (OSError("disk"), OSError("disk"), ValueError("odd"), OSError("disk")):
        engine.bookkeeping.log_failure(error)
    messages = [record.message for record in caplog.records if "Bookkeeping" in record.message]
    assert messages == [
        "Bookkeeping failed; it is tried again every 2 s: disk",
        "Bookkeeping failed in an unforeseen way; it is tried again every 2 s",
        "Bookkeeping failed; it is tried again every 2 s: disk",
    ]


async def test_after_a_failure_the_bookkeeping_goes_on_and_says_so(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = 0
    worked = asyncio.Event()

    async def write_if_due() -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise OSError("disk")
        if attempts == 3:
            worked.set()

    monkeypatch.setattr("entrepot.engine.bookkeeping.INTERVAL", 0.0)
    monkeypatch.setattr(engine.traffic, "write_if_due", write_if_due)
    with caplog.at_level("INFO", "entrepot.engine"):
        running = asyncio.ensure_future(engine.bookkeeping.run())
        async with asyncio.timeout(30):
            await worked.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    messages = [record.message for record in caplog.records if "Bookkeeping" in record.message]
    assert messages == [
        "Bookkeeping failed; it is tried again every 0 s: disk",
        "Bookkeeping works again",
    ]
