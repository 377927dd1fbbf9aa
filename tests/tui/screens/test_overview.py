"""Is the cache well, and what is it doing?"""

from __future__ import annotations

import pytest

from entrepot.api.models import ActivityCounts
from entrepot.core.states import PullState
from entrepot.engine.engine import Engine
from entrepot.formatting import size
from tests.conftest import Clock
from tests.fakes import FakeRegistry
from tests.tui.conftest import Person
from tests.tui.grid import lines, looks_like
from tests.tui.screens.test_events import EVENTS
from tests.tui.screens.test_pulls import some_pulls
from tests.tui.screens.test_sources import UPSTREAMS
from tests.tui.scripted import (
    NO_ACTIVITY,
    STATUS,
    ScriptedEngine,
    changed,
    look,
    nothing_painted,
    pull,
    scripted_dashboard,
)

SIZES = ((60, 15), (80, 24), (120, 40))


def busy() -> ScriptedEngine:
    buckets = tuple(
        changed(bucket, hits=max(0, number - 100) * 2, misses=number % 50)
        for number, bucket in enumerate(NO_ACTIVITY.buckets)
    )
    return ScriptedEngine(
        status=changed(
            STATUS,
            last_day=ActivityCounts(
                hits=20,
                misses=1,
                served=182_400_000_000,
                from_source=10_500_000_000,
                requests_saved=2310,
            ),
            notices=(
                'hub-login is unhealthy: docker.io answers "incorrect user name or password".',
            ),
        ),
        activity=changed(NO_ACTIVITY, buckets=buckets),
        pulls=some_pulls(),
        upstreams=UPSTREAMS,
        events=EVENTS,
    )


@pytest.mark.usefixtures("fixed_time")
@pytest.mark.parametrize("size", SIZES)
async def test_the_overview_looks_as_agreed(size: tuple[int, int]) -> None:
    async with scripted_dashboard(busy(), size=size) as person:
        await person.sees("2 running   84 MB/s", "Needs attention", "quay.io")
        await look(person)
        await looks_like(person.app, "overview")


@pytest.mark.usefixtures("fixed_time")
@pytest.mark.parametrize("size", SIZES)
async def test_a_new_engine_says_what_to_do_first(size: tuple[int, int]) -> None:
    new = ScriptedEngine(
        status=changed(STATUS, rules=0, repositories=0, blobs_size=0, credential_sets=0),
        upstreams=(),
    )
    async with scripted_dashboard(new, size=size) as person:
        await person.sees(
            "Nothing is being pulled.", "Get started", "Press n to create the first cache rule"
        )
        await looks_like(person.app, "overview-empty")


async def test_the_overview_tells_that_all_is_well(person: Person) -> None:
    await person.sees(
        "Nothing is being pulled.", "1 of 1,000 rules", "Healthy", "Nothing is cached yet."
    )


@pytest.mark.usefixtures("fixed_time")
async def test_in_ascii_no_other_character_is_used() -> None:
    async with scripted_dashboard(busy()) as person:
        person.app.add_class("-ascii")
        await person.sees("2 running")
        await look(person)
        assert "hits" in person.seen()
        assert all(ord(letter) < 128 for line in lines(person.app) for letter in line)


async def test_where_nothing_happens_nothing_is_painted_though_the_seconds_pass(
    fixed_time: Clock,
) -> None:
    engine = busy()
    engine.pulls = [each for each in some_pulls() if each.state.ended]
    async with scripted_dashboard(engine) as person:
        await person.sees("Nothing is being pulled.", "Needs attention")
        await look(person)
        before = person.seen()
        async with nothing_painted(person):
            for _ in range(3):
                fixed_time.now += 5
                await look(person)
        assert person.seen() == before


@pytest.mark.usefixtures("fixed_time")
async def test_a_look_asks_only_for_what_moves() -> None:
    engine = busy()
    async with scripted_dashboard(engine) as person:
        await person.sees("2 running", "Needs attention")
        await look(person)
        engine.asked.clear()
        await look(person)
        assert engine.asked["status"] == 1
        assert engine.asked["pulls?running=1"] == 1
        assert engine.asked["pulls"] == engine.asked["activity"] == 0
        engine.pulls = ()
        await look(person)
        await person.sees("Nothing is being pulled.")
        engine.asked.clear()
        await look(person)
        assert engine.asked["pulls?running=1"] == 0


@pytest.mark.usefixtures("fixed_time")
async def test_pulls_that_have_no_room_are_counted() -> None:
    engine = busy()
    engine.pulls = [pull(str(number), state=PullState.RUNNING) for number in range(20)]
    async with scripted_dashboard(engine) as person:
        await person.sees("20 running", "Needs attention", "more   20 running")
        visible = sum(
            "library/nginx:1.27" in line and "[####----]" in line for line in lines(person.app)
        )
        assert f"{20 - visible} more" in person.seen()
        assert visible >= 2


async def test_what_was_served_is_seen_after_a_while(
    person: Person, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27", layers=[300_000])
    started = await engine.pulls.start("library/nginx:1.27", "linux/amd64", "10.0.4.17")
    await engine.cache.pulls.get(started.id).finished.wait()
    await look(person)
    came = size((await engine.status.get()).blobs_size)
    await person.sees(
        f"from sources {came}", "The pull of library/nginx:1.27 linux/amd64 is completed"
    )
