"""``entrepot export``, ``entrepot import`` and ``entrepot inventory`` on real engines."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from entrepot.api.client import CacheClient
from entrepot.api.errors import EngineRefused
from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.media_types import OCI_INDEX
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from entrepot.server.run import registry_app
from tests.cli.conftest import PATIENCE, CommandLine
from tests.conftest import LOGIN_SERVER, Clock, answering
from tests.documents import block
from tests.fakes import FakeImage, FakeRegistry
from tests.server.cached_images import cache
from tests.test_documents_examples import DIFFERENCE, EXPORT, FOR_DOCKER, IMPORT, INVENTORY

NGINX = Repository("library/nginx")
AMD64 = "linux/amd64"


class Site:
    """A site without a network: an engine and its command line."""

    def __init__(self, engine: Engine, line: CommandLine) -> None:
        self.engine = engine
        self.line = line

    async def get(self, path: str) -> httpx.Response:
        """What a container client gets."""
        transport = httpx.ASGITransport(registry_app(self.engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://entrepot") as client:
            return await client.get(path)

    async def repositories(self) -> list[str]:
        """What the catalog of the registry lists."""
        names: list[str] = (await self.get("/v2/_catalog")).json()["repositories"]
        return names


@pytest.fixture
async def island(tmp_path: Path, settings: Settings, clock: Clock) -> AsyncIterator[Site]:
    root = tmp_path / "i"
    root.mkdir()
    directories = Directories(
        root / "c/entrepot", root / "d/entrepot", root / "r/entrepot", root / "s/entrepot/log"
    )
    line = CommandLine(root)
    async with Engine.open(directories, settings, clock=clock) as engine:
        await engine.rules.create(
            RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
        )
        async with answering(engine):
            yield Site(engine, line)
            await line.close()


@pytest.fixture
async def image(entrepot: CommandLine, engine: Engine, source: FakeRegistry) -> FakeImage:
    return (await cache(engine, source, "library/nginx:1.27"))[0]


def layout(directory: Path) -> Any:
    return json.loads((directory / "index.json").read_text())


def blobs(directory: Path) -> set[str]:
    return {path.name for path in (directory / "blobs/sha256").iterdir()}


async def test_an_image_goes_to_another_site_in_a_directory(
    entrepot: CommandLine,
    island: Site,
    image: FakeImage,
    source: FakeRegistry,
    engine: Engine,
    tmp_path: Path,
) -> None:
    target = tmp_path / "out"
    done = await entrepot.done("export", "library/nginx:1.27", f"{target}/")
    amd64 = image.platforms[AMD64]
    assert "1 image exported" in done.errors
    assert "linux/arm64" in done.errors
    assert blobs(target) == {
        content.digest.hex for content in (image.manifest, amd64.manifest, *amd64.blobs)
    }
    [entry] = layout(target)["manifests"]
    annotations = entry["annotations"]
    assert annotations["org.opencontainers.image.ref.name"] == "library/nginx:1.27"
    assert annotations["io.containerd.image.name"] == f"{LOGIN_SERVER}/library/nginx:1.27"
    assert json.loads((target / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    await source.stop()
    summary = await island.line.ask("import", str(target))
    assert [entry["outcome"] for entry in summary["images"]] == ["imported"]
    assert summary["blobs"] == 2
    assert (await island.get("/v2/library/nginx/manifests/1.27")).content == image.manifest.content
    for blob in amd64.blobs:
        got = await island.get(f"/v2/library/nginx/blobs/{blob.digest}")
        assert got.content == blob.content
    assert await island.engine.catalog.tag_state(
        NGINX, Tag("1.27")
    ) == await engine.catalog.tag_state(NGINX, Tag("1.27"))
    again = await island.line.ask("import", str(target))
    assert (again["blobs"], again["images"][0]["outcome"]) == (0, "unchanged")


@pytest.mark.parametrize("target", ["out.tar", "oci-archive:out", "docker-archive:out.tar"])
async def test_an_image_goes_to_another_site_in_a_tar_file(
    target: str, entrepot: CommandLine, island: Site, image: FakeImage, source: FakeRegistry
) -> None:
    await entrepot.done("export", "library/nginx:1.27", target)
    path = entrepot.root / target.rpartition(":")[2]
    with tarfile.open(path) as tar:
        names = tar.getnames()
    assert {"oci-layout", "index.json"} <= set(names)
    assert ("manifest.json" in names) == target.startswith("docker")
    await source.stop()
    await island.line.done("import", str(path))
    manifest = await island.get("/v2/library/nginx/manifests/1.27")
    # docker has no indexes: there the tag leads to the image itself.
    expected = image.platforms[AMD64].manifest if target.startswith("docker") else image.manifest
    assert manifest.content == expected.content


async def test_a_platform_in_a_tar_file_of_docker_leaves_an_index_here(
    entrepot: CommandLine, island: Site, image: FakeImage, source: FakeRegistry
) -> None:
    await island.get("/v2/library/nginx/manifests/1.27")
    before = await island.engine.catalog.tag_state(NGINX, Tag("1.27"))
    assert before is not None
    await entrepot.done("export", "library/nginx:1.27", "docker-archive:out.tar")
    path = entrepot.root / "out.tar"
    with tarfile.open(path) as tar:
        file = tar.extractfile("index.json")
        assert file is not None
        [entry] = json.loads(file.read())["manifests"]
    assert entry["digest"] == str(image.platforms[AMD64].manifest.digest)
    assert not any(name.startswith("vnd.entrepot.tag.") for name in entry["annotations"])
    await source.stop()
    [imported] = (await island.line.ask("import", str(path)))["images"]
    assert (imported["digest"], imported["outcome"]) == (entry["digest"], "index-here")
    after = await island.engine.catalog.tag_state(NGINX, Tag("1.27"))
    assert after is not None
    # Its last pull is written in the background.
    assert (after[0], after[1].checked) == (before[0], before[1].checked)
    assert (await island.get("/v2/library/nginx/manifests/1.27")).content == image.manifest.content
    layer = image.platforms[AMD64].layers[0]
    got = await island.get(f"/v2/library/nginx/blobs/{layer.digest}")
    assert got.content == layer.content


async def test_all_that_a_rule_has_goes_out_and_what_is_there_already_stays(
    entrepot: CommandLine, engine: Engine, source: FakeRegistry, image: FakeImage, tmp_path: Path
) -> None:
    await cache(engine, source, "library/redis:7")
    target = tmp_path / "out"
    await entrepot.done("export", "library/nginx:1.27", f"oci:{target}")
    summary = await entrepot.ask("export", "--rule", "Example-Library", f"{target}")
    assert sorted(summary["images"]) == ["library/nginx:1.27", "library/redis:7"]
    assert (summary["blobs"], summary["present"]) == (2, 2)
    assert len(layout(target)["manifests"]) == 2


async def test_only_what_the_other_site_does_not_have_goes_out(
    entrepot: CommandLine,
    island: Site,
    engine: Engine,
    source: FakeRegistry,
    image: FakeImage,
    tmp_path: Path,
) -> None:
    await entrepot.done("export", "library/nginx:1.27", f"{tmp_path}/first/")
    await island.line.done("import", f"{tmp_path}/first")
    inventory = tmp_path / "there.jsonl"
    inventory.write_text((await island.line.done("inventory")).output)
    base = image.platforms[AMD64].layers[0].content
    source.add_image("library/app", "1", layers=[base, b"on top of it"], platforms=[AMD64])
    pull = await engine.pulls.start("library/app:1", AMD64, "test")
    await engine.cache.pulls.get(pull.id).finished.wait()
    summary = await entrepot.ask(
        "export", "library/app:1", f"{tmp_path}/second/", "--missing-from", str(inventory)
    )
    assert (summary["blobs"], summary["atOtherEnd"]) == (2, 1)
    assert Digest.of(base).hex not in blobs(tmp_path / "second")
    await source.stop()
    await island.line.done("import", f"{tmp_path}/second")
    got = await island.get(f"/v2/library/app/blobs/{Digest.of(base)}")
    assert got.content == base


async def test_a_difference_that_lacks_too_much_is_refused_and_sets_no_tag(
    entrepot: CommandLine, island: Site, image: FakeImage, tmp_path: Path
) -> None:
    inventory = tmp_path / "wrong.jsonl"
    inventory.write_text((await entrepot.done("inventory")).output)
    await entrepot.done(
        "export", "library/nginx:1.27", f"{tmp_path}/out/", "--missing-from", str(inventory)
    )
    refused = await island.line.run("import", f"{tmp_path}/out")
    assert refused.status == 1
    assert "neither in the archive nor cached here" in refused.errors
    assert "--missing-from" in refused.errors
    assert await island.engine.catalog.tag_state(NGINX, Tag("1.27")) is None
    assert await island.repositories() == []


async def test_a_killed_export_goes_on_with_the_part_of_a_blob(
    entrepot: CommandLine, engine: Engine, source: FakeRegistry, tmp_path: Path
) -> None:
    content = os.urandom(6_000_000)
    image = source.add_image("library/big", "1", layers=[content], platforms=[AMD64])
    layer = image.platforms[AMD64].layers[0]
    gate = source.hold(str(layer.digest), after_bytes=3_000_000, method="GET")
    target = tmp_path / "out"
    process = await entrepot.start("export", "library/big:1", f"{target}/", "--platform", AMD64)
    await gate.reached
    part = target / ".entrepot-parts" / f"sha256-{layer.digest.hex}"
    async with asyncio.timeout(PATIENCE):
        while not part.exists() or part.stat().st_size < 2_000_000:
            await asyncio.sleep(0.01)
    process.kill()
    await process.wait()
    assert not (target / "index.json").exists()
    before = part.stat().st_size
    gate.open()
    done = await entrepot.done("export", "library/big:1", f"{target}/", "--platform", AMD64)
    assert "1 image exported" in done.errors
    assert before >= 2_000_000
    assert (target / "blobs/sha256" / layer.digest.hex).read_bytes() == content
    assert not (target / ".entrepot-parts").exists()


async def test_a_killed_export_to_a_tar_file_goes_on_with_the_whole_blobs(
    entrepot: CommandLine, source: FakeRegistry, tmp_path: Path
) -> None:
    first, second = os.urandom(2_000_000), os.urandom(2_000_001)
    image = source.add_image("library/big", "1", layers=[first, second], platforms=[AMD64])
    layers = image.platforms[AMD64].layers
    gate = source.hold(str(layers[1].digest), after_bytes=1_000_000, method="GET")
    target = tmp_path / "out.tar"
    process = await entrepot.start("export", "library/big:1", str(target), "--platform", AMD64)
    await gate.reached
    part = tmp_path / "out.tar.part"
    async with asyncio.timeout(PATIENCE):
        while not part.exists() or part.stat().st_size < 2_500_000:
            await asyncio.sleep(0.01)
    process.kill()
    await process.wait()
    gate.open()
    summary = await entrepot.ask("export", "library/big:1", str(target), "--platform", AMD64)
    # The config and the first layer were whole.
    assert (summary["present"], summary["blobs"]) == (2, 1)
    assert not part.exists()
    with tarfile.open(target) as tar:
        names = tar.getnames()
        assert len(names) == len(set(names))
        file = tar.extractfile(f"blobs/sha256/{layers[1].digest.hex}")
        assert file is not None
        assert file.read() == second


async def test_what_fails_is_told_and_the_rest_is_exported(
    entrepot: CommandLine, image: FakeImage, tmp_path: Path
) -> None:
    result = await entrepot.run(
        "export",
        "library/nginx:1.27",
        "library/nothing:1",
        "apps/web:1",
        f"{tmp_path}/out/",
        "--json",
    )
    assert result.status == 1
    assert result.document["images"] == ["library/nginx:1.27"]
    assert set(result.document["failed"]) == {"library/nothing:1", "apps/web:1"}
    assert "Error: apps/web:1 is not exported:" in result.errors


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("out.zip", "Write oci:DIR"),
        ("docker-archive:there.tar", "exists already"),
        ("oci:full", "is not empty, and is no OCI image layout"),
        ("oci:there.tar", "there.tar can't be written: File exists"),
    ],
)
async def test_a_target_that_is_none_is_refused(
    target: str, told: str, entrepot: CommandLine, image: FakeImage
) -> None:
    (entrepot.root / "there.tar").write_text("")
    (entrepot.root / "full").mkdir()
    (entrepot.root / "full/note.txt").write_text("mine")
    result = await entrepot.run("export", "library/nginx:1.27", target)
    assert result.status == 1
    assert told in result.errors


async def test_docker_takes_one_platform(
    entrepot: CommandLine, engine: Engine, source: FakeRegistry, image: FakeImage, tmp_path: Path
) -> None:
    pull = await engine.pulls.start("library/nginx:1.27", "linux/arm64", "test")
    await engine.cache.pulls.get(pull.id).finished.wait()
    target = f"docker-archive:{tmp_path}/out.tar"
    result = await entrepot.run("export", "library/nginx:1.27", target)
    assert (result.status, "--platform linux/amd64" in result.errors) == (1, True)
    assert not (tmp_path / "out.tar").exists()
    await entrepot.done("export", "library/nginx:1.27", target, "--platform", "linux/arm64")
    with tarfile.open(tmp_path / "out.tar") as tar:
        file = tar.extractfile("manifest.json")
        assert file is not None
        [saved] = json.loads(file.read())
    assert saved["RepoTags"] == [f"{LOGIN_SERVER}/library/nginx:1.27"]
    assert saved["Config"] == f"blobs/sha256/{image.platforms['linux/arm64'].config.digest.hex}"


async def test_a_layout_of_another_program_goes_where_its_name_leads(
    entrepot: CommandLine, island: Site, image: FakeImage, source: FakeRegistry, tmp_path: Path
) -> None:
    await entrepot.done("export", "library/nginx:1.27", f"{tmp_path}/out/")
    await source.stop()
    index = tmp_path / "out/index.json"
    document = json.loads(index.read_text())
    document["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": "1.27"}
    index.write_text(json.dumps(document))
    refused = await island.line.run("import", f"{tmp_path}/out")
    assert (refused.status, "--repository library/nginx" in refused.errors) == (1, True)
    document["manifests"][0]["annotations"] = {
        "io.containerd.image.name": f"{LOGIN_SERVER}/library/nginx:1.27",
        "org.opencontainers.image.ref.name": "1.27",
    }
    index.write_text(json.dumps(document))
    summary = await island.line.ask("import", f"{tmp_path}/out")
    assert (summary["images"][0]["repository"], summary["images"][0]["tag"]) == (
        "library/nginx",
        "1.27",
    )
    summary = await island.line.ask("import", f"{tmp_path}/out", "--repository", "library/web")
    assert (summary["images"][0]["repository"], summary["images"][0]["tag"]) == (
        "library/web",
        "1.27",
    )


async def test_damaged_bytes_in_an_archive_are_refused(
    entrepot: CommandLine, island: Site, image: FakeImage, tmp_path: Path
) -> None:
    await entrepot.done("export", "library/nginx:1.27", f"{tmp_path}/out/")
    layer = image.platforms[AMD64].layers[0]
    path = tmp_path / "out/blobs/sha256" / layer.digest.hex
    path.write_bytes(layer.content[:-1] + b"?")
    result = await island.line.run("import", f"{tmp_path}/out")
    assert (result.status, "the archive is damaged" in result.errors) == (1, True)
    assert island.engine.blobs.size(layer.digest) is None
    assert await island.engine.catalog.tag_state(NGINX, Tag("1.27")) is None
    assert await island.repositories() == []


async def test_a_structure_that_is_refused_leaves_no_repository(
    island: Site, tmp_path: Path
) -> None:
    target = tmp_path / "out/blobs/sha256"
    target.mkdir(parents=True)
    (tmp_path / "out/oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    children: list[dict[str, object]] = []
    for _ in range(7):
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}
        content = json.dumps(document).encode()
        digest = Digest.of(content)
        (target / digest.hex).write_bytes(content)
        children = [{"mediaType": OCI_INDEX, "digest": str(digest), "size": len(content)}]
    children[0]["annotations"] = {"org.opencontainers.image.ref.name": "deep"}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}
    (tmp_path / "out/index.json").write_text(json.dumps(index))
    refused = await island.line.run("import", f"{tmp_path}/out", "--repository", "library/deep")
    assert (refused.status, "more than 4 indexes" in refused.errors) == (1, True)
    assert await island.repositories() == []


async def test_a_refused_import_keeps_a_repository_that_was_there(
    entrepot: CommandLine, island: Site, image: FakeImage, source: FakeRegistry, tmp_path: Path
) -> None:
    await entrepot.done("export", "library/nginx:1.27", f"{tmp_path}/out/")
    other = source.add_image("library/nginx", "other", layers=[10])
    assert (await island.get("/v2/library/nginx/manifests/other")).status_code == 200
    layer = image.platforms[AMD64].layers[0]
    (tmp_path / "out/blobs/sha256" / layer.digest.hex).write_bytes(bytes(len(layer.content)))
    assert (await island.line.run("import", f"{tmp_path}/out")).status == 1
    assert await island.repositories() == [NGINX]
    await source.stop()
    got = await island.get(f"/v2/library/nginx/manifests/{other.digest}")
    assert got.content == other.manifest.content


async def test_signatures_come_along(
    entrepot: CommandLine,
    island: Site,
    engine: Engine,
    source: FakeRegistry,
    image: FakeImage,
    tmp_path: Path,
) -> None:
    signature = f"sha256-{image.digest.hex}.sig"
    source.add_image(
        "library/nginx", signature, layers=[b"signature"], platforms=[AMD64], index=False
    )
    summary = await entrepot.ask("export", "library/nginx:1.27", f"{tmp_path}/out/")
    assert summary["images"] == ["library/nginx:1.27", f"library/nginx:{signature}"]
    await source.stop()
    await island.line.done("import", f"{tmp_path}/out")
    got = await island.get(f"/v2/library/nginx/manifests/{signature}")
    assert got.status_code == 200


async def test_a_read_only_engine_takes_no_import(
    entrepot: CommandLine, island: Site, image: FakeImage, tmp_path: Path
) -> None:
    await entrepot.done("export", "library/nginx:1.27", f"{tmp_path}/out/")
    result = await island.line.run("--read-only", "import", f"{tmp_path}/out")
    assert (result.status, "Nothing was changed" in result.errors) == (1, True)
    await entrepot.done("--read-only", "export", "library/nginx:1.27", f"{tmp_path}/more/")


async def test_an_inventory_that_is_none_is_named_with_its_line(
    entrepot: CommandLine, image: FakeImage, tmp_path: Path
) -> None:
    (tmp_path / "x.jsonl").write_text('{"digest":"sha256:1","size":1}\nnonsense\n')
    result = await entrepot.run(
        "export",
        "library/nginx:1.27",
        f"{tmp_path}/out/",
        "--missing-from",
        str(tmp_path / "x.jsonl"),
    )
    assert (result.status, "x.jsonl, line 2, is no line of an inventory" in result.errors) == (
        1,
        True,
    )


async def test_the_page_about_sites_without_a_network_can_be_followed(
    entrepot: CommandLine, island: Site, image: FakeImage, source: FakeRegistry, tmp_path: Path
) -> None:
    media = tmp_path / "usb"
    media.mkdir()

    async def follow(line: CommandLine, first: str) -> str:
        """Run the lines of a block of the page that are for entrepot."""
        notes = ""
        for text in block(first).text.splitlines():
            text = text.replace("/media/usb", str(media)).replace("hub-library", "example-library")
            program, *arguments = shlex.split(text)
            if program == "entrepot":
                notes += (await line.done(*arguments)).errors
        return notes

    assert "1 image exported" in await follow(entrepot, EXPORT)
    assert "1 image exported" in await follow(entrepot, FOR_DOCKER)
    assert "1 image imported" in await follow(island.line, IMPORT)
    assert "2 blobs" in await follow(island.line, INVENTORY)
    assert "2 are at the other site" in await follow(entrepot, DIFFERENCE)
    await source.stop()
    assert (await island.get("/v2/library/nginx/manifests/1.27")).content == image.manifest.content


async def test_a_terminal_shows_one_line_that_moves(
    entrepot: CommandLine, source: FakeRegistry, tmp_path: Path
) -> None:
    source.add_image("library/big", "1", layers=[os.urandom(3_000_000)], platforms=[AMD64])
    status, told = await entrepot.in_terminal(
        "export", "library/big:1", f"{tmp_path}/out/", "--platform", AMD64, columns=60
    )
    assert status == 0
    *lines, last = [line for line in told.replace("\x1b[K", "").split("\r") if line.strip()]
    assert last.startswith("1 image exported to ")
    assert all(len(line) < 60 for line in lines)


async def test_a_refusal_reaches_a_client_that_still_sends(
    entrepot: CommandLine, engine: Engine
) -> None:
    async def content() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield bytes(1_000_000)

    async with CacheClient.at(engine.directories.socket) as client:
        with pytest.raises(EngineRefused, match="Send the manifest first"):
            await client.transfer.put_blob(NGINX, str(Digest.of(b"x")), 40_000_000, content())
