"""Names of source registries, and the repositories here to which they lead."""

from __future__ import annotations

import pytest

from entrepot.core.reference import Repository, Tag
from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from entrepot.errors import RepositoryUnknown
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry


async def pull(engine: Engine, source: FakeRegistry, repository: str, target: str) -> None:
    source.add_image(repository, "1", layers=[100], platforms=["linux/amd64"], index=False)
    await engine.cache.manifest(Repository(target), Tag("1"))


async def create(engine: Engine, name: str, source: str, target: str) -> None:
    await engine.rules.create(RuleDraft(name, f"{LOGIN_SERVER}/{source}", target))


async def all_names(engine: Engine, limit: int) -> list[str]:
    """The names in pages of *limit*."""
    names: list[str] = []
    after = None
    while page := await engine.source_names.cached(LOGIN_SERVER, after=after, limit=limit):
        assert len(page) <= limit
        names += page
        after = page[-1]
    return names


async def test_a_name_leads_to_the_target_while_its_rule_is_in_force(engine: Engine) -> None:
    await create(engine, "other-team", "team/*", "elsewhere/*")
    resolve = engine.source_names.resolve
    assert await resolve(LOGIN_SERVER, "library/nginx") == "library/nginx"
    assert await resolve(LOGIN_SERVER, "team/app") == "elsewhere/app"
    await engine.rules.delete("other-team")
    with pytest.raises(RepositoryUnknown, match=f"No cache rule pulls from {LOGIN_SERVER}/team"):
        await resolve(LOGIN_SERVER, "team/app")


async def test_what_another_source_left_at_a_target_has_not_its_name(
    engine: Engine, source: FakeRegistry
) -> None:
    """A static rule inside a wildcard was deleted; the wildcard answers for its repository now."""
    await create(engine, "fork-nginx", "fork/nginx", "library/nginx")
    await pull(engine, source, "fork/nginx", "library/nginx")
    await engine.rules.delete("fork-nginx")
    with pytest.raises(RepositoryUnknown, match="came from another repository"):
        await engine.source_names.resolve(LOGIN_SERVER, "library/nginx")
    assert await all_names(engine, 10) == []


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_cached_repositories_are_listed_by_their_names_at_the_source(
    limit: int, engine: Engine, source: FakeRegistry
) -> None:
    await create(engine, "all-else", "*", "all/*")
    await create(engine, "first-team", "team/*", "a/*")
    await create(engine, "one-alone", "single", "z/single")
    for repository, target in (
        ("library/nginx", "library/nginx"),
        ("library/zebra", "library/zebra"),
        ("team/app", "a/app"),
        ("team/deep/app", "a/deep/app"),
        ("team/zoo", "a/zoo"),
        ("other/thing", "all/other/thing"),
        ("aaa", "all/aaa"),
        ("single", "z/single"),
        # By the name of its source it is in a/app: this one is a second copy.
        ("team/app", "all/team/app"),
        ("team/deep/app", "all/team/deep/app"),
    ):
        await pull(engine, source, repository, target)
    assert await all_names(engine, limit) == [
        "aaa",
        "library/nginx",
        "library/zebra",
        "other/thing",
        "single",
        "team/app",
        "team/deep/app",
        "team/zoo",
    ]
    assert await engine.source_names.cached("quay.io", after=None, limit=limit) == []


async def test_repositories_of_rules_that_may_not_be_read_are_not_listed(
    engine: Engine, source: FakeRegistry
) -> None:
    await create(engine, "first-team", "team/*", "a/*")
    await pull(engine, source, "library/nginx", "library/nginx")
    await pull(engine, source, "team/app", "a/app")
    names = await engine.source_names.cached(
        LOGIN_SERVER, after=None, limit=10, may_read=lambda rule: rule.name != "first-team"
    )
    assert names == ["library/nginx"]
