"""The rows of blobs follow the files of the blob store."""

from __future__ import annotations

from entrepot.core.reference import Digest
from entrepot.store.catalog import Catalog
from entrepot.store.records import BlobOrigin, BlobRecord
from tests.store.samples import DEBIAN, NGINX, SOURCE, image, sizes_of


async def test_the_rows_follow_the_files(catalog: Catalog) -> None:
    await catalog.add_blob(Digest.of(b"file is gone"), 7, now=1.0)
    await catalog.add_blob(Digest.of(b"both"), 8, now=1.0)
    assert await catalog.reconcile(
        {Digest.of(b"both"): 8, Digest.of(b"row is missing"): 9}, now=2.0
    ) == (1, 1)
    assert await catalog.blobs_size() == 17


async def test_s17_blobs_that_changed_since_the_walk_are_checked_again(
    catalog: Catalog,
) -> None:
    came, went, adopted, unclear = (
        Digest.of(each) for each in (b"came", b"went", b"adopted", b"unclear")
    )
    walked = {went: 4, adopted: 7}
    await catalog.add_blob(came, 5, now=1.0)
    await catalog.add_blob(unclear, 6, now=1.0)

    def look(digest: Digest) -> int | None:
        if digest == unclear:
            raise PermissionError
        return {came: 5, adopted: 7}.get(digest)

    assert await catalog.reconcile(walked, now=2.0, stat_size=look) == (1, 0)
    assert [digest for digest, _ in sorted(await catalog.blobs_after(None, 10))] == sorted(
        [came, adopted, unclear]
    )
    assert await catalog.blob(went) is None


async def test_l01_a_row_whose_file_has_another_size_goes_with_its_file(catalog: Catalog) -> None:
    damaged, right_by_now = Digest.of(b"damaged"), Digest.of(b"right by now")
    manifest = image("damaged")
    await catalog.add_manifest(NGINX, SOURCE, manifest, now=1.0)
    await catalog.add_blob(damaged, 100, now=1.0)
    await catalog.add_blob(right_by_now, 100, now=1.0)
    offered: list[tuple[Digest, int]] = []

    def remove_damaged(digest: Digest, size: int) -> bool:
        offered.append((digest, size))
        return digest == damaged

    assert await catalog.reconcile(
        {damaged: 5, right_by_now: 6}, now=2.0, remove_damaged=remove_damaged
    ) == (0, 0)
    assert sorted(offered) == sorted([(damaged, 100), (right_by_now, 100)])
    assert (await catalog.blob(damaged), await catalog.blob(right_by_now)) == (
        None,
        BlobRecord(100),
    )
    assert (await catalog.repositories(NGINX))[0].size == len(manifest.content)


async def test_s20_an_adopted_blob_opens_for_the_only_possible_source_registry(
    catalog: Catalog,
) -> None:
    await catalog.add_manifest(NGINX, SOURCE, image("one", "both"), now=1.0)
    await catalog.add_manifest(DEBIAN, "ghcr.io/debian", image("other", "both"), now=1.0)
    await catalog.reconcile({Digest.of(each): 100 for each in (b"one", b"both", b"none")}, now=2.0)
    assert await catalog.blob(Digest.of(b"one")) == BlobRecord(
        100, frozenset({BlobOrigin("docker.io", True)})
    )
    assert (
        await catalog.blob(Digest.of(b"both"))
        == await catalog.blob(Digest.of(b"none"))
        == BlobRecord(100)
    )


async def test_a_blob_whose_row_alone_was_lost_is_adopted_as_needed(catalog: Catalog) -> None:
    manifest = image("a")
    await catalog.add_manifest(NGINX, SOURCE, manifest, now=1.0)
    await catalog.reconcile(sizes_of(manifest), now=2.0)
    assert [blob.adopted for blob in (await catalog.inventory()).blobs.values()] == [None, None]
