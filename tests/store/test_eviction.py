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


def gone(made: EvictionPlan) -> list[Digest]:
    return [each.manifest.digest for each in made.images]


def decide(held: Inventory, goal: int, in_use: frozenset[Key] = frozenset()) -> EvictionPlan:
    return plan_eviction(held, goal=goal, now=NOW, in_use=in_use)


def test_nothing_goes_while_the_goal_is_kept() -> None:
    made = decide(inventory(manifest(A, "1", "x")), 100)
    assert (made.images, made.remaining) == ((), 100)


def test_the_image_used_least_recently_goes_first_and_no_more_than_is_needed() -> None:
    held = inventory(
        manifest(A, "new", "x", last_requested=30),
        manifest(B, "old", "y", last_requested=10),
        manifest(A, "middle", "z", last_requested=20),
    )
    assert gone(decide(held, 200)) == [digest("old")]
    assert gone(decide(held, 100)) == [digest("old"), digest("middle")]
    assert gone(decide(held, 0)) == [digest("old"), digest("middle"), digest("new")]


def test_a_blob_that_a_staying_image_needs_frees_nothing() -> None:
    held = inventory(
        manifest(A, "old", "base", "x", last_requested=1),
        manifest(B, "new", "base", "y", last_requested=2),
        sizes={"base": 1000},
    )
    made = decide(held, 1150)
    assert gone(made) == [digest("old")]
    assert (made.images[0].freed, made.size, made.remaining) == (100, 1200, 1100)


def test_a_blob_that_evicted_images_share_counts_once() -> None:
    held = inventory(
        manifest(A, "1", "base", "x", last_requested=1),
        manifest(B, "2", "base", "y", last_requested=2),
        sizes={"base": 1000},
    )
    made = decide(held, 0)
    assert [each.freed for each in made.images] == [100, 1100]
    assert made.remaining == 0


def test_an_image_that_would_free_nothing_stays() -> None:
    held = inventory(
        manifest(A, "copy", "x", last_requested=1),
        manifest(B, "original", "x", last_requested=2, locked=True),
        manifest(A, "other", "y", last_requested=3),
    )
    assert gone(decide(held, 100)) == [digest("other")]


def test_what_no_manifest_refers_to_makes_room_by_itself() -> None:
    held = inventory(manifest(A, "1", "x"))
    held = Inventory(held.manifests, {**held.blobs, digest("orphan"): InventoryBlob(500, 0.0)})
    made = decide(held, 100)
    assert (made.images, made.size, made.remaining) == ((), 600, 100)


def test_a_locked_image_stays_and_the_goal_is_missed() -> None:
    made = decide(
        inventory(
            manifest(A, "locked", "x", locked=True), manifest(A, "other", "y", last_requested=9)
        ),
        50,
    )
    assert gone(made) == [digest("other")]
    assert (made.remaining, made.locked_size) == (100, 100)


def test_where_the_goal_is_missed_it_is_counted_what_stays_and_why() -> None:
    """Each blob counts once, for the reason that lasts longest."""
    held = inventory(
        manifest(A, "locked", "base", "x", locked=True),
        manifest(A, "pulled", "base", "y"),
        manifest(A, "recent", "base", "y", "z", last_requested=NOW - 1),
        manifest(A, "other", "w"),
        sizes={"base": 1000},
    )
    made = decide(held, 0, in_use=frozenset({(A, digest("pulled"))}))
    assert (made.remaining, made.locked_size, made.in_use_size, made.recent_size) == (
        1300,
        1100,
        100,
        100,
    )
    reached = decide(held, 1300, in_use=frozenset({(A, digest("pulled"))}))
    assert (reached.in_use_size, reached.recent_size) == (0, 0)


def test_a_locked_index_keeps_the_images_below_it() -> None:
    held = inventory(
        manifest(A, "index", locked=True, children=("amd", "inner")),
        manifest(A, "inner", children=("arm",)),
        manifest(A, "amd", "x"),
        manifest(A, "arm", "y"),
        manifest(B, "amd", "z"),
    )
    assert [each.manifest.key for each in decide(held, 0).images] == [(B, digest("amd"))]
    for name in ("index", "inner", "amd", "arm"):
        assert locked_above(held.manifests, (A, digest(name))) == [held.manifests[0]]
    assert locked_above(held.manifests, (B, digest("amd"))) == []


def test_what_is_pulled_now_stays() -> None:
    held = inventory(manifest(A, "pulled", "x"), manifest(A, "other", "y", last_requested=9))
    assert gone(decide(held, 0, frozenset({(A, digest("pulled"))}))) == [digest("other")]


def test_what_was_used_within_the_last_minute_stays() -> None:
    held = inventory(
        manifest(A, "asked", "x", last_requested=NOW - RECENT + 1),
        manifest(A, "read", "y"),
        manifest(A, "old", "z", last_requested=NOW - RECENT - 1),
        used={"y": NOW},
    )
    assert gone(decide(held, 0)) == [digest("old")]


def test_use_of_an_index_is_use_of_the_images_below_it() -> None:
    held = inventory(
        manifest(A, "index", last_requested=50, tags=("1",), children=("amd",)),
        manifest(A, "amd", "x", last_requested=1, tags=("old",)),
        manifest(A, "other", "y", last_requested=20),
    )
    made = decide(held, 0)
    assert gone(made) == [digest("other"), digest("amd")]
    assert made.images[1].tags == ("old", "1")


def test_use_of_a_blob_is_use_of_the_image_that_it_tells_from_others() -> None:
    held = inventory(
        manifest(A, "forgotten", "base", "x", last_requested=5),
        manifest(A, "popular", "base", "y", last_requested=1),
        used={"base": 100.0, "y": 90.0},
    )
    made = decide(held, 0)
    assert [(each.manifest.digest, each.last_used) for each in made.images] == [
        (digest("forgotten"), 5),
        (digest("popular"), 90),
    ]


def test_an_image_that_shares_all_its_blobs_is_used_with_those_that_the_fewest_share() -> None:
    held = inventory(
        manifest(A, "oci", "base", "x", "y"),
        manifest(A, "docker", "base", "x", "y"),
        manifest(A, "other", "base", "z"),
        used={"base": 100.0, "y": 7.0},
    )
    assert {each.manifest.digest: each.last_used for each in decide(held, 0).images} == {
        digest("other"): 0,
        digest("oci"): 7,
        digest("docker"): 7,
    }


def test_a_manifest_without_anything_held_goes_when_nobody_asked_for_long() -> None:
    held = inventory(
        manifest(A, "looked at", last_requested=NOW - EMPTY_STAYS - 1),
        manifest(A, "lately", last_requested=NOW - EMPTY_STAYS + 1),
        manifest(A, "locked", last_requested=1, locked=True),
        manifest(A, "with a child", last_requested=1, children=("image",)),
        manifest(A, "image", "x", last_requested=NOW - 100),
    )
    made = decide(held, 10**9)
    assert made.empty == ((A, digest("looked at")),)
    assert confirm(made, held.manifests) == {(A, digest("looked at"))}


def test_an_index_goes_with_its_last_image_and_stays_before() -> None:
    held = inventory(
        manifest(A, "outer", children=("index",)),
        manifest(A, "index", children=("amd", "arm")),
        manifest(A, "amd", "x"),
        manifest(A, "arm", "y", last_requested=7),
    )
    assert confirm(decide(held, 100), held.manifests) == {(A, digest("amd"))}
    assert confirm(decide(held, 0), held.manifests) == {
        (A, digest(name)) for name in ("outer", "index", "amd", "arm")
    }


def test_what_was_used_locked_or_deleted_since_the_plan_was_made_stays() -> None:
    names = ("asked", "locked", "deleted", "read", "plain")
    held = {name: manifest(A, name, name) for name in names}
    made = decide(inventory(*held.values()), 0)
    assert len(made.images) == len(names)
    held["asked"] = replace(held["asked"], last_requested=NOW)
    held["locked"] = replace(held["locked"], locked=True)
    del held["deleted"]
    assert confirm(made, held.values(), used={(A, digest("read"))}) == {(A, digest("plain"))}


def test_an_index_that_was_asked_for_since_keeps_its_image() -> None:
    index, image = manifest(A, "index", children=("amd",)), manifest(A, "amd", "x")
    made = decide(inventory(index, image), 0)
    assert confirm(made, [replace(index, last_requested=NOW), image]) == set()


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
def test_whatever_is_held_a_plan_keeps_its_promises(
    held: Inventory, goal: int, pulled: int
) -> None:
    in_use = frozenset(each.key for each in held.manifests[:pulled])
    made = decide(held, goal, in_use)
    going = confirm(made, held.manifests)
    known = {each.key: each for each in held.manifests}
    planned = {each.manifest.key: each for each in made.images}
    locked = {key for key in known if locked_above(held.manifests, key)}

    # Nothing that is locked, in use or used just now goes.
    assert not going & locked
    assert not planned.keys() & in_use
    assert all(each.last_used <= NOW - RECENT for each in made.images)

    # Nothing that stays is broken: its blobs stay, and an index stays for as long as one of its
    # images does.
    staying_blobs = {blob for key, each in known.items() if key not in going for blob in each.blobs}
    freed = {blob for blob in held.blobs if blob not in staying_blobs}
    assert made.remaining == made.size - sum(held.blobs[blob].size for blob in freed)
    assert sum(each.freed for each in made.images) == made.size - made.remaining
    assert all(
        any((each.repository, child) not in going for child in each.children)
        for key, each in known.items()
        if each.children and key not in going
    )

    # The goal is reached, or what is left is locked, in use, used just now, or made of nothing but
    # blobs of such images.
    if made.remaining > made.goal:
        asked_now = {each.key for each in held.manifests if each.last_requested > NOW - RECENT}
        asked_now |= {
            (each.repository, child)
            for each in held.manifests
            if each.key in asked_now
            for child in each.children
        }
        pinned = (
            locked
            | in_use
            | asked_now
            | {
                key
                for key, each in known.items()
                if any(held.blobs[blob].last_used > NOW - RECENT for blob in each.blobs)
            }
        )
        needed = {blob for key in pinned & known.keys() for blob in known[key].blobs}
        assert all(
            set(each.blobs) <= needed
            for key, each in known.items()
            if key not in going and key not in pinned
        )

    # Least recently used first; and one of the last kind is only spared when it would have freed
    # nothing.
    order = [each.last_used for each in made.images]
    assert order == sorted(order)
    everything = {each.manifest.key: each.last_used for each in decide(held, -1, in_use).images}
    latest = max(order, default=0.0)
    for key, used in everything.items():
        if key not in planned and used < latest:
            assert set(known[key].blobs) <= staying_blobs

    # No more goes than is needed: without the last one that frees something the goal would be
    # missed.
    if made.images:
        last = [each for each in made.images if each.freed][-1]
        assert made.remaining + last.freed > goal


def test_where_the_catalog_takes_room_empty_manifests_go_in_the_order_of_their_use() -> None:
    """S11: manifests without blobs stayed for 30 days, however full the disk was."""
    used = [
        manifest(A, name, last_requested=NOW - 1000 + number)
        for number, name in enumerate(("old", "older index", "newer"))
    ]
    held = [replace(each, size=100) for each in used] + [
        replace(manifest(A, "image", "x", last_requested=1.0), size=100)
    ]
    made = plan_eviction(inventory(*held), goal=300, now=NOW, catalog_size=400)
    assert (made.size, [each.manifest.digest for each in made.images], made.empty) == (
        500,
        [digest("image")],
        (),
    )
    assert made.remaining == 300
    made = plan_eviction(inventory(*held), goal=150, now=NOW, catalog_size=400)
    assert (made.empty, made.remaining) == (((A, digest("old")), (A, digest("older index"))), 100)
    assert confirm(made, [replace(held[0], last_requested=NOW), *held[1:]]) == {
        (A, digest("older index")),
        (A, digest("image")),
    }


def test_with_a_goal_of_zero_manifests_without_blobs_go_too() -> None:
    """S11: ``entrepot evict --to 0`` left them."""
    held = inventory(
        manifest(A, "looked at", last_requested=NOW - RECENT - 1),
        manifest(A, "looked at just now", last_requested=NOW),
        manifest(A, "image", "x"),
    )
    assert decide(held, 0).empty == ((A, digest("looked at")),)
    assert decide(held, 1).empty == ()


def test_s14_what_was_used_in_the_future_is_not_in_use_until_then() -> None:
    """The clock was a month ahead, and is right again."""
    ahead = NOW + 30 * 86_400
    held = inventory(
        manifest(A, "ahead", "x", last_requested=ahead),
        manifest(B, "now", "y", last_requested=NOW),
        manifest(A, "old", "z", last_requested=NOW - 1_000),
    )
    made = decide(held, 100)
    assert gone(made) == [digest("ahead"), digest("old")]
    # Carried out, it is judged by the time that is written down.
    assert [each.last_used for each in made.images] == [ahead, NOW - 1_000]
    assert confirm(made, list(held.manifests)) == {each.manifest.key for each in made.images}
