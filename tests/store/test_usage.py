"""What clients used is added up in the catalog."""

from __future__ import annotations

from entrepot.core.reference import Tag
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
