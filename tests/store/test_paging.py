"""Pages of listings: each is one query along an index, and together they are the whole list."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from entrepot.core.pages import ListOrder, ListPosition, Page
from entrepot.core.reference import Repository, Tag
from entrepot.store.catalog import Catalog
from tests.store.samples import NGINX, SOURCE, cache_blobs, image, index
from tests.store.statements import recorded_reads

ORDERS = list(ListOrder)
TAGS = [f"v{number:02}" for number in range(8)]


@pytest.fixture
async def filled(catalog: Catalog) -> Catalog:
    """A catalog with eight tags of one repository, cached in another order than their names."""
    for number, name in enumerate(TAGS):
        # Two tags at a time are as old as each other.
        moment = float((number * 5) % len(TAGS) // 2)
        await catalog.add_manifest(NGINX, SOURCE, image(name), tags=[Tag(name)], now=moment)
    return catalog


Key = Callable[[Any], ListPosition]


def tag_position(tag: Any) -> ListPosition:
    return ListPosition(tag.name, tag.entry.cached)


def manifest_position(manifest: Any) -> ListPosition:
    return ListPosition(str(manifest.digest), manifest.cached)


Read = Callable[[Page], Awaitable[list[Any]]]


def listings(catalog: Catalog) -> dict[str, tuple[Read, Key]]:
    return {
        "listed tags": (lambda page: catalog.listed_tags(NGINX, page), tag_position),
        "tags": (lambda page: catalog.tags(NGINX, page), tag_position),
        "manifests": (lambda page: catalog.manifests(NGINX, page), manifest_position),
    }


LISTINGS = ["listed tags", "tags", "manifests"]


async def pages(read: Read, position: Key, order: ListOrder, size: int) -> AsyncIterator[list[Any]]:
    after = None
    while page := await read(Page(size, after, order)):
        yield page
        after = position(page[-1])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("listing", LISTINGS)
async def test_pages_together_are_the_whole_list_in_its_order(
    filled: Catalog, listing: str, order: ListOrder
) -> None:
    read, position = listings(filled)[listing]
    entries = [entry async for page in pages(read, position, order, 5) for entry in page]
    whole = await read(Page(order=order))
    assert entries == whole
    assert len(whole) == len(TAGS)
    keys = [
        (each.name if order is ListOrder.NAME else (each.time, each.name))
        for each in map(position, whole)
    ]
    assert keys == sorted(keys, reverse=order is ListOrder.NEWEST)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("listing", LISTINGS)
async def test_entries_that_come_and_go_between_pages_repeat_and_skip_no_other(
    filled: Catalog, listing: str, order: ListOrder
) -> None:
    read, position = listings(filled)[listing]
    before = {position(entry).name for entry in await read(Page())}
    names: list[str] = []
    number = 0
    removed = set()
    async for page in pages(read, position, order, 2):
        names += [position(entry).name for entry in page]
        number += 1
        # A new entry comes at the beginning or the end, and the one just listed goes.
        await filled.add_manifest(
            NGINX, SOURCE, image(f"new {number}"), tags=[Tag(f"v{number:02}-new")], now=2.5
        )
        if listing != "manifests":
            removed.add(names[-1])
            await filled.delete_tag(NGINX, Tag(names[-1]))
    assert len(names) == len(set(names))
    assert before <= set(names)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("listing", LISTINGS)
async def test_a_page_is_one_query_along_an_index_of_as_many_rows(
    filled: Catalog, listing: str, order: ListOrder
) -> None:
    read, position = listings(filled)[listing]
    first = await read(Page(3, None, order))
    for after in (None, position(first[-1]), ListPosition(position(first[-1]).name)):
        with recorded_reads(filled) as statements:
            assert len(await read(Page(3, after, order))) == 3
        # What a tag is, is read by its digest, once for all pages.
        [statement] = [
            statement
            for statement in statements
            if not statement.sql.startswith("SELECT manifests.digest, manifests.content")
        ]
        assert statement.rows() == 3
        [start, *_] = statement.plan()
        table, index_of_time = (
            ("repository_manifests", "repository_manifests_by_time")
            if listing == "manifests"
            else ("tags", "tags_by_time")
        )
        name = f"sqlite_autoindex_{table}_1" if order is ListOrder.NAME else index_of_time
        assert start.startswith((f"SEARCH {table} USING INDEX {name}", f"SEARCH {table} USING COV"))
        assert name in start
        assert not any("TEMP B-TREE FOR ORDER BY" in step for step in statement.plan())
        assert not any(step.startswith(f"SCAN {table}") for step in statement.plan())


async def test_a_page_after_a_name_begins_at_its_time(filled: Catalog) -> None:
    newest = await filled.listed_tags(NGINX, Page(order=ListOrder.NEWEST))
    third = newest[2]
    page = Page(2, ListPosition(third.name), ListOrder.NEWEST)
    assert await filled.listed_tags(NGINX, page) == newest[3:5]
    after_no_tag = Page(2, ListPosition("none"), ListOrder.NEWEST)
    assert await filled.listed_tags(NGINX, after_no_tag) == []


async def test_names_of_repositories_come_a_page_at_a_time(catalog: Catalog) -> None:
    names = [Repository(f"library/r{number}") for number in range(5)]
    for name in names:
        await catalog.add_manifest(name, SOURCE, image("a"), now=1.0)
    with recorded_reads(catalog) as statements:
        assert await catalog.repository_names(after=names[1], limit=2) == names[2:4]
        repositories = await catalog.repositories(after=names[1], limit=2)
    assert [repository.name for repository in repositories] == names[2:4]
    assert [statement.rows() for statement in statements] == [2, 2]
    for statement in statements:
        [step] = statement.plan()
        assert step.startswith("SEARCH repositories USING")
        assert step.endswith("(name>?)")


async def test_only_the_tags_of_one_digest(catalog: Catalog) -> None:
    first, second = image("a"), image("b")
    await catalog.add_manifest(NGINX, SOURCE, first, tags=[Tag("1"), Tag("3")], now=1.0)
    await catalog.add_manifest(NGINX, SOURCE, second, tags=[Tag("2")], now=2.0)
    with recorded_reads(catalog) as statements:
        tags = await catalog.listed_tags(NGINX, Page(10), digest=first.digest)
    assert [tag.name for tag in tags] == ["1", "3"]
    [statement] = statements
    assert statement.rows() == 2
    assert statement.plan() == [
        "SEARCH tags USING INDEX tags_of_digest (repository=? AND digest=?)"
    ]


async def test_other_tags_of_the_same_digest_are_looked_up_by_the_digest(catalog: Catalog) -> None:
    await catalog.add_manifest(NGINX, SOURCE, image("a"), tags=[Tag("1"), Tag("2")], now=1.0)
    with recorded_reads(catalog) as statements:
        contents = await catalog.tag_contents(NGINX, Tag("1"))
    assert contents is not None
    assert contents.also_tagged == ("2",)
    assert statements[-1].plan() == [
        "SEARCH tags USING COVERING INDEX tags_of_digest (repository=? AND digest=?)"
    ]


async def test_a_tag_leads_through_indexes_to_what_is_cached_of_its_own_repository(
    catalog: Catalog,
) -> None:
    amd, arm, other = image("amd", "base"), image("arm", "base"), image("other")
    inner = index(amd64=amd, arm64=arm)
    outer = index(inner=inner, s390x=other)
    for manifest in (outer, inner, amd):
        await catalog.add_manifest(
            NGINX, SOURCE, manifest, tags=[Tag("1")] if manifest is outer else [], now=1.0
        )
    # This image is cached in another repository only.
    await catalog.add_manifest(Repository("library/other"), SOURCE, other, now=1.0)
    for manifest in (amd, arm, other):
        await cache_blobs(catalog, manifest)
    [tag] = await catalog.tags(NGINX)
    assert tag.platforms == ("linux/amd64",)
    assert tag.size == 10 + 100 + 100 + sum(len(each.content) for each in (outer, inner, amd))
    contents = await catalog.tag_contents(NGINX, Tag("1"))
    assert contents is not None
    assert contents.tag == tag


async def test_one_tag_and_one_manifest_are_one_query_each(filled: Catalog) -> None:
    with recorded_reads(filled) as statements:
        tag = await filled.listed_tag(NGINX, Tag("v03"))
        assert tag is not None
        manifest = await filled.listed_manifest(NGINX, tag.entry.digest)
    assert manifest is not None
    assert manifest.tags == ("v03",)
    assert [statement.rows() for statement in statements] == [1, 1]
    assert await filled.listed_tag(NGINX, Tag("none")) is None
    assert await filled.listed_manifest(NGINX, image("none").digest) is None
