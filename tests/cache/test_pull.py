"""Pulls: they end definitely, are complete only when all their blobs are here, and are bounded.

The fills are scripted here; `tests/engine/test_engine.py` pulls with a real engine.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from entrepot.cache import pull as pull_module
from entrepot.cache.fill import Fill, FillState
from entrepot.cache.pull import (
    MAX_LAYERS_AT_ONCE,
    Pull,
    PullOrigin,
    Pulls,
    PullSubject,
    TooManyPulls,
)
from entrepot.core.media_types import OCI_MANIFEST
from entrepot.core.reference import Digest, Repository
from entrepot.core.states import LayerState, PullState
from entrepot.errors import EntrepotError
from entrepot.source.errors import SourceFailed
from entrepot.store.manifests import Descriptor, Manifest

REPOSITORY = Repository("library/nginx")
ORIGIN = PullOrigin("example-rule", "registry.example.com", "registry.example.com/library/nginx")
UNFORESEEN = [ValueError, UnicodeError, RecursionError, OverflowError, KeyError, MemoryError]


class ScriptedFill:
    """What a pull sees of a fill."""

    def __init__(self, digest: Digest, size: int) -> None:
        self.digest = digest
        self.size = size
        self.state = FillState.RUNNING
        self.error: EntrepotError | None = None
        self.received = self.readers = self.fetched = self.served = 0
        self.resumed_at = None
        self.speed = 0.0
        self.finished = asyncio.Event()

    @property
    def ended(self) -> bool:
        return self.state in {FillState.VERIFIED, FillState.FAILED}

    async def wait(self) -> None:
        await self.finished.wait()
        if self.error is not None:
            raise self.error

    def end(
        self, error: EntrepotError | None = None, state: FillState = FillState.VERIFIED
    ) -> None:
        self.state, self.error = state, error
        self.finished.set()


@dataclass
class Place:
    """Pulls, with what they call in its parts."""

    pulls: Pulls
    fills: dict[Digest, ScriptedFill] = field(default_factory=dict)
    held: set[Digest] = field(default_factory=set)
    cancelled_fills: list[Digest] = field(default_factory=list)
    changes: list[tuple[str, PullState]] = field(default_factory=list)
    obtain_error: Exception | None = None
    complete_error: Exception | None = None
    obtained: int = 0

    async def obtain(self, repository: Repository, descriptor: Descriptor) -> Fill | int:
        self.obtained += 1
        if self.obtain_error is not None:
            raise self.obtain_error
        if descriptor.digest in self.held:
            return descriptor.size or 0
        fill = self.fills.setdefault(
            descriptor.digest, ScriptedFill(descriptor.digest, descriptor.size or 0)
        )
        return fill  # type: ignore[return-value]

    def cancel_fill(self, fill: Any) -> None:
        self.cancelled_fills.append(fill.digest)
        fill.end(EntrepotError("cancelled"), FillState.FAILED)

    async def complete(self, pull: Pull) -> None:
        if self.complete_error is not None:
            raise self.complete_error

    def begin(self, manifest: Manifest, repository: Repository = REPOSITORY) -> Pull:
        return self.pulls.begin(
            repository, None, ORIGIN, PullSubject(manifest, None), asked_by="test"
        )

    def finish_all(self) -> None:
        for fill in self.fills.values():
            self.held.add(fill.digest)
            fill.end()


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    place = Place(None)  # type: ignore[arg-type]
    pulls = place.pulls = Pulls(
        clock=lambda: 0.0,
        obtain=lambda repository, descriptor: place.obtain(repository, descriptor),
        cancel_fill=place.cancel_fill,
        on_change=lambda pull: place.changes.append((pull.id, pull.state)),
        on_complete=lambda pull: place.complete(pull),
    )
    async with pulls.running():
        yield place


_numbers = itertools.count()


def manifest_of(count: int) -> Manifest:
    """A manifest of *count* layers that no other manifest has."""
    config, *layers = [
        {
            "mediaType": "application/octet-stream",
            "digest": str(Digest.of(str(next(_numbers)).encode())),
            "size": 10,
        }
        for _ in range(count + 1)
    ]
    content = msgspec.json.encode(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers}
    )
    return Manifest.of(content, OCI_MANIFEST, Digest.of(content))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


async def over(pull: Pull) -> PullState:
    async with asyncio.timeout(60):
        await pull.finished.wait()
    return pull.state


# Whatever is raised, a pull ends, and says nothing that is not so (S02)


@pytest.mark.parametrize("kind", UNFORESEEN)
@pytest.mark.parametrize("where", ["obtain", "on_complete", "look_up", "fill"])
async def test_whatever_is_raised_a_pull_fails_for_all_who_wait(
    place: Place, kind: type[Exception], where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """S02: it was told as completed without its blob."""
    manifest = manifest_of(3)
    if where == "obtain":
        place.obtain_error = kind("unforeseen")
    if where == "on_complete":
        place.complete_error = kind("unforeseen")

    async def look_up() -> PullSubject:
        if where == "look_up":
            raise kind("unforeseen")
        return PullSubject(manifest, None)

    pull = place.pulls.begin(REPOSITORY, None, ORIGIN, look_up, asked_by=None)
    if where in {"on_complete", "fill"}:
        await until(lambda: len(place.fills) == 4)
        if where == "fill":
            next(iter(place.fills.values())).error = kind("unforeseen")  # type: ignore[assignment]
        for fill in place.fills.values():
            fill.finished.set()
    assert await over(pull) is PullState.FAILED
    assert kind.__name__ in (pull.progress().error_message or "")
    assert place.pulls.of(REPOSITORY, manifest.digest) is None
    assert place.changes[-1] == (pull.id, PullState.FAILED)
    assert not place.pulls.running_count()
    assert "Traceback" not in caplog.text


async def test_a_clock_that_fails_leaves_nobody_waiting(place: Place) -> None:
    """S02."""

    def fails() -> float:
        raise OverflowError

    pull = place.begin(manifest_of(1))
    place.pulls._clock = fails
    await until(lambda: len(place.fills) == 2)
    place.finish_all()
    assert await over(pull) is PullState.COMPLETED
    assert pull.ended == pull.started


async def test_a_pull_that_is_cancelled_before_its_first_step_is_over(place: Place) -> None:
    """S02: nothing of its task runs then, and the image could never be pulled again."""
    manifest = manifest_of(1)
    pull = place.begin(manifest)
    place.pulls.cancel(pull.id)
    assert await over(pull) is PullState.CANCELLED
    assert place.pulls.of(REPOSITORY, manifest.digest) is None
    assert place.begin(manifest) is not pull


async def test_a_pull_that_is_cancelled_twice_is_over(place: Place) -> None:
    """S02."""
    pull = place.begin(manifest_of(1))
    await until(lambda: len(place.fills) == 2)
    place.pulls._cancel_fill = lambda fill: place.cancelled_fills.append(fill.digest)
    place.pulls.cancel(pull.id)
    await until(lambda: len(place.cancelled_fills) == 2)
    place.pulls.cancel(pull.id)
    assert await over(pull) is PullState.CANCELLED


async def test_a_layer_that_was_passed_on_and_not_kept_is_no_verified_one(place: Place) -> None:
    """S02: on a full disk clients get the bytes, and nothing is held."""
    pull = place.begin(manifest_of(1))
    await until(lambda: len(place.fills) == 2)
    refused, stored = place.fills.values()
    refused.end(EntrepotError("The disk is full."))
    stored.end()
    assert await over(pull) is PullState.FAILED
    assert [layer.state for layer in pull.progress().layers] == [
        LayerState.FAILED,
        LayerState.VERIFIED,
    ]


async def test_a_layer_that_goes_while_the_others_come_is_fetched_again(place: Place) -> None:
    """S33: a pull was completed though a layer that was held at its begin had been evicted
    meanwhile."""
    manifest = manifest_of(1)
    cached, missing = (each.digest for each in manifest.blobs)
    place.held.add(cached)
    pull = place.begin(manifest)
    await until(lambda: missing in place.fills)
    place.held.discard(cached)
    place.fills[missing].end()
    await until(lambda: cached in place.fills)
    assert not pull.finished.is_set()
    place.fills[cached].end()
    assert await over(pull) is PullState.COMPLETED
    assert {layer.state for layer in pull.progress().layers} == {LayerState.VERIFIED}


async def test_the_blobs_of_a_pull_are_needed_until_it_ends(place: Place) -> None:
    """S33."""
    first, second = manifest_of(2), manifest_of(2)
    place.held.add(first.blobs[0].digest)
    pulls = [
        place.begin(first),
        place.begin(second),
        place.begin(first, Repository("library/other")),
    ]
    needed = place.pulls.needed()
    assert set(needed) == {each.digest for each in (*first.blobs, *second.blobs)}
    await until(lambda: len(place.fills) == 5)
    place.pulls.cancel(pulls[0].id)
    await over(pulls[0])
    assert first.blobs[0].digest in needed
    place.finish_all()
    await asyncio.gather(*(over(each) for each in pulls))
    assert not needed


async def test_a_failure_of_one_layer_leaves_the_others_to_arrive(place: Place) -> None:
    pull = place.begin(manifest_of(2))
    await until(lambda: len(place.fills) == 3)
    first, *others = place.fills.values()
    first.end(SourceFailed("500."), FillState.FAILED)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not pull.finished.is_set()
    for fill in others:
        fill.end()
    assert await over(pull) is PullState.FAILED
    assert pull.progress().error_code == "SourceFailed"


# Bounds


async def test_s10_layers_are_begun_a_bounded_number_at_a_time(place: Place) -> None:
    """A manifest of 5,000 layers was 5,000 tasks and 5,000 file descriptors at once."""
    pull = place.begin(manifest_of(1000))
    ended_count = 0
    while not pull.finished.is_set():
        await until(
            lambda: pull.finished.is_set() or any(not fill.ended for fill in place.fills.values())
        )
        under_way = [fill for fill in place.fills.values() if not fill.ended]
        assert len(under_way) <= MAX_LAYERS_AT_ONCE
        for fill in under_way:
            fill.end()
            ended_count += 1
    assert ended_count == 1001
    assert pull.state is PullState.COMPLETED


async def test_s37_beyond_a_bound_pulls_wait_for_others_to_end_and_say_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One GET of a layer by a client that leaves fetches a whole image."""
    monkeypatch.setattr(pull_module, "MAX_RUNNING_PULLS", 2)
    monkeypatch.setattr(pull_module, "MAX_WAITING_PULLS", 2)
    place.pulls._turns = asyncio.Semaphore(2)
    assert not place.pulls.is_busy
    pulls = [place.begin(manifest_of(1)) for _ in range(2)]
    assert place.pulls.is_busy
    pulls += [place.begin(manifest_of(1)) for _ in range(2)]
    with pytest.raises(TooManyPulls):
        place.begin(manifest_of(1))
    await until(lambda: len(place.fills) == 4)
    assert [pull.state for pull in pulls] == [PullState.RUNNING] * 2 + [PullState.WAITING] * 2
    assert list(place.pulls.notices()) == [
        "2 pulls wait for others to end: 2 are under way at once."
    ]
    place.pulls.cancel(pulls[2].id)
    assert await over(pulls[2]) is PullState.CANCELLED
    place.finish_all()
    await over(pulls[0])
    await until(lambda: pulls[3].state is PullState.RUNNING)
    await until(lambda: any(not fill.ended for fill in place.fills.values()))
    place.finish_all()
    await asyncio.gather(*(over(pull) for pull in pulls))
    assert list(place.pulls.notices()) == []


async def test_an_ended_pull_keeps_its_last_progress_and_lets_go_of_manifest_and_fills(
    place: Place,
) -> None:
    pull = place.begin(manifest_of(3))
    await until(lambda: len(place.fills) == 4)
    place.finish_all()
    await over(pull)
    assert (pull.manifest, pull.layers, list(pull.fills())) == (None, [], [])
    assert pull.progress().layer_count == len(pull.progress().layers) == 4
    assert pull.progress().digest is not None


async def test_only_the_last_ended_pulls_keep_their_layers_in_memory(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_module, "ENDED_PULLS_WITH_LAYERS", 1)
    pulls = []
    for _ in range(3):
        pulls.append(place.begin(manifest_of(1)))
        await until(lambda: all(layer.fill is not None for layer in pulls[-1].layers))
        place.finish_all()
        await over(pulls[-1])
    place.begin(manifest_of(1))
    assert [(len(pull.progress().layers), pull.progress().layer_count) for pull in pulls] == [
        (0, 2),
        (0, 2),
        (2, 2),
    ]


async def test_s23_a_look_at_a_pull_of_a_thousand_layers_makes_only_what_has_changed_anew(
    place: Place,
) -> None:
    pull = place.begin(manifest_of(1000))
    await until(lambda: len(place.fills) == MAX_LAYERS_AT_ONCE)
    before = pull.progress()
    changed = next(iter(place.fills.values()))
    changed.received = 5
    after = pull.progress()
    assert [
        number
        for number, (old, new) in enumerate(zip(before.layers, after.layers, strict=True))
        if old is not new
    ] == [0]
    assert (after.received, after.layers[0].received) == (5, 5)
    place.pulls.cancel(pull.id)
    await over(pull)


async def test_an_engine_that_stops_leaves_the_fills_to_their_owner(place: Place) -> None:
    """What has come of them is left over for the next engine."""
    pull = place.begin(manifest_of(1))
    await until(lambda: len(place.fills) == 2)
    await place.pulls._owned.__aexit__()
    assert pull.state is PullState.CANCELLED
    assert place.cancelled_fills == []


async def test_s24_an_ended_pull_keeps_what_its_error_says_and_not_what_failed(
    place: Place,
) -> None:
    try:
        raise ValueError("the answer of a source")
    except ValueError as cause:
        place.obtain_error = SourceFailed("It fails.", "Try again.")
        place.obtain_error.__cause__ = cause
    pull = place.begin(manifest_of(1))
    await pull.finished.wait()
    assert isinstance(pull.error, SourceFailed)
    assert (pull.error.what, pull.error.hint) == ("It fails.", "Try again.")
    assert (pull.error.__cause__, pull.error.__traceback__) == (None, None)
