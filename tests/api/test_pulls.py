"""Following a pull until it has ended."""

from __future__ import annotations

import httpx
import msgspec

from entrepot.api.models import PullSnapshot
from entrepot.core.states import PullState
from tests.api.fakes import client_of

PULL = PullSnapshot(
    id="1",
    repository="library/nginx",
    tag="1.27",
    digest=None,
    platform="linux/amd64",
    rule="hub",
    login_server="docker.io",
    source_repository="docker.io/library/nginx",
    state=PullState.RUNNING,
    started=0.0,
)


async def test_a_pull_is_followed_until_it_has_ended() -> None:
    states = [PullState.WAITING, PullState.RUNNING, PullState.FAILED, PullState.COMPLETED]
    answers = iter([msgspec.structs.replace(PULL, state=state) for state in states])

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=msgspec.json.encode(next(answers)))

    async with client_of(answer) as client:
        followed = [pull.state async for pull in client.pulls.follow("1", interval=0.0)]
    assert followed == states[:3]


async def test_a_pull_is_started_for_the_engine_s_platform_and_the_command_line() -> None:
    bodies = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(msgspec.json.decode(request.content))
        return httpx.Response(201, content=msgspec.json.encode(PULL))

    async with client_of(answer) as client:
        await client.pulls.start("library/nginx:1.27")
    assert bodies == [{"image": "library/nginx:1.27", "platform": None, "askedBy": "cli"}]
