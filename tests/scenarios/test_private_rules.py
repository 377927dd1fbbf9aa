"""What a rule for some readers caches is had through nothing else (F47)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrepot.config.directories import Directories
from entrepot.config.reader_settings import ReaderSettings
from entrepot.config.settings import Settings
from entrepot.core.media_types import OCI_MANIFEST
from entrepot.core.registries import DeclaredRegistry
from entrepot.core.rules import RuleDraft
from entrepot.core.states import PullState, SignIn
from entrepot.engine.engine import Engine
from entrepot.server.run import registry_app
from entrepot.server.sign_in import ReaderSignIn
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeImage, FakeRegistry
from tests.server.signed_in import bearer

SECRET = b"a secret that only private/app has"


@dataclass
class Registry:
    engine: Engine
    client: httpx.AsyncClient
    ci: dict[str, str]
    """What the reader of the private rule sends."""

    async def pull(self, image: FakeImage, repository: str | None = None) -> None:
        repository = repository or image.repository
        amd64 = image.platforms["linux/amd64"]
        for path in (
            f"manifests/{image.tag}",
            f"manifests/{amd64.digest}",
            *(f"blobs/{blob.digest}" for blob in amd64.blobs),
            "tags/list",
            f"referrers/{image.digest}",
        ):
            answer = await self.client.get(f"/v2/{repository}/{path}", headers=self.ci)
            assert answer.status_code == 200, path
        for pull in self.engine.cache.pulls.all():
            await pull.finished.wait()


@asynccontextmanager
async def registry_of(root: Path, source: FakeRegistry) -> AsyncIterator[Registry]:
    """Everything of the source is open to everyone, but for ``private/*``."""
    settings_of_engine = Settings(
        listen="127.0.0.1:0",
        upstreams=(DeclaredRegistry(LOGIN_SERVER, "Example", SignIn.OPTIONAL, source.url),),
        readers=ReaderSettings(),
        allow_anonymous=True,
    )
    async with Engine.open(Directories.under(root), settings_of_engine) as engine:
        book = engine.rules.book
        if not len(book):
            for draft in (
                RuleDraft("everything", f"{LOGIN_SERVER}/public/*", "*"),
                RuleDraft(
                    "private-app", f"{LOGIN_SERVER}/private/app", "private/app", readers=("ci",)
                ),
            ):
                await engine.rules.create(draft)
            token = (await engine.readers.create_token("ci")).secret
            (root / "token").write_text(token)
        transport = httpx.ASGITransport(
            ReaderSignIn(registry_app(engine), engine.readers), raise_app_exceptions=False
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://cache") as client:
            yield Registry(engine, client, bearer((root / "token").read_text()))


@pytest.fixture
async def registry(tmp_path: Path, source: FakeRegistry) -> AsyncIterator[Registry]:
    async with registry_of(tmp_path, source) as registry:
        yield registry


async def test_a_private_layer_is_not_had_through_a_public_manifest_that_names_it(
    registry: Registry, source: FakeRegistry
) -> None:
    private = source.add_image("private/app", "1", layers=[SECRET])
    await registry.pull(private)
    layer = private.platforms["linux/amd64"].layers[0]
    # The source has a manifest that names the layer, and not the layer.
    thief = source.add_image("public/thief", "1", layers=[SECRET])
    source.remove_blob("public/thief", layer.digest)
    for reference in (thief.tag, str(thief.platforms["linux/amd64"].digest)):
        answer = await registry.client.get(f"/v2/thief/manifests/{reference}")
        assert answer.status_code == 200
    for headers in ({}, {"range": "bytes=0-3"}):
        answer = await registry.client.get(f"/v2/thief/blobs/{layer.digest}", headers=headers)
        assert answer.status_code == 404
        assert SECRET not in answer.content


async def test_the_administrator_pulls_what_is_private(
    registry: Registry, source: FakeRegistry
) -> None:
    source.add_image("private/app", "1", layers=[SECRET])
    started = await registry.engine.pulls.start("private/app:1", "linux/amd64", "cli")
    pull = registry.engine.cache.pulls.get(started.id)
    await pull.finished.wait()
    assert pull.state is PullState.COMPLETED
    refreshed = await registry.engine.pulls.refresh("private/app:1")
    assert refreshed.problem is None


async def test_a_layer_that_both_have_is_fetched_for_each_or_proven(
    registry: Registry, source: FakeRegistry
) -> None:
    shared = os.urandom(5_000)
    private = source.add_image("private/app", "1", layers=[shared])
    public = source.add_image("public/app", "1", layers=[shared])
    await registry.pull(private)
    layer = private.platforms["linux/amd64"].layers[0]
    assert (await registry.client.get(f"/v2/app/manifests/{public.tag}")).status_code == 200
    amd64 = public.platforms["linux/amd64"].digest
    assert (await registry.client.get(f"/v2/app/manifests/{amd64}")).status_code == 200
    answer = await registry.client.get(f"/v2/app/blobs/{layer.digest}")
    assert (answer.status_code, answer.content) == (200, shared)


async def test_a_deleted_rule_within_a_public_one_leaves_its_content_private(
    registry: Registry, source: FakeRegistry, tmp_path: Path
) -> None:
    private = source.add_image("private/app", "1", layers=[SECRET])
    await registry.pull(private)
    await registry.engine.rules.delete("private-app")
    layer = private.platforms["linux/amd64"].layers[0]
    for path in (f"manifests/{private.tag}", f"blobs/{layer.digest}", "tags/list"):
        answer = await registry.client.get(f"/v2/private/app/{path}")
        assert answer.status_code == 401
        assert SECRET not in answer.content
    catalog = (await registry.client.get("/v2/_catalog")).json()["repositories"]
    assert "private/app" not in catalog
    catalog = (await registry.client.get("/v2/_catalog", headers=registry.ci)).json()
    assert "private/app" in catalog["repositories"]
    # At a mirror too, where the rule around it gives it a name.
    token = (await registry.engine.readers.create_token("bob")).secret
    for headers in ({}, bearer(token)):
        answers = [
            await registry.client.get(f"/v2/{name}/manifests/1?ns={LOGIN_SERVER}", headers=headers)
            for name in ("public/private/app", "elsewhere/none")
        ]
        assert len({answer.status_code for answer in answers}) == 1
        texts = [answer.text for answer in answers]
        assert texts[0].replace("public/private/app", "elsewhere/none") == texts[1]


STEPS = st.tuples(
    st.sampled_from(["HEAD", "GET"]),
    st.sampled_from(["app", "private/app", "thief", "private", "none", "private/app/app"]),
    st.sampled_from(["manifests", "blobs", "referrers", "tags/list", "_catalog"]),
    st.sampled_from(["tag", "index", "manifest", "config", "layer", "artifact"]),
    st.sampled_from(["", "wrong", "anonymous token"]),
    st.sampled_from(["", "?n=1", "?last=a", "?artifactType=application/x"]),
)


@settings(max_examples=5)
@given(st.lists(STEPS, min_size=40, max_size=40), st.booleans())
def test_no_byte_and_no_name_of_it_ever_leaves(
    steps: list[tuple[str, str, str, str, str, str]], delete: bool
) -> None:
    async def run() -> None:
        async with FakeRegistry() as source:
            with TemporaryDirectory() as directory:
                async with registry_of(Path(directory), source) as registry:
                    await _try_all(registry, source, steps, delete=delete)

    asyncio.run(run())


async def _try_all(
    registry: Registry,
    source: FakeRegistry,
    steps: list[tuple[str, str, str, str, str, str]],
    *,
    delete: bool,
) -> None:
    private = source.add_image("private/app", "1", layers=[SECRET])
    amd64 = private.platforms["linux/amd64"]
    source.add_image("public/app", "1", layers=[os.urandom(100)])
    thief = source.add_image("public/thief", "1", layers=[SECRET])
    source.remove_blob("public/thief", amd64.layers[0].digest)
    await registry.pull(private)
    if delete:
        await registry.engine.rules.delete("private-app")
    references = {
        "tag": "1",
        "index": str(private.digest),
        "manifest": str(amd64.digest),
        "config": str(amd64.config.digest),
        "layer": str(amd64.layers[0].digest),
        "artifact": str(thief.digest),
    }
    token = (await registry.client.get("/v2/token?scope=repository:private/app:pull")).json()[
        "token"
    ]
    sent = {"": {}, "wrong": bearer("entrepot_" + "x" * 43), "anonymous token": bearer(token)}
    for method, repository, kind, reference, sender, query in steps:
        path = (
            "/v2/_catalog"
            if kind == "_catalog"
            else f"/v2/{repository}/{kind}"
            if kind == "tags/list"
            else f"/v2/{repository}/{kind}/{references[reference]}"
        )
        headers = {**sent[sender], "accept": f"{OCI_MANIFEST}, */*"}
        answer = await registry.client.request(method, path + query, headers=headers)
        assert SECRET not in answer.content
        if repository != "private/app" or kind == "_catalog":
            assert b"private/app" not in answer.content.replace(b"private/app/app", b"")
            continue
        is_readable = reference != "tag" or kind in {"manifests", "tags/list"}
        assert answer.status_code == (401 if is_readable else 400)
        content = answer.content.replace(references[reference].encode(), b"")
        for digest in references.values():
            assert digest == "1" or digest.encode() not in content
