"""``entrepot pull`` and ``entrepot refresh`` on a real engine."""

from __future__ import annotations

import asyncio
import os

import pytest
from rich.cells import cell_len

from entrepot.api.models import PullSnapshot
from entrepot.cli.pulls import _progress
from entrepot.core.states import PullState
from entrepot.engine.engine import Engine
from tests.cli.conftest import PATIENCE, CommandLine
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry, Status


def _running(repository: str, tag: str) -> PullSnapshot:
    return PullSnapshot(
        id="1",
        repository=repository,
        tag=tag,
        digest=None,
        platform="linux/amd64",
        rule="example-library",
        login_server=LOGIN_SERVER,
        source_repository=repository,
        state=PullState.RUNNING,
        started=0.0,
        size=200_000_000,
        received=50_000_000,
        speed=10_000_000.0,
        time_left=15.0,
    )


async def test_a_tag_is_refreshed_and_it_is_told_what_became_of_it(
    entrepot: CommandLine, source: FakeRegistry
) -> None:
    old = source.add_image("library/nginx", "1", layers=[b"old"])
    assert (
        await entrepot.done("refresh", "library/nginx:1")
    ).output == f"library/nginx:1 is new here: it points to {old.digest}.\n"
    assert (
        await entrepot.done("refresh", "library/nginx:1")
    ).output == f"library/nginx:1 is unchanged at {LOGIN_SERVER}: {old.digest}.\n"
    new = source.add_image("library/nginx", "1", layers=[b"new"])
    assert (
        await entrepot.done("refresh", "library/nginx:1")
    ).output == f"library/nginx:1 has moved from {old.digest} to {new.digest}.\n"
    assert source.count("GET", "/blobs/") == 0
    source.remove_tag("library/nginx", "1")
    assert (
        (await entrepot.done("refresh", "library/nginx:1")).output
        == f"library/nginx:1 is gone at {LOGIN_SERVER}. What is cached of it stays: {new.digest}.\n"
    )
    await source.stop()
    result = await entrepot.run("refresh", "library/nginx:1")
    assert result.status == 1
    assert (
        f"library/nginx:1 stays at {new.digest}: {LOGIN_SERVER} (127.0.0.1) can't be reached"
        in result.output
    )
    by_digest = await entrepot.run("refresh", f"library/nginx@{new.digest}")
    assert (by_digest.status, "never changes" in by_digest.errors) == (1, True)


async def test_f74_a_platform_is_named_as_people_name_it(
    entrepot: CommandLine, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27", layers=[20_000])
    result = await entrepot.ask("pull", "library/nginx:1.27", "--platform", "AArch64")
    assert (result["state"], result["platform"], result["digest"]) == (
        "completed",
        "linux/arm64",
        str(image.platforms["linux/arm64"].digest),
    )
    refused = await entrepot.run("pull", "library/nginx:1.27", "--platform", "library/nginx:1.27")
    assert refused.status != 0
    assert (
        '"library/nginx:1.27" is not a platform. A platform is an operating system and an architecture, such as linux/amd64'
        in refused.errors
    )
    missing = await entrepot.run("pull", "library/nginx:1.27", "--platform", "linux/s390x")
    assert "has no image for linux/s390x. It has: linux/amd64, linux/arm64." in missing.errors


async def test_a_pull_ends_in_one_line_and_the_image_is_held(
    entrepot: CommandLine, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27", layers=[200_000, 50_000])
    size = image.platforms["linux/arm64"].size
    result = await entrepot.done("pull", "library/nginx:1.27", "--platform", "linux/arm64")
    assert result.output == ""
    last = result.errors.splitlines()[-1]
    assert last.startswith("library/nginx:1.27 linux/arm64: ")
    assert f"from {LOGIN_SERVER} in " in last
    again = await entrepot.done("pull", "library/nginx:1.27", "--platform", "linux/arm64")
    assert again.errors.endswith("all of it was cached already.\n")

    [listed] = await entrepot.ask("repository", "list")
    assert (listed["name"], listed["sourceRepository"], listed["rule"], listed["tags"]) == (
        "library/nginx",
        f"{LOGIN_SERVER}/library/nginx",
        "example-library",
        1,
    )
    assert listed["size"] >= size
    shown = await entrepot.ask("repository", "show", "library/nginx")
    assert shown["repository"].keys() == listed.keys()
    assert [(tag["name"], tag["platforms"], tag["gone"]) for tag in shown["tags"]] == [
        ("1.27", ["linux/arm64"], False)
    ]
    assert (
        (await entrepot.done("repository", "list"))
        .output.splitlines()[1]
        .startswith(f"library/nginx  {LOGIN_SERVER}/library/nginx  example-library  ")
    )
    assert (
        "1.27  linux/arm64  " in (await entrepot.done("repository", "show", "library/nginx")).output
    )

    await entrepot.done("repository", "delete", "library/nginx", "--yes")
    assert await entrepot.ask("repository", "list") == []


async def test_a_pull_in_json_is_its_last_picture(
    entrepot: CommandLine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27")
    document = await entrepot.ask("pull", "library/nginx:1.27", "--platform", "linux/amd64")
    assert (document["state"], document["repository"], document["tag"], document["askedBy"]) == (
        "completed",
        "library/nginx",
        "1.27",
        ["cli"],
    )
    assert document["received"] == document["size"] > 0
    assert {layer["state"] for layer in document["layers"]} == {"verified"}


async def test_progress_is_told_in_lines_where_there_is_no_terminal(
    entrepot: CommandLine, source: FakeRegistry
) -> None:
    layer = (
        source.add_image("library/nginx", "1.27", layers=[os.urandom(500_000)])
        .platforms["linux/amd64"]
        .layers[0]
    )
    gate = source.hold(str(layer.digest), after_bytes=200_000, method="GET")
    process = await entrepot.start("pull", "library/nginx:1.27", "--platform", "linux/amd64")
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        line = (await process.stderr.readline()).decode()
        assert line.startswith("library/nginx:1.27 [")
        assert "\r" not in line
        assert "\x1b" not in line
        await gate.reached
        gate.open()
        _, rest = await process.communicate()
    assert process.returncode == 0
    assert rest.decode().splitlines()[-1].startswith("library/nginx:1.27 linux/amd64: ")


async def test_a_pull_of_an_unknown_tag_fails(entrepot: CommandLine, source: FakeRegistry) -> None:
    source.add_image("library/nginx", "1.27")
    result = await entrepot.run("pull", "library/nginx:9.99")
    assert (result.status, result.output) == (1, "")
    assert "9.99" in result.errors


async def test_a_pull_of_a_platform_that_the_image_does_not_have_fails(
    entrepot: CommandLine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27")
    result = await entrepot.run("pull", "library/nginx:1.27", "--platform", "linux/s390x")
    assert (result.status, result.output) == (1, "")
    assert result.errors.startswith("Error: ")
    assert "linux/s390x" in result.errors


async def test_a_pull_that_the_source_refuses_fails_with_its_reason(
    entrepot: CommandLine, source: FakeRegistry
) -> None:
    layer = source.add_image("library/nginx", "1.27").platforms["linux/amd64"].layers[0]
    source.fault(str(layer.digest), Status(403), method="GET")
    result = await entrepot.run("pull", "library/nginx:1.27", "--platform", "linux/amd64", "--json")
    assert result.status == 1
    assert result.document["state"] == "failed"
    assert result.errors.startswith("Error: the pull of library/nginx:1.27 failed: ")
    assert result.errors.endswith("(SourceRefused)\n")


async def test_ctrl_c_leaves_the_pull_to_the_engine(
    entrepot: CommandLine, engine: Engine, source: FakeRegistry
) -> None:
    layer = (
        source.add_image("library/nginx", "1.27", layers=[os.urandom(500_000)])
        .platforms["linux/amd64"]
        .layers[0]
    )
    gate = source.hold(str(layer.digest), after_bytes=200_000, method="GET")
    process = await entrepot.start("pull", "library/nginx:1.27", "--platform", "linux/amd64")
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        await gate.reached
        await process.stderr.readline()
        process.send_signal(2)
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert (
        "The pull continues in the engine. The dashboard lists it under Pulls, where x cancels it."
        in errors.decode()
    )
    assert "Traceback" not in errors.decode()
    [pull] = engine.cache.pulls.all()
    assert not pull.state.ended
    gate.open()
    async with asyncio.timeout(PATIENCE):
        await pull.finished.wait()
    assert pull.state is PullState.COMPLETED


def test_progress_shows_share_speed_and_time_left() -> None:
    assert (
        _progress(_running("library/nginx", "1.27"))
        == "library/nginx:1.27 [######------------------]  25%  50.0 MB of 200.0 MB  10.0 MB/s  15 s left"
    )


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (
            200,
            "library/nginx:1.27 [######------------------]  25%  50.0 MB of 200.0 MB  10.0 MB/s  15 s left",
        ),
        (79, "library/nginx:1.27 [##--------]  25%  50.0 MB of 200.0 MB  10.0 MB/s  15 s left"),
        (70, "library/nginx:1.27  25%  50.0 MB of 200.0 MB  10.0 MB/s  15 s left"),
        (60, "...ginx:1.27  25%  50.0 MB of 200.0 MB  10.0 MB/s  15 s left"),
    ],
)
def test_progress_fits_into_the_terminal(columns: int, line: str) -> None:
    assert _progress(_running("library/nginx", "1.27"), columns) == line


@pytest.mark.parametrize("columns", range(50, 120, 3))
def test_progress_of_a_name_with_wide_characters_fits_too(columns: int) -> None:
    """F89: a line beyond the last column could not be drawn over."""
    assert cell_len(_progress(_running("層" * 12, "1.27"), columns)) <= columns


def test_progress_is_never_longer_than_the_terminal_is_wide() -> None:
    for pull in (
        _running("a", "1"),
        _running("acme/a-repository-with-a-long-name/of-several-parts", "2026.11.24-nightly"),
    ):
        for columns in range(20, 140):
            assert len(_progress(pull, columns)) <= columns


async def test_in_a_terminal_progress_stays_on_its_line(
    entrepot: CommandLine, source: FakeRegistry
) -> None:
    name = "library/" + "long-" * 14 + "name"
    layer = (
        source.add_image(name, "1.27", layers=[os.urandom(500_000)])
        .platforms["linux/amd64"]
        .layers[0]
    )
    gate = source.hold(str(layer.digest), after_bytes=200_000, method="GET")
    running = asyncio.create_task(
        entrepot.in_terminal("pull", f"{name}:1.27", "--platform", "linux/amd64", columns=80)
    )
    async with asyncio.timeout(PATIENCE):
        await gate.reached
        gate.open()
        status, output = await running
    assert status == 0
    *drawn, last = output.removesuffix("\n").removeprefix("\r").split("\r")
    assert drawn
    assert "\n" not in output.removesuffix("\n")
    assert max(len(each.removesuffix("\x1b[K")) for each in drawn) <= 79
    assert last.startswith(f"{name}:1.27 linux/amd64: ")


async def test_f58_a_pull_with_its_referrers_says_what_can_not_be_fetched(
    entrepot: CommandLine, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1", layers=[b"layer"], platforms=["linux/amd64"])
    arguments = ("pull", "library/nginx:1", "--platform", "amd64", "--referrers")
    await entrepot.done(*arguments)
    assert source.count("GET", f"/referrers/{image.digest}") == 1
    source.add_image("library/nginx", "1", layers=[b"other"], platforms=["linux/amd64"])
    source.fault("/referrers/", Status(500))
    result = await entrepot.run(*arguments)
    assert result.status == 1
    assert "The image is cached, but not all that refers to it: " in result.errors
