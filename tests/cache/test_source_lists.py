"""The lists of a source in memory: how long they are trusted, how many there are, and what of an
index a client selects."""

from __future__ import annotations

import pytest

from entrepot.cache import source_lists as lists_module
from entrepot.cache.source_lists import (
    LIST_FRESHNESS,
    LIST_MAX_AGE,
    ListKey,
    SourceList,
    SourceLists,
    of_artifact_type,
)
from entrepot.core.reference import Repository
from tests.conftest import Clock

NGINX = Repository("library/nginx")
SBOM = "application/spdx+json"


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b'{"manifests":{}}',
        b'{"manifests":[1]}',
        b"\xff",
        b'{"manifests":' + b"[" * 5_000,
    ],
)
def test_an_index_that_can_not_be_read_is_not_filtered(body: bytes) -> None:
    assert of_artifact_type(SourceList(body), SBOM) is None


# Bounds


@pytest.fixture
def lists(clock: Clock) -> SourceLists:
    return SourceLists(clock)


def key(name: object) -> ListKey:
    return ListKey("docker.io/library/nginx", NGINX, "tags/list", str(name))


def test_s28_lists_are_bounded_in_number(
    lists: SourceLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists_module, "LISTS", 3)
    for number in range(5):
        lists.put(key(number), SourceList(b"x"))
        # The first is used each time.
        assert lists.fresh(key(0), 60) is not None
    assert [number for number in range(5) if lists.last_known(key(number))] == [0, 3, 4]


def test_s28_lists_are_bounded_in_bytes(
    lists: SourceLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists_module, "LISTS_BYTES", 1_000)
    for number in range(100):
        lists.put(key(number), SourceList(b"x" * 100))
    assert 1 <= len(lists) <= 9
    assert lists.last_known(key(99)) is not None
    lists.put(key("large"), SourceList(b"x" * 2_000))
    assert len(lists) == 0
    for number in range(100):
        lists.put(ListKey("s", NGINX, "tags/list", "x" * 900 + str(number)), SourceList(b""))
    assert len(lists) == 1


# Time


def test_a_list_is_fresh_for_the_tag_lifetime_and_a_minute_at_most(
    lists: SourceLists, clock: Clock
) -> None:
    lists.put(key(1), SourceList(b"x"))
    clock.now += LIST_FRESHNESS - 1
    assert lists.fresh(key(1), 3_600) is not None
    assert lists.fresh(key(1), 10) is None
    clock.now += 1
    assert lists.fresh(key(1), 3_600) is None


def test_a_list_is_the_last_known_for_a_day(lists: SourceLists, clock: Clock) -> None:
    lists.put(key(1), SourceList(b"x"))
    clock.now += LIST_MAX_AGE - 1
    assert lists.last_known(key(1)) is not None
    clock.now += 1
    assert lists.last_known(key(1)) is None
    lists.drop_expired()
    assert len(lists) == 0


def test_a_distrusted_list_is_only_the_last_known(lists: SourceLists) -> None:
    lists.put(key(1), SourceList(b"x"))
    lists.distrust()
    assert (lists.fresh(key(1), 60), lists.last_known(key(1))) == (None, SourceList(b"x"))


def test_a_selection_is_as_old_as_the_list_that_it_comes_from(
    lists: SourceLists, clock: Clock
) -> None:
    whole, selection = key("whole"), key("selection")
    lists.put(whole, SourceList(b"whole"))
    clock.now += 30
    lists.derive(selection, whole, lambda _: SourceList(b"selection"))
    assert lists.fresh(selection, 60) == SourceList(b"selection")
    clock.now += 30
    assert lists.fresh(selection, 60) is None


def test_a_selection_replaces_no_newer_list(lists: SourceLists, clock: Clock) -> None:
    whole, selection = key("whole"), key("selection")
    lists.put(whole, SourceList(b"whole"))
    clock.now += 1
    lists.put(selection, SourceList(b"newer"))
    lists.derive(selection, whole, lambda _: SourceList(b"older"))
    assert lists.last_known(selection) == SourceList(b"newer")
