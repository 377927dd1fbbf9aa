"""Whether a cached copy is right, and for which source registries it opens (F82, F90, S20)."""

from __future__ import annotations

import pytest

from entrepot.cache.blob_copies import CHECK_TTL, REPEAT_WINDOW, BlobCopies
from entrepot.core.reference import Digest
from entrepot.store.connections import CatalogFailed
from entrepot.store.records import BlobOrigin
from tests.cache.conftest import SOURCE, ScriptedCache
from tests.conftest import Clock

CONTENT = b"the bytes of a layer"
DIGEST = Digest.of(CONTENT)
OPEN, SIGNED_IN = BlobOrigin(SOURCE, False), BlobOrigin(SOURCE, True)


@pytest.fixture
def copies(scripted: ScriptedCache, monkeypatch: pytest.MonkeyPatch) -> BlobCopies:
    monkeypatch.setattr(scripted.cache.copies, "_monotonic", scripted.clock)
    return scripted.cache.copies


async def store(scripted: ScriptedCache, content: bytes = CONTENT) -> None:
    """Put a file under the digest of `CONTENT`; it gets no row."""
    path = scripted.blobs.path(DIGEST)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


async def fail(*_: object, **__: object) -> None:
    raise CatalogFailed("The catalog fails.")


# Whether a copy is right


async def test_a_copy_of_the_size_in_its_row_is_not_hashed(
    scripted: ScriptedCache, copies: BlobCopies, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(scripted)
    await copies.add(DIGEST, len(CONTENT), OPEN)
    monkeypatch.setattr(scripted.blobs, "check", fail)
    assert await copies.size(DIGEST, len(CONTENT)) == len(CONTENT)
    assert await copies.size(DIGEST, None) == len(CONTENT)


async def test_a_copy_of_another_size_than_its_row_is_removed_with_an_event(
    scripted: ScriptedCache, copies: BlobCopies
) -> None:
    await store(scripted, CONTENT[:-1])
    await copies.add(DIGEST, len(CONTENT), OPEN)
    assert await copies.size(DIGEST, len(CONTENT)) is None
    assert copies.was_damaged(DIGEST)
    assert scripted.kinds().count("blob-damaged") == 1
    assert await scripted.catalog.blob(DIGEST) is None


async def test_a_copy_without_a_row_is_hashed_and_gets_one(
    scripted: ScriptedCache, copies: BlobCopies
) -> None:
    sizes: list[int] = []
    copies.on_size_changed = sizes.append
    await store(scripted)
    assert await copies.size(DIGEST, None) == len(CONTENT)
    record = await scripted.catalog.blob(DIGEST)
    assert record is not None
    assert (record.size, record.origins) == (len(CONTENT), frozenset())
    assert sizes == [len(CONTENT)]


async def test_a_wrong_copy_without_a_row_is_removed(
    scripted: ScriptedCache, copies: BlobCopies
) -> None:
    await store(scripted, bytes(len(CONTENT)))
    assert await copies.size(DIGEST, len(CONTENT)) is None
    assert scripted.blobs.size(DIGEST) is None


async def test_a_manifest_that_states_another_size_has_the_copy_hashed_once(
    scripted: ScriptedCache, copies: BlobCopies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F82: the manifest may be wrong; the digest decides."""
    await store(scripted)
    await copies.add(DIGEST, len(CONTENT), OPEN)
    assert await copies.size(DIGEST, 7) == len(CONTENT)
    monkeypatch.setattr(scripted.blobs, "check", fail)
    assert await copies.size(DIGEST, 7) == len(CONTENT)


@pytest.mark.parametrize(
    ("stated_size", "expected"),
    [(None, len(CONTENT)), (len(CONTENT), len(CONTENT)), (len(CONTENT) + 1, None)],
)
async def test_while_the_catalog_fails_the_size_in_the_manifest_decides(
    stated_size: int | None,
    expected: int | None,
    scripted: ScriptedCache,
    copies: BlobCopies,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await store(scripted)
    monkeypatch.setattr(scripted.catalog, "blob", fail)
    assert await copies.size(DIGEST, stated_size) == expected


async def test_a_copy_that_came_again_is_not_called_damaged(
    scripted: ScriptedCache, copies: BlobCopies
) -> None:
    copies.record_damaged(DIGEST, "its bytes have another digest")
    await copies.add(DIGEST, len(CONTENT), OPEN)
    assert not copies.was_damaged(DIGEST)


# For which source registries it opens


async def test_a_copy_from_a_sign_in_opens_only_for_its_own_source(
    scripted: ScriptedCache, copies: BlobCopies
) -> None:
    await copies.add(DIGEST, len(CONTENT), SIGNED_IN)
    assert await copies.may_be_served_for(DIGEST, {SOURCE})
    assert not await copies.may_be_served_for(DIGEST, {"other.example.com"})


async def test_a_copy_opens_also_for_a_source_that_proved_to_have_its_bytes(
    scripted: ScriptedCache, copies: BlobCopies
) -> None:
    await copies.add(DIGEST, len(CONTENT), SIGNED_IN)
    await copies.add_origin(DIGEST, len(CONTENT), BlobOrigin("other.example.com", True))
    copies.invalidate_all()
    assert await copies.may_be_served_for(DIGEST, {"other.example.com"})
    assert await copies.may_be_served_for(DIGEST, {SOURCE})


async def test_while_the_catalog_fails_a_copy_that_is_not_in_memory_opens_for_none(
    scripted: ScriptedCache, copies: BlobCopies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripted.catalog, "blob", fail)
    assert not await copies.may_be_served_for(DIGEST, {SOURCE})


@pytest.mark.parametrize("origins", [(OPEN, SIGNED_IN), (SIGNED_IN, OPEN)])
async def test_a_fill_that_rules_share_may_have_come_from_the_sign_in_of_either(
    origins: tuple[BlobOrigin, BlobOrigin], copies: BlobCopies
) -> None:
    for origin in origins:
        copies.record_fetch(DIGEST, origin)
    assert copies.origin_of_fetch(DIGEST, SOURCE) == SIGNED_IN


async def test_a_fill_of_unknown_origin_is_taken_for_one_with_a_sign_in(
    copies: BlobCopies,
) -> None:
    assert copies.origin_of_fetch(DIGEST, SOURCE) == SIGNED_IN


# A client that requests a copy again


@pytest.fixture
def checks(copies: BlobCopies, monkeypatch: pytest.MonkeyPatch) -> list[Digest]:
    """The copies that are hashed in the background."""
    checks: list[Digest] = []
    monkeypatch.setattr(copies, "check_in_background", checks.append)
    return checks


def test_a_copy_that_a_client_requests_again_at_once_is_checked(
    copies: BlobCopies, checks: list[Digest], clock: Clock
) -> None:
    copies.record_request("10.0.0.1", DIGEST)
    copies.record_delivery("10.0.0.1", DIGEST)
    assert checks == []
    clock.now += REPEAT_WINDOW
    copies.record_request("10.0.0.2", DIGEST)
    assert checks == []
    copies.record_request("10.0.0.1", DIGEST)
    assert checks == [DIGEST]


def test_a_client_that_requests_a_copy_again_later_raises_no_suspicion(
    copies: BlobCopies, checks: list[Digest], clock: Clock
) -> None:
    copies.record_delivery("10.0.0.1", DIGEST)
    clock.now += REPEAT_WINDOW + 1
    copies.record_request("10.0.0.1", DIGEST)
    assert checks == []


async def test_a_copy_that_was_just_checked_is_not_checked_for_each_request(
    scripted: ScriptedCache, copies: BlobCopies, checks: list[Digest], clock: Clock
) -> None:
    await store(scripted)
    assert await copies.check(DIGEST)
    clock.now += CHECK_TTL - 1
    copies.record_delivery("10.0.0.1", DIGEST)
    copies.record_request("10.0.0.1", DIGEST)
    assert checks == []
    clock.now += 1
    copies.record_request("10.0.0.1", DIGEST)
    assert checks == [DIGEST]
