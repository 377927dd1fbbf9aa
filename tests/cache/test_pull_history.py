"""Ended pulls, and what is known of them after a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from entrepot.api.models import LayerSnapshot, PullSnapshot
from entrepot.cache.pull import Pull
from entrepot.cache.pull_history import KEPT, KEPT_FOR, PullHistory
from entrepot.config.settings import Directories, Settings
from entrepot.core.rules import RuleDraft
from entrepot.core.states import LayerState, PullState
from entrepot.engine.engine import Engine
from entrepot.errors import NotFound
from entrepot.store.catalog import Catalog
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import FakeRegistry


def pull(number: int, ended: float, *layers: LayerSnapshot) -> PullSnapshot:
    return PullSnapshot(
        id=str(number),
        repository="library/nginx",
        tag="1",
        digest=None,
        platform=None,
        rule="example-library",
        login_server=LOGIN_SERVER,
        source_repository=f"{LOGIN_SERVER}/library/nginx",
        state=PullState.FAILED,
        started=ended - 1.0,
        ended=ended,
        layers=layers,
        layer_count=len(layers),
        error_code="SourceUnreachable",
        error_message="It does not answer.",
    )


LAYER = LayerSnapshot(
    digest="sha256:0", media_type="layer", size=5, received=5, state=LayerState.VERIFIED
)


async def over(engine: Engine, id: str) -> Pull:
    running = engine.cache.pulls.get(id)
    async with asyncio.timeout(30):
        await running.over.wait()
    return running


async def test_after_a_restart_it_is_known_how_each_pull_ended(
    directories: Directories, settings: Settings, clock: Clock, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27", platforms=["linux/amd64"])
    async with Engine.open(directories, settings, clock=clock) as engine:
        await engine.create_rule(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
        )
        whole = (
            await over(
                engine,
                (await engine.start_pull("library/nginx:1.27", "linux/amd64", "dashboard")).id,
            )
        ).snapshot()
        failed = (
            await over(engine, (await engine.start_pull("library/none:1", "linux/amd64", "cli")).id)
        ).snapshot()
        source.add_image("library/redis", "7", platforms=["linux/amd64"])
        gate = source.hold("library/redis/blobs/", after_bytes=10, method="GET")
        under_way = await engine.start_pull("library/redis:7", "linux/amd64", "cli")
        async with asyncio.timeout(30):
            await gate.reached
    assert (whole.state, failed.state) == (PullState.COMPLETED, PullState.FAILED)
    async with Engine.open(directories, settings, clock=clock) as engine:
        listed = engine.pull_snapshots()
        assert [each.id for each in listed] == [under_way.id, failed.id, whole.id]
        assert [each.state for each in listed] == [
            PullState.CANCELLED,
            PullState.FAILED,
            PullState.COMPLETED,
        ]
        assert [each.layers for each in listed] == [(), (), ()]
        assert listed[2].layer_count == len(whole.layers) > 0
        assert (listed[1].error_code, listed[1].error_message, listed[1].asked_by) == (
            failed.error_code,
            failed.error_message,
            ("cli",),
        )
        assert await engine.pull_snapshot(whole.id) == whole
        assert await engine.cancel_pull(whole.id) == whole
        with pytest.raises(NotFound):
            await engine.pull_snapshot("99")
        again = await engine.start_pull("library/none:2", "linux/amd64", "cli")
        assert int(again.id) > int(under_way.id)


async def test_a_pull_that_has_just_ended_has_its_layers_before_it_is_written(
    tmp_path: Path, clock: Clock
) -> None:
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        history = PullHistory(catalog, clock)
        ended = pull(1, clock.now, LAYER)
        history.add(ended)
        assert await history.get("1") == ended
        await history.write()
        assert await history.get("1") == ended
        assert history.all()[0].layers == ()


async def test_a_thousand_are_kept_and_none_for_longer_than_30_days(
    tmp_path: Path, clock: Clock
) -> None:
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        history = PullHistory(catalog, clock)
        for number in range(1, KEPT + 11):
            history.add(pull(number, clock.now + number))
        await history.write()
        assert [len(history.all()), history.all()[-1].id, await history.get("10")] == [
            KEPT,
            "11",
            None,
        ]
        assert len(await catalog.ended_pulls(10 * KEPT)) == KEPT
        clock.now += KEPT_FOR + KEPT
        assert [each.id for each in history.all()] == [
            str(number) for number in range(KEPT + 10, KEPT - 1, -1)
        ]
        history.add(pull(KEPT + 11, clock.now))
        await history.write()
        assert len(await catalog.ended_pulls(10 * KEPT)) == 12


async def test_what_could_not_be_written_is_written_the_next_time(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        history = PullHistory(catalog, clock)
        history.add(pull(1, clock.now, LAYER))
        with monkeypatch.context() as patched:

            async def fail(*_: object, **__: object) -> None:
                raise OSError("No space left on device")

            patched.setattr(catalog, "record_ended_pulls", fail)
            with pytest.raises(OSError, match="No space left"):
                await history.write()
        await history.write()
        assert await catalog.last_ended_pull() == 1


async def test_a_pull_that_can_not_be_read_is_left_out(tmp_path: Path, clock: Clock) -> None:
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        await catalog.record_ended_pulls({7: (clock.now, b"{}")}, keep=KEPT, since=0.0)
        history = PullHistory(catalog, clock)
        assert (await history.load(), history.all()) == (7, [])
