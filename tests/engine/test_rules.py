"""Cache rules: created, counted, deleted and matched."""

from __future__ import annotations

import pytest

from entrepot.core.rules import CacheRuleTargetOverlap, RuleDraft, TargetPrefixPresent
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER
from tests.engine.waiting import ended
from tests.fakes import FakeRegistry
from tests.store.statements import recorded_reads


async def test_a_rule_over_a_cached_repository_is_refused_until_that_is_deleted(
    engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1")
    await ended(engine, await engine.pulls.start("library/nginx:1", None, "cli"))
    await engine.rules.delete("example-library")
    draft = RuleDraft("again", f"{LOGIN_SERVER}/library/*", "library/*")
    with pytest.raises(TargetPrefixPresent, match="library/nginx"):
        await engine.rules.create(draft)
    await engine.repositories.delete("library/nginx")
    await engine.rules.create(draft)


async def test_a_refused_rule_changes_nothing(engine: Engine) -> None:
    before = engine.directories.rules.read_bytes()
    with pytest.raises(CacheRuleTargetOverlap):
        await engine.rules.create(RuleDraft("everything", f"{LOGIN_SERVER}/*", "*"))
    assert engine.directories.rules.read_bytes() == before
    assert [rule.name for rule in await engine.rules.list()] == ["example-library"]


async def test_a_rule_counts_what_is_held_through_it(engine: Engine, source: FakeRegistry) -> None:
    for name in ("nginx", "alpine"):
        source.add_image(f"library/{name}", "1")
        await ended(engine, await engine.pulls.start(f"library/{name}:1", None, "cli"))
    [rule] = await engine.rules.list()
    assert rule.repositories == 2
    assert rule.size == sum(each.size for each in await engine.repositories.list()) > 0


async def test_a_new_target_is_one_range_of_the_repositories(
    engine: Engine, source: FakeRegistry
) -> None:
    for name in ("a", "b", "c", "d", "e"):
        source.add_image(f"library/{name}", "1")
        await ended(engine, await engine.pulls.start(f"library/{name}:1", None, "cli"))
    with recorded_reads(engine.catalog) as statements:
        await engine.rules.create(RuleDraft("another", f"{LOGIN_SERVER}/team/*", "team/*"))
    [statement] = statements
    assert statement.rows() == 0
    [step] = statement.plan()
    assert step.endswith("(name>? AND name<?)")
    await engine.rules.delete("example-library")
    with (
        recorded_reads(engine.catalog) as statements,
        pytest.raises(TargetPrefixPresent, match="library/a, library/b, library/c and 2 more"),
    ):
        await engine.rules.create(RuleDraft("again", f"{LOGIN_SERVER}/library/*", "library/*"))
    assert [statement.rows() for statement in statements] == [3, 1]


async def test_a_plan_names_the_repositories_that_no_other_rule_answers_for(
    engine: Engine, source: FakeRegistry
) -> None:
    await engine.rules.create(RuleDraft("only-b", f"{LOGIN_SERVER}/library/b", "library/b"))
    for name in ("a", "b", "c"):
        source.add_image(f"library/{name}", "1")
        await ended(engine, await engine.pulls.start(f"library/{name}:1", None, "cli"))
    plan = await engine.rules.preview_delete("example-library")
    assert (plan.repositories, plan.repository_count) == (("library/a", "library/c"), 2)
    assert plan.fetched_again_by is None
    plan = await engine.rules.preview_delete("only-b")
    assert (plan.repositories, plan.fetched_again_by) == ((), "example-library")
