"""What goes when room is needed, decided on plain data."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store.eviction import (
    EMPTY_STAYS,
    RECENT,
    EvictionPlan,
    Inventory,
    InventoryBlob,
    InventoryManifest,
    Key,
    confirm,
    locked_above,
    plan_eviction,
)
from entrepot.store.plan_watch import uses_of

A, B = Repository("library/a"), Repository("library/b")
NOW = 1_000_000_000.0


def digest(name: str) -> Digest:
    return Digest.of(name.encode())


def manifest(
    repository: Repository,
    name: str,
    *blobs: str,
    last_requested: float = 0.0,
    locked: bool = False,
    tags: tuple[str, ...] = (),
    children: tuple[str, ...] = (),
) -> InventoryManifest:
    return InventoryManifest(
        repository,
        digest(name),
        None,
        last_requested,
        locked,
        tuple(Tag(each) for each in tags),
        tuple(map(digest, children)),
        tuple(map(digest, blobs)),
    )


def inventory(
    *manifests: InventoryManifest,
    size: int = 100,
    used: dict[str, float] | None = None,
    sizes: dict[str, int] | None = None,
) -> Inventory:
    """Every blob has *size* bytes and was last used when it came, at 0, unless another is said."""
    blobs = {blob: InventoryBlob(size, 0.0) for each in manifests for blob in each.blobs}
    for name, when in (used or {}).items():
        blobs[digest(name)] = replace(blobs[digest(name)], last_used=when)
    for name, count in (sizes or {}).items():
        blobs[digest(name)] = replace(blobs[digest(name)], size=count)
    return Inventory(manifests, blobs)


def gone(eviction: EvictionPlan) -> list[Digest]:
    return [each.manifest.digest for each in eviction.images]


def decide(cached: Inventory, goal: int, in_use: frozenset[Key] = frozenset()) -> EvictionPlan:
    return plan_eviction(cached, goal=goal, now=NOW, in_use=in_use)


def test_nothing_goes_while_the_goal_is_kept() -> None:
    eviction = decide(inventory(manifest(A, "1", "x")), 100)
    assert (eviction.images, eviction.remaining) == ((), 100)


def test_the_image_used_least_recently_goes_first_and_no_more_than_is_needed() -> None:
    cached = inventory(
        manifest(A, "new", "x", last_requested=30),
        manifest(B, "old", "y", last_requested=10),
        manifest(A, "middle", "z", last_requested=20),
    )
    assert gone(decide(cached, 200)) == [digest("old")]
    assert gone(decide(cached, 100)) == [digest("old"), digest("middle")]
    assert gone(decide(cached, 0)) == [digest("old"), digest("middle"), digest("new")]


def test_a_blob_that_a_staying_image_needs_frees_nothing() -> None:
    cached = inventory(
        manifest(A, "old", "base", "x", last_requested=1),
        manifest(B, "new", "base", "y", last_requested=2),
        sizes={"base": 1000},
    )
    eviction = decide(cached, 1150)
    assert gone(eviction) == [digest("old")]
    assert (eviction.images[0].freed, eviction.size, eviction.remaining) == (100, 1200, 1100)


def test_a_blob_that_evicted_images_share_counts_once() -> None:
    cached = inventory(
        manifest(A, "1", "base", "x", last_requested=1),
        manifest(B, "2", "base", "y", last_requested=2),
        sizes={"base": 1000},
    )
    eviction = decide(cached, 0)
    assert [each.freed for each in eviction.images] == [100, 1100]
    assert eviction.remaining == 0


def test_an_image_that_would_free_nothing_stays() -> None:
    cached = inventory(
        manifest(A, "copy", "x", last_requested=1),
        manifest(B, "original", "x", last_requested=2, locked=True),
        manifest(A, "other", "y", last_requested=3),
    )
    assert gone(decide(cached, 100)) == [digest("other")]


def test_what_no_manifest_refers_to_makes_room_by_itself() -> None:
    cached = inventory(manifest(A, "1", "x"))
    cached = Inventory(
        cached.manifests, {**cached.blobs, digest("orphan"): InventoryBlob(500, 0.0)}
    )
    eviction = decide(cached, 100)
    assert (eviction.images, eviction.size, eviction.remaining) == ((), 600, 100)


def test_a_locked_image_stays_and_the_goal_is_missed() -> None:
    eviction = decide(
        inventory(
            manifest(A, "locked", "x", locked=True), manifest(A, "other", "y", last_requested=9)
        ),
        50,
    )
    assert gone(eviction) == [digest("other")]
    assert (eviction.remaining, eviction.locked_size) == (100, 100)


def test_where_the_goal_is_missed_it_is_counted_what_stays_and_why() -> None:
    """Each blob counts once, for the reason that lasts longest."""
    cached = inventory(
        manifest(A, "locked", "base", "x", locked=True),
        manifest(A, "pulled", "base", "y"),
        manifest(A, "recent", "base", "y", "z", last_requested=NOW - 1),
        manifest(A, "other", "w"),
        sizes={"base": 1000},
    )
    eviction = decide(cached, 0, in_use=frozenset({(A, digest("pulled"))}))
    assert (
        eviction.remaining,
        eviction.locked_size,
        eviction.in_use_size,
        eviction.recent_size,
    ) == (
        1300,
        1100,
        100,
        100,
    )
    reached = decide(cached, 1300, in_use=frozenset({(A, digest("pulled"))}))
    assert (reached.in_use_size, reached.recent_size) == (0, 0)


def test_a_locked_index_keeps_the_images_below_it() -> None:
    cached = inventory(
        manifest(A, "index", locked=True, children=("amd", "inner")),
        manifest(A, "inner", children=("arm",)),
        manifest(A, "amd", "x"),
        manifest(A, "arm", "y"),
        manifest(B, "amd", "z"),
    )
    assert [each.manifest.key for each in decide(cached, 0).images] == [(B, digest("amd"))]
    for name in ("index", "inner", "amd", "arm"):
        assert locked_above(cached.manifests, (A, digest(name))) == [cached.manifests[0]]
    assert locked_above(cached.manifests, (B, digest("amd"))) == []


def test_what_is_pulled_now_stays() -> None:
    cached = inventory(manifest(A, "pulled", "x"), manifest(A, "other", "y", last_requested=9))
    assert gone(decide(cached, 0, frozenset({(A, digest("pulled"))}))) == [digest("other")]


def test_what_was_used_within_the_last_minute_stays() -> None:
    cached = inventory(
        manifest(A, "asked", "x", last_requested=NOW - RECENT + 1),
        manifest(A, "read", "y"),
        manifest(A, "old", "z", last_requested=NOW - RECENT - 1),
        used={"y": NOW},
    )
    assert gone(decide(cached, 0)) == [digest("old")]


def test_use_of_an_index_is_use_of_the_images_below_it() -> None:
    cached = inventory(
        manifest(A, "index", last_requested=50, tags=("1",), children=("amd",)),
        manifest(A, "amd", "x", last_requested=1, tags=("old",)),
        manifest(A, "other", "y", last_requested=20),
    )
    eviction = decide(cached, 0)
    assert gone(eviction) == [digest("other"), digest("amd")]
    assert eviction.images[1].tags == ("old", "1")


def test_use_of_a_blob_is_use_of_the_image_that_it_tells_from_others() -> None:
    cached = inventory(
        manifest(A, "forgotten", "base", "x", last_requested=5),
        manifest(A, "popular", "base", "y", last_requested=1),
        used={"base": 100.0, "y": 90.0},
    )
    eviction = decide(cached, 0)
    assert [(each.manifest.digest, each.last_used) for each in eviction.images] == [
        (digest("forgotten"), 5),
        (digest("popular"), 90),
    ]


def test_an_image_that_shares_all_its_blobs_is_used_with_those_that_the_fewest_share() -> None:
    cached = inventory(
        manifest(A, "oci", "base", "x", "y"),
        manifest(A, "docker", "base", "x", "y"),
        manifest(A, "other", "base", "z"),
        used={"base": 100.0, "y": 7.0},
    )
    assert {each.manifest.digest: each.last_used for each in decide(cached, 0).images} == {
        digest("other"): 0,
        digest("oci"): 7,
        digest("docker"): 7,
    }


def test_a_manifest_without_anything_held_goes_when_nobody_asked_for_long() -> None:
    cached = inventory(
        manifest(A, "looked at", last_requested=NOW - EMPTY_STAYS - 1),
        manifest(A, "lately", last_requested=NOW - EMPTY_STAYS + 1),
        manifest(A, "locked", last_requested=1, locked=True),
        manifest(A, "with a child", last_requested=1, children=("image",)),
        manifest(A, "image", "x", last_requested=NOW - 100),
    )
    eviction = decide(cached, 10**9)
    assert eviction.empty == ((A, digest("looked at")),)
    assert confirm(eviction, cached.manifests) == {(A, digest("looked at"))}


def test_an_index_goes_with_its_last_image_and_stays_before() -> None:
    cached = inventory(
        manifest(A, "outer", children=("index",)),
        manifest(A, "index", children=("amd", "arm")),
        manifest(A, "amd", "x"),
        manifest(A, "arm", "y", last_requested=7),
    )
    assert confirm(decide(cached, 100), cached.manifests) == {(A, digest("amd"))}
    assert confirm(decide(cached, 0), cached.manifests) == {
        (A, digest(name)) for name in ("outer", "index", "amd", "arm")
    }


def test_what_was_used_locked_or_deleted_since_the_plan_was_made_stays() -> None:
    names = ("asked", "locked", "deleted", "read", "plain")
    cached = {name: manifest(A, name, name) for name in names}
    eviction = decide(inventory(*cached.values()), 0)
    assert len(eviction.images) == len(names)
    cached["asked"] = replace(cached["asked"], last_requested=NOW)
    cached["locked"] = replace(cached["locked"], locked=True)
    del cached["deleted"]
    assert confirm(eviction, cached.values(), uses=uses_of([(A, digest("read"))], [])) == {
        (A, digest("plain"))
    }


def test_an_index_that_was_asked_for_since_keeps_its_image() -> None:
    index, image = manifest(A, "index", children=("amd",)), manifest(A, "amd", "x")
    eviction = decide(inventory(index, image), 0)
    assert confirm(eviction, [replace(index, last_requested=NOW), image]) == set()


NAMES = st.integers(0, 11).map(lambda number: f"blob {number}")


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    manifests: list[InventoryManifest] = []
    for repository in (A, B):
        images = draw(st.lists(st.integers(0, 7), unique=True, max_size=6))
        for number in images:
            # The blobs of a manifest are the same in all repositories, as its digest says.
            names = tuple(f"blob {each}" for each in range(12) if (number * 37 + each * 11) % 5 < 2)
            manifests.append(
                manifest(
                    repository,
                    f"image {number}",
                    *names,
                    last_requested=draw(st.sampled_from([1.0, 2.0, 3.0, 4.0, NOW - 1])),
                    locked=draw(st.integers(0, 5)) == 0,
                )
            )
        for number in range(draw(st.integers(0, 2))):
            children = (
                draw(st.lists(st.sampled_from(images), unique=True, max_size=3)) if images else []
            )
            manifests.append(
                manifest(
                    repository,
                    f"index {number}",
                    last_requested=draw(st.sampled_from([1.0, 5.0, NOW])),
                    locked=draw(st.integers(0, 5)) == 0,
                    children=tuple(f"image {each}" for each in children),
                )
            )
    blobs = sorted({blob for each in manifests for blob in each.blobs})
    return Inventory(
        manifests,
        {
            blob: InventoryBlob(
                draw(st.integers(1, 1000)), draw(st.sampled_from([0.0, 2.0, 3.5, NOW]))
            )
            for blob in blobs
        },
    )


@given(inventories(), st.integers(0, 6000), st.integers(0, 3))
def test_a_plan_keeps_its_promises_for_any_inventory(
    cached: Inventory, goal: int, pulled: int
) -> None:
    in_use = frozenset(each.key for each in cached.manifests[:pulled])
    eviction = decide(cached, goal, in_use)
    going = confirm(eviction, cached.manifests)
    manifests = {each.key: each for each in cached.manifests}
    planned = {each.manifest.key: each for each in eviction.images}
    locked = {key for key in manifests if locked_above(cached.manifests, key)}

    # Nothing that is locked, in use or used just now goes.
    assert not going & locked
    assert not planned.keys() & in_use
    assert all(each.last_used <= NOW - RECENT for each in eviction.images)

    # Nothing that stays is broken: its blobs stay, and an index stays for as long as one of its
    # images does.
    staying_blobs = {
        blob for key, each in manifests.items() if key not in going for blob in each.blobs
    }
    freed = {blob for blob in cached.blobs if blob not in staying_blobs}
    assert eviction.remaining == eviction.size - sum(cached.blobs[blob].size for blob in freed)
    assert sum(each.freed for each in eviction.images) == eviction.size - eviction.remaining
    assert all(
        any((each.repository, child) not in going for child in each.children)
        for key, each in manifests.items()
        if each.children and key not in going
    )

    # The goal is reached, or what is left is locked, in use, used just now, or made of nothing but
    # blobs of such images.
    if eviction.remaining > eviction.goal:
        asked_now = {each.key for each in cached.manifests if each.last_requested > NOW - RECENT}
        asked_now |= {
            (each.repository, child)
            for each in cached.manifests
            if each.key in asked_now
            for child in each.children
        }
        pinned = (
            locked
            | in_use
            | asked_now
            | {
                key
                for key, each in manifests.items()
                if any(cached.blobs[blob].last_used > NOW - RECENT for blob in each.blobs)
            }
        )
        needed = {blob for key in pinned & manifests.keys() for blob in manifests[key].blobs}
        assert all(
            set(each.blobs) <= needed
            for key, each in manifests.items()
            if key not in going and key not in pinned
        )

    # Least recently used first; and one of the last kind is only spared when it would have freed
    # nothing.
    order = [each.last_used for each in eviction.images]
    assert order == sorted(order)
    everything = {each.manifest.key: each.last_used for each in decide(cached, -1, in_use).images}
    latest = max(order, default=0.0)
    for key, used in everything.items():
        if key not in planned and used < latest:
            assert set(manifests[key].blobs) <= staying_blobs

    # No more goes than is needed: without the last one that frees something the goal would be
    # missed.
    if eviction.images:
        last = [each for each in eviction.images if each.freed][-1]
        assert eviction.remaining + last.freed > goal


def test_where_the_catalog_takes_room_empty_manifests_go_in_the_order_of_their_use() -> None:
    """S11: manifests without blobs stayed for 30 days, however full the disk was."""
    used = [
        manifest(A, name, last_requested=NOW - 1000 + number)
        for number, name in enumerate(("old", "older index", "newer"))
    ]
    cached = [replace(each, size=100) for each in used] + [
        replace(manifest(A, "image", "x", last_requested=1.0), size=100)
    ]
    eviction = plan_eviction(inventory(*cached), goal=300, now=NOW, catalog_size=400)
    assert (eviction.size, [each.manifest.digest for each in eviction.images], eviction.empty) == (
        500,
        [digest("image")],
        (),
    )
    assert eviction.remaining == 300
    eviction = plan_eviction(inventory(*cached), goal=150, now=NOW, catalog_size=400)
    assert (eviction.empty, eviction.remaining) == (
        ((A, digest("old")), (A, digest("older index"))),
        100,
    )
    assert confirm(eviction, [replace(cached[0], last_requested=NOW), *cached[1:]]) == {
        (A, digest("older index")),
        (A, digest("image")),
    }


def test_with_a_goal_of_zero_manifests_without_blobs_go_too() -> None:
    """S11: ``entrepot evict --to 0`` left them."""
    cached = inventory(
        manifest(A, "looked at", last_requested=NOW - RECENT - 1),
        manifest(A, "looked at just now", last_requested=NOW),
        manifest(A, "image", "x"),
    )
    assert decide(cached, 0).empty == ((A, digest("looked at")),)
    assert decide(cached, 1).empty == ()


def test_s14_what_was_used_in_the_future_is_not_in_use_until_then() -> None:
    """The clock was a month ahead, and is right again."""
    ahead = NOW + 30 * 86_400
    cached = inventory(
        manifest(A, "ahead", "x", last_requested=ahead),
        manifest(B, "now", "y", last_requested=NOW),
        manifest(A, "old", "z", last_requested=NOW - 1_000),
    )
    eviction = decide(cached, 100)
    assert gone(eviction) == [digest("ahead"), digest("old")]
    # Carried out, it is judged by the time that is written down.
    assert [each.last_used for each in eviction.images] == [ahead, NOW - 1_000]
    assert confirm(eviction, list(cached.manifests)) == {
        each.manifest.key for each in eviction.images
    }
