"""An engine that says what a test wants it to say, look by look: pictures with times and speeds
that no real engine would repeat."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from entrepot.api.client import CacheClient
from entrepot.api.models import (
    Activity,
    ActivityBucket,
    ActivityCounts,
    CheckedRule,
    DoctorReport,
    EngineStatus,
    Event,
    LayerSnapshot,
    PullSnapshot,
    RuleSnapshot,
    SourceRegistrySnapshot,
)
from entrepot.core.states import LayerState, PullState, SignIn
from tests.tui.conftest import Person
from tui.app import Dashboard

T = TypeVar("T", bound=msgspec.Struct)

NOW = 1_780_000_000.0
"""Thursday, 28 May 2026, 20:26:40 UTC."""

NOTHING_WRONG = CheckedRule(
    source_repository=None, login_server=None, sign_in=None, proposed_target=None
)
"""Of a rule of which nothing is written yet."""

LAYER = LayerSnapshot(
    digest="sha256:" + "a" * 64,
    media_type="application/vnd.oci.image.layer.v1.tar+gzip",
    size=1000,
    received=500,
    state=LayerState.RUNNING,
)
PULL = PullSnapshot(
    id="1",
    repository="library/nginx",
    tag="1.27",
    digest="sha256:" + "b" * 64,
    platform="linux/amd64",
    rule="hub-library",
    login_server="docker.io",
    source_repository="docker.io/library/nginx",
    state=PullState.RUNNING,
    started=NOW - 10,
    layers=(LAYER,),
    size=1000,
    received=500,
    speed=31_000_000,
    time_left=4.0,
    asked_by=("10.0.4.17", "10.0.4.18", "cli"),
)
STATUS = EngineStatus(
    version="1",
    address="127.0.0.1:5000",
    started=NOW - 3600,
    rules=12,
    rules_limit=1000,
    credential_sets=1,
    repositories=37,
    blobs_size=41_200_000_000,
    space_free=210_000_000_000,
    space_limit=80_000_000_000,
    pulls_running=0,
    speed=0.0,
    served=182_400_000_000,
    from_source=10_500_000_000,
)
NO_ACTIVITY = Activity(
    interval=300.0,
    buckets=tuple(ActivityBucket(began=NOW - 300.0 * step) for step in reversed(range(288))),
    total=ActivityCounts(),
)
ALL_WELL = DoctorReport(findings=())
UPSTREAM = SourceRegistrySnapshot(
    name="Docker Hub", login_server="docker.io", sign_in=SignIn.REQUIRED, rules=2, reachable=True
)


def changed(picture: T, **changes: Any) -> T:
    """A picture in which something is different."""
    return msgspec.structs.replace(picture, **changes)


def pull(id: str, **changes: Any) -> PullSnapshot:
    """A pull under way, unless told otherwise."""
    return changed(PULL, id=id, **changes)


@dataclass
class ScriptedEngine:
    """What the engine answers; each answer may be changed between two looks. *asked* counts the
    requests by path."""

    status: EngineStatus = STATUS
    pulls: Sequence[PullSnapshot] = ()
    upstreams: Sequence[SourceRegistrySnapshot] = (UPSTREAM,)
    events: Sequence[Event] = ()
    rules: Sequence[RuleSnapshot] = ()
    activity: Activity = NO_ACTIVITY
    examination: DoctorReport = ALL_WELL
    asked: Counter[str] = field(default_factory=Counter)
    before_status: Callable[[ScriptedEngine], None] = lambda _: None
    """Called at the beginning of every look."""

    def client(self) -> CacheClient:
        """A client of it."""
        return CacheClient.of_app(self)

    def _answer(self, path: str) -> Any:
        if path == "status":
            self.before_status(self)
            running = sum(not each.state.ended for each in self.pulls)
            return changed(
                self.status, pulls_running=running, speed=sum(each.speed for each in self.pulls)
            )
        if path.startswith("pulls/"):
            return next(each for each in self.pulls if each.id == path.removeprefix("pulls/"))
        if path == "pulls?running=1":
            return [each for each in self.pulls if not each.state.ended]
        if path.startswith("events?recent=1"):
            return self.events
        if path.startswith("doctor"):
            return self.examination
        if path == "checks/cacheRule":
            return NOTHING_WRONG
        return {
            "pulls": self.pulls,
            "upstreams": self.upstreams,
            "activity": self.activity,
            "rules": self.rules,
        }[path]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        path = scope["path"].removeprefix("/entrepot/v1/")
        if query := scope["query_string"].decode():
            path = f"{path}?{query}"
        self.asked[path] += 1
        body = msgspec.json.encode(self._answer(path))
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"application/json")],
            }
        )
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def scripted_dashboard(
    engine: ScriptedEngine, *, size: tuple[int, int] = (80, 24)
) -> AsyncIterator[Person]:
    """A user at a dashboard of it."""
    async with engine.client() as client:
        app = Dashboard(client)
        async with app.run_test(size=size, notifications=True) as pilot:
            person = Person(app, pilot)
            await person.sees("entrepot  127.0.0.1")
            yield person


async def look(person: Person) -> None:
    """Have the screen look at the engine once, and wait until it has shown what it saw."""
    await settled(person)
    person.app.poll_now()
    person.app.screen.poll()  # type: ignore[attr-defined]
    await settled(person)


async def settled(person: Person) -> None:
    """Wait for the look that is under way."""
    looking = [worker for worker in person.app.workers if worker.group == "poll"]
    if looking:
        await person.app.workers.wait_for_complete(looking)
    await person.pilot.pause()


@asynccontextmanager
async def nothing_painted(person: Person) -> AsyncIterator[None]:
    """Within it the terminal may be sent nothing. It begins when all is painted that came before."""
    painted: list[object] = []
    display = person.app._display

    def record(*arguments: Any) -> None:
        painted.append(arguments)
        display(*arguments)

    person.app._display = record  # type: ignore[method-assign,assignment]
    try:
        async with asyncio.timeout(60):
            is_painting = True
            while is_painting:
                painted.clear()
                await asyncio.sleep(0.1)
                is_painting = bool(painted)
        yield
    finally:
        person.app._display = display  # type: ignore[method-assign]
    assert painted == []
