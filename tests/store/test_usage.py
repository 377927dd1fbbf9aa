"""What clients used is added up in the catalog."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import event

from entrepot.core.reference import Repository, Tag
from entrepot.store.catalog import Catalog
from entrepot.store.usage import Usage
from tests.store.samples import NGINX, SOURCE, image


async def test_use_is_added_up(catalog: Catalog) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    for when in (10.0, 20.0):
        await catalog.record_usage(
            Usage(
                pulls={NGINX: (2, when)},
                tags={(NGINX, Tag("1")): when},
                manifests={(NGINX, manifest.digest): when},
                blobs={manifest.digest: when},
            )
        )
    [repository] = await catalog.repositories()
    assert (repository.pulls, repository.last_pull) == (4, 20.0)
    [tag] = await catalog.tags(NGINX)
    assert tag.last_pull == 20.0
    [listed] = await catalog.manifests(NGINX)
    assert listed.last_pull == 20.0


async def test_a_head_request_is_a_use_and_no_pull(catalog: Catalog) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, now=1.0)
    await catalog.record_usage(Usage({}, {}, {}, {}, head_requests={(NGINX, manifest.digest): 5.0}))
    assert [each.last_pull for each in await catalog.manifests(NGINX)] == [None]
    assert [each.last_requested for each in await catalog.inventory_manifests(NGINX)] == [5.0]


async def test_a_head_request_does_not_take_back_a_later_use(catalog: Catalog) -> None:
    manifest = image("a")
    key = (NGINX, manifest.digest)
    await catalog.add_manifest(NGINX, SOURCE, manifest, now=1.0)
    await catalog.record_usage(Usage({}, {}, {key: 9.0}, {}))
    await catalog.record_usage(Usage({}, {}, {}, {}, head_requests={key: 5.0}))
    assert [each.last_requested for each in await catalog.inventory_manifests(NGINX)] == [9.0]


async def test_the_requests_of_a_rule_are_added_up_until_it_is_deleted(catalog: Catalog) -> None:
    for _ in range(2):
        await catalog.record_usage(Usage({}, {}, {}, {}, requests={"hub": (3, 1)}))
    assert await catalog.rule_requests() == {"hub": (6, 2)}
    await catalog.delete_rule_requests("hub")
    assert await catalog.rule_requests() == {}


async def test_many_uses_are_few_statements(catalog: Catalog) -> None:
    """60,000 uses were as many statements: 20 s of CPU time, in which nothing else was written."""
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, tags=[Tag("1")], now=1.0)
    for blob in manifest.blobs:
        await catalog.add_blob(blob.digest, 7, now=1.0)
    repositories = [NGINX, *(Repository(f"library/gone{number}") for number in range(999))]
    statements: list[tuple[str, int]] = []

    def record(
        _connection: object, _cursor: object, statement: str, rows: Sequence[object], *_: object
    ) -> None:
        if statement.startswith(("INSERT", "UPDATE")):
            statements.append((statement.split()[1], len(rows)))

    event.listen(catalog._engine.sync_engine, "before_cursor_execute", record)
    await catalog.record_usage(
        Usage(
            pulls=dict.fromkeys(repositories, (1, 9.0)),
            tags={(repository, Tag("1")): 9.0 for repository in repositories},
            manifests={(repository, manifest.digest): 8.0 for repository in repositories},
            blobs={blob.digest: 9.0 for blob in manifest.blobs},
            head_requests={(repository, manifest.digest): 9.0 for repository in repositories},
            requests={"hub": (3, 1), "other": (1, 1)},
        )
    )
    assert statements == [
        *[(table, 500) for table in ("repositories", "tags") for _ in range(2)],
        *[("repository_manifests", 500)] * 4,
        ("blobs", len(manifest.blobs)),
        ("OR", 2),
        ("rule_requests", 2),
    ]
    [repository] = await catalog.repositories()
    assert (repository.pulls, repository.last_pull) == (1, 9.0)
    [link] = await catalog.manifests(NGINX)
    assert (link.last_pull, (await catalog.tags(NGINX))[0].last_pull) == (8.0, 9.0)
    [entry] = await catalog.inventory_manifests(NGINX)
    assert entry.last_requested == 9.0
    blobs = (await catalog.inventory()).blobs
    assert {blobs[blob.digest].last_used for blob in manifest.blobs} == {9.0}
    assert await catalog.rule_requests() == {"hub": (3, 1), "other": (1, 1)}
