"""Documents that are edited by hand, and use that is written down."""

from __future__ import annotations

import asyncio

import pytest

from entrepot.config.documents import DocumentInvalid
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
