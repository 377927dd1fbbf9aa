"""What came through each rule is counted, and shown while the catalog fails."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.core.credentials import CredentialBook
from entrepot.core.registries import SourceRegistries
from entrepot.core.rules import CacheRuleTargetOverlap, RuleBook, RuleDraft
from entrepot.engine.engine import Engine
from entrepot.engine.rule_usage import name_ranges
from entrepot.store.connections import CatalogFailed
from tests.conftest import LOGIN_SERVER
from tests.engine.waiting import ended
from tests.fakes import FakeRegistry
from tests.store.statements import recorded_reads

REGISTRIES = SourceRegistries()


@pytest.mark.parametrize(
    "failure", [CatalogFailed("The catalog fails."), None], ids=["fails", "hangs"]
)
async def test_f79_while_the_catalog_fails_rules_are_listed_with_what_was_last_known(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, failure: CatalogFailed | None
) -> None:
    monkeypatch.setattr("entrepot.engine.etags.USAGE_INTERVAL", 0)
    [before] = await engine.rules.list()

    async def ask() -> dict[str, tuple[int, int]]:
        if failure is not None:
            raise failure
        await asyncio.Event().wait()
        return {}

    with monkeypatch.context() as patched:
        patched.setattr("entrepot.engine.rule_usage.COUNT_TIMEOUT", 0.01)
        patched.setattr(engine.catalog, "rule_requests", ask)
        revision = engine.revisions.rules
        assert await engine.rules.list() == [before]
        # A client that keeps this answer is not told later that nothing has changed.
        assert engine.revisions.rules != revision
    revision = engine.revisions.rules
    assert await engine.rules.list() == [before]
    assert engine.revisions.rules == revision


async def test_repositories_are_counted_again_only_after_a_change(
    engine: Engine, source: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.add_image("library/nginx", "1")
    counts = 0
    aggregate = engine.catalog.aggregate_usage

    async def count(*arguments: Any) -> Any:
        nonlocal counts
        counts += 1
        return await aggregate(*arguments)

    monkeypatch.setattr(engine.catalog, "aggregate_usage", count)
    for _ in range(2):
        assert (await engine.rules.list())[0].repositories == 0
    assert counts == 1
    await ended(engine, await engine.pulls.start("library/nginx:1", None, "cli"))
    assert (await engine.rules.list())[0].repositories == 1
    assert counts == 2


async def test_what_a_narrower_rule_answers_for_does_not_count_for_the_wider_one(
    engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1")
    await engine.rules.create(
        RuleDraft("only-nginx", f"{LOGIN_SERVER}/library/nginx", "library/nginx")
    )
    await ended(engine, await engine.pulls.start("library/nginx:1", None, "cli"))
    counts = {rule.name: rule.repositories for rule in await engine.rules.list()}
    assert counts == {"example-library": 0, "only-nginx": 1}


TARGETS = ["*", "a/*", "a", "a/b", "a/b/c", "a-b/*", "a-b", "b/*", "b/x", "b0/*", "b.c/d"]


@given(targets=st.lists(st.sampled_from(TARGETS), unique=True), data=st.data())
def test_the_ranges_of_a_rule_have_just_the_names_for_which_it_answers(
    targets: list[str], data: st.DataObject
) -> None:
    rules = RuleBook(REGISTRIES, CredentialBook(REGISTRIES))
    for number, target in enumerate(targets):
        source = f"quay.io/x{'/*' if target.endswith('*') else ''}"
        with suppress(CacheRuleTargetOverlap):
            rules = rules.with_rule(rules.parse(RuleDraft(f"rule-{number}", source, target)))
    names = st.from_regex(r"[ab][-.0]?[bc]?(/[abx][-0]?[bcd]?){0,3}", fullmatch=True)
    ranges = name_ranges(rules, rules)
    for name in [*data.draw(st.lists(names)), "a", "a/b", "a/b/c", "a-b", "b/x", "b.c/d"]:
        rule = rules.rule_of(name)
        assert [
            key
            for key, parts in ranges.items()
            for part in parts
            if part.first <= name < part.before
        ] == ([rule.name] if rule is not None else [])


async def test_the_use_of_one_rule_is_one_range_of_an_index(
    engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1")
    await ended(engine, await engine.pulls.start("library/nginx:1", None, "cli"))
    with recorded_reads(engine.catalog) as statements:
        rule = await engine.rules.get("example-library")
    assert rule == (await engine.rules.list())[0]
    assert rule.repositories == 1
    used, requests = statements
    assert "rule_requests" in requests.sql
    assert used.rows() == 1
    assert used.plan() == [
        "SEARCH repositories USING COVERING INDEX repositories_by_usage (name>? AND name<?)"
    ]


async def test_f79_while_the_catalog_fails_one_rule_is_shown_with_what_was_last_known(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    [before] = await engine.rules.list()

    async def fail(*_: object) -> None:
        raise CatalogFailed("The catalog fails.")

    monkeypatch.setattr(engine.catalog, "aggregate_usage", fail)
    assert await engine.rules.get("example-library") == before
