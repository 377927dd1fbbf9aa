"""Ended pulls, and what is known of them after a restart."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from entrepot.cache.pull import LayerProgress, Pull, PullProgress
from entrepot.cache.pull_history import MAX_AGE, MAX_PULLS, PullHistory
from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.rules import RuleDraft
from entrepot.core.states import LayerState, PullState
from entrepot.engine.api_models import pull_snapshot
from entrepot.engine.engine import Engine
from entrepot.errors import NotFound
from entrepot.store.catalog import Catalog
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import FakeRegistry

DATA = Path(__file__).parents[1] / "data"


def pull(number: int, ended: float, *layers: LayerProgress) -> PullProgress:
    return PullProgress(
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


LAYER = LayerProgress(
    digest="sha256:0", media_type="layer", size=5, received=5, state=LayerState.VERIFIED
)


async def over(engine: Engine, id: str) -> Pull:
    running = engine.cache.pulls.get(id)
    async with asyncio.timeout(30):
        await running.finished.wait()
    return running


async def test_after_a_restart_it_is_known_how_each_pull_ended(
    directories: Directories, settings: Settings, clock: Clock, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27", platforms=["linux/amd64"])
    async with Engine.open(directories, settings, clock=clock) as engine:
        await engine.rules.create(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
        )
        started = await engine.pulls.start("library/nginx:1.27", "linux/amd64", "dashboard")
        whole = pull_snapshot((await over(engine, started.id)).progress())
        started = await engine.pulls.start("library/none:1", "linux/amd64", "cli")
        failed = pull_snapshot((await over(engine, started.id)).progress())
        source.add_image("library/redis", "7", platforms=["linux/amd64"])
        gate = source.hold("library/redis/blobs/", after_bytes=10, method="GET")
        under_way = await engine.pulls.start("library/redis:7", "linux/amd64", "cli")
        async with asyncio.timeout(30):
            await gate.reached
    assert (whole.state, failed.state) == (PullState.COMPLETED, PullState.FAILED)
    async with Engine.open(directories, settings, clock=clock) as engine:
        listed = engine.pulls.list()
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
        assert await engine.pulls.get(whole.id) == whole
        assert await engine.pulls.cancel(whole.id) == whole
        with pytest.raises(NotFound):
            await engine.pulls.get("99")
        again = await engine.pulls.start("library/none:2", "linux/amd64", "cli")
        assert int(again.id) > int(under_way.id)


async def test_a_pull_that_has_just_ended_has_its_layers_before_it_is_written(
    tmp_path: Path, clock: Clock
) -> None:
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        history = PullHistory(catalog, clock)
        ended_pull = pull(1, clock.now, LAYER)
        history.add(ended_pull)
        assert await history.get("1") == ended_pull
        await history.write()
        assert await history.get("1") == ended_pull
        assert history.all()[0].layers == ()


async def test_a_thousand_are_kept_and_none_for_longer_than_30_days(
    tmp_path: Path, clock: Clock
) -> None:
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        history = PullHistory(catalog, clock)
        for number in range(1, MAX_PULLS + 11):
            history.add(pull(number, clock.now + number))
        await history.write()
        assert [len(history.all()), history.all()[-1].id, await history.get("10")] == [
            MAX_PULLS,
            "11",
            None,
        ]
        assert len(await catalog.ended_pulls(10 * MAX_PULLS)) == MAX_PULLS
        clock.now += MAX_AGE + MAX_PULLS
        assert [each.id for each in history.all()] == [
            str(number) for number in range(MAX_PULLS + 10, MAX_PULLS - 1, -1)
        ]
        history.add(pull(MAX_PULLS + 11, clock.now))
        await history.write()
        assert len(await catalog.ended_pulls(10 * MAX_PULLS)) == 12


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
        await catalog.record_ended_pulls({7: (clock.now, b"{}")}, keep=MAX_PULLS, since=0.0)
        history = PullHistory(catalog, clock)
        assert (await history.load(), history.all()) == (7, [])


async def test_an_engine_on_an_old_data_directory_has_its_ended_pulls(
    directories: Directories, settings: Settings, clock: Clock
) -> None:
    """The catalog and the API's answers about its pulls are those of an engine whose records were
    the API's JSON. It pulled an image, one that does not exist, and one until it was stopped."""
    directories.data.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(directories.data / "catalog.sqlite")) as connection:
        connection.executescript((DATA / "catalog-version-4.sql").read_text())
    answers = json.loads((DATA / "ended-pulls-version-1.json").read_text())
    async with Engine.open(directories, settings, clock=clock) as engine:
        pulls = [await engine.pulls.get(id) for id in ("3", "2", "1")]
        listing = engine.pulls.list()
    assert json.loads(msgspec.json.encode(pulls)) == answers
    assert [each.state for each in listing] == [
        PullState.CANCELLED,
        PullState.FAILED,
        PullState.COMPLETED,
    ]
    assert json.loads(msgspec.json.encode(listing)) == [{**each, "layers": []} for each in answers]


async def test_a_record_names_its_version_and_keeps_the_keys_of_the_first(
    tmp_path: Path, clock: Clock
) -> None:
    """So an engine of before reads it too."""
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        history = PullHistory(catalog, clock)
        history.add(pull(1, clock.now, LAYER))
        await history.write()
        [(_, content)] = await catalog.ended_pulls(1)
    record = json.loads(content)
    [first, *_] = json.loads((DATA / "ended-pulls-version-1.json").read_text())
    assert record["version"] == 2
    assert record.keys() == {*first, "version"}
    assert record["layers"][0].keys() == first["layers"][0].keys()


async def test_a_record_of_a_newer_version_is_left_out(tmp_path: Path, clock: Clock) -> None:
    async with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        history = PullHistory(catalog, clock)
        history.add(pull(1, clock.now))
        await history.write()
        [(_, content)] = await catalog.ended_pulls(1)
        newer = json.dumps({**json.loads(content), "version": 3}).encode()
        await catalog.record_ended_pulls({1: (clock.now, newer)}, keep=MAX_PULLS, since=0.0)
        restarted = PullHistory(catalog, clock)
        assert (await restarted.load(), restarted.all()) == (1, [])
