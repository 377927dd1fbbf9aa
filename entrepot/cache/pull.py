"""Pulls: the work of making one image of one platform complete in the cache, and its progress as data."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from entrepot.cache.fill import Fill, FillState
from entrepot.errors import EntrepotError, NotFound
from entrepot.reference import Digest, Repository, Tag
from entrepot.snapshots import LayerSnapshot, LayerState, PullSnapshot, PullState
from entrepot.store.manifests import Descriptor, Manifest
from entrepot.tasks import OwnedTasks

ENDED_AT_HAND = 200
"""Ended pulls that stay here, for who waits for their end; `entrepot.cache.history` keeps more of them."""

ASKED_BY = 20
"""Addresses that a pull remembers of those who asked for it."""

_log = logging.getLogger("entrepot.pull")

_LAYER_STATES = {
    FillState.WAITING: LayerState.WAITING,
    FillState.RUNNING: LayerState.RUNNING,
    FillState.RESUMED: LayerState.RESUMED,
    FillState.VERIFIED: LayerState.VERIFIED,
    FillState.FAILED: LayerState.FAILED,
}


@dataclass(frozen=True, slots=True)
class PullOrigin:
    """Where a pull takes its image from. *rule* is the name of the cache rule."""

    rule: str
    login_server: str
    source_repository: str


@dataclass(frozen=True, slots=True)
class PullSubject:
    """What a pull makes complete, once it is known."""

    manifest: Manifest
    platform: str | None


class _Layer:
    """A blob of the image, and its fill if it has one."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self.fill: Fill | None = None
        self.held_before = False

    def joins(self, fill: Fill | None) -> None:
        self.fill = fill
        self.held_before = fill is None

    def snapshot(self) -> LayerSnapshot:
        fill = self.fill
        state = LayerState.HELD if self.held_before else _LAYER_STATES[fill.state] if fill else LayerState.WAITING
        return LayerSnapshot(
            digest=str(self.descriptor.digest),
            media_type=self.descriptor.media_type,
            size=self.descriptor.size,
            received=self.descriptor.size if self.held_before else fill.received if fill else 0,
            state=state,
            waiting_clients=fill.readers if fill else 0,
            resumed_at=fill.resumed_at if fill else None,
        )


@dataclass
class Pull:
    """One image of one platform on its way into the cache. `Pulls` makes and owns them."""

    id: str
    repository: Repository
    tag: Tag | None
    origin: PullOrigin
    started: float
    platform: str | None = None
    manifest: Manifest | None = None
    state: PullState = PullState.WAITING
    ended: float | None = None
    error: EntrepotError | None = None
    asked_by: dict[str, None] = field(default_factory=dict)
    layers: list[_Layer] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def asked(self, who: str | None) -> None:
        """Remember who asked for it."""
        if who is not None and len(self.asked_by) < ASKED_BY:
            self.asked_by[who] = None

    def fills(self) -> Iterable[Fill]:
        """The fills that it waits for, ended ones included."""
        return (layer.fill for layer in self.layers if layer.fill is not None)

    def snapshot(self) -> PullSnapshot:
        """Its progress as data."""
        layers = tuple(layer.snapshot() for layer in self.layers)
        size = sum(layer.size for layer in layers)
        received = sum(layer.received for layer in layers)
        speed = 0.0 if self.state.ended else sum(fill.speed for fill in self.fills())
        return PullSnapshot(
            id=self.id,
            repository=self.repository,
            tag=self.tag,
            digest=str(self.manifest.digest) if self.manifest else None,
            platform=self.platform,
            rule=self.origin.rule,
            login_server=self.origin.login_server,
            source_repository=self.origin.source_repository,
            state=self.state,
            started=self.started,
            ended=self.ended,
            layers=layers,
            size=size,
            received=received,
            speed=speed,
            time_left=(size - received) / speed if speed else None,
            from_source=sum(fill.fetched for fill in self.fills()),
            to_clients=sum(fill.served for fill in self.fills()),
            waiting_clients=0 if self.state.ended else sum(layer.waiting_clients for layer in layers),
            layer_count=len(layers),
            asked_by=tuple(self.asked_by),
            error_code=self.error.code if self.error else None,
            error_message=self.error.message if self.error else None,
        )


class Pulls:
    """All pulls of an engine: those under way, and the last `ENDED_AT_HAND` that ended. It owns their tasks.

    *obtain* gives the fill of a blob of a repository, or None when the blob is held. *on_change* is told when a pull begins and when it has ended.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        obtain: Callable[[Repository, Descriptor], Awaitable[Fill | None]],
        give_up: Callable[[Digest], None],
        on_change: Callable[[Pull], None],
        on_complete: Callable[[Pull], Awaitable[None]],
    ) -> None:
        self._clock = clock
        self._obtain = obtain
        self._give_up = give_up
        self._on_change = on_change
        self._on_complete = on_complete
        self._pulls: OrderedDict[str, Pull] = OrderedDict()
        self._under_way: dict[tuple[Repository, Digest], Pull] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._numbers = itertools.count(1)
        self._owned = OwnedTasks()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Pulls]:
        """Within it pulls can begin; at its end those under way are cancelled."""
        async with self._owned:
            yield self

    def number_from(self, last: int) -> None:
        """Give the next pull the number after *last*: earlier engines had pulls of their own."""
        self._numbers = itertools.count(last + 1)

    def all(self) -> list[Pull]:
        """Those under way and those that ended, newest first."""
        return list(reversed(self._pulls.values()))

    def running_count(self) -> int:
        """How many are under way."""
        return len(self._tasks)

    def get(self, id: str) -> Pull:
        """A pull by its id; raises `NotFound`."""
        pull = self._pulls.get(id)
        if pull is None:
            raise NotFound(f"There is no pull {id}.", "It ended long ago, or there never was one.")
        return pull

    def of(self, repository: Repository, manifest: Digest) -> Pull | None:
        """The pull under way that makes this image complete."""
        return self._under_way.get((repository, manifest))

    def begin(
        self,
        repository: Repository,
        tag: Tag | None,
        origin: PullOrigin,
        subject: PullSubject | Callable[[], Awaitable[PullSubject]],
        *,
        asked_by: str | None,
    ) -> Pull:
        """Begin a pull of an image: one that is known, or one that has to be looked up first. An image that is being pulled already gets no second pull."""
        if isinstance(subject, PullSubject) and (same := self.of(repository, subject.manifest.digest)):
            same.asked(asked_by)
            return same
        if not self._owned.open:
            raise EntrepotError("The engine is stopping.", "Pull again when it runs.")
        pull = Pull(str(next(self._numbers)), repository, tag, origin, self._clock())
        pull.asked(asked_by)
        if isinstance(subject, PullSubject):
            self._becomes(pull, subject)
        self._pulls[pull.id] = pull
        self._forget_old()
        self._tasks[pull.id] = self._owned.start(self._run(pull, None if isinstance(subject, PullSubject) else subject), f"pull {pull.id}")
        self._on_change(pull)
        return pull

    def cancel(self, id: str) -> Pull:
        """Stop a pull. Blobs that no client and no other pull waits for are given up; those that are whole stay."""
        pull = self.get(id)
        task = self._tasks.get(id)
        if task is not None:
            task.cancel()
        return pull

    def _becomes(self, pull: Pull, subject: PullSubject) -> None:
        pull.manifest = subject.manifest
        pull.platform = subject.platform
        pull.layers = [_Layer(each) for each in subject.manifest.blobs if not each.optional]
        self._under_way[pull.repository, subject.manifest.digest] = pull

    async def _run(self, pull: Pull, look_up: Callable[[], Awaitable[PullSubject]] | None) -> None:
        try:
            if look_up is not None:
                subject = await look_up()
                same = self.of(pull.repository, subject.manifest.digest)
                self._becomes(pull, subject)
                if same is not None:
                    # Another pull of the same image goes on already: this one shares its fills and ends with it.
                    self._under_way[pull.repository, subject.manifest.digest] = same
            pull.state = PullState.RUNNING
            # A layer that fails leaves the others alone: what arrives is kept, and the next pull has less to do.
            outcomes = await asyncio.gather(*(self._complete(pull, layer) for layer in pull.layers), return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
            await self._on_complete(pull)
            self._end(pull, PullState.COMPLETED)
        except asyncio.CancelledError:
            given_up = [fill for fill in pull.fills() if not fill.ended and not fill.readers and not self._wanted(fill, pull)]
            for fill in given_up:
                self._give_up(fill.digest)
            for fill in given_up:
                await fill.finished.wait()
            self._end(pull, PullState.CANCELLED)
        except EntrepotError as error:
            pull.error = error
            self._end(pull, PullState.FAILED)
        except Exception:
            _log.exception("The pull of %s failed in an unforeseen way", pull.snapshot().image)
            pull.error = EntrepotError("The pull failed for a reason that the engine did not foresee.", "The engine's log has the details.")
            self._end(pull, PullState.FAILED)
        finally:
            del self._tasks[pull.id]
            pull.over.set()
            self._on_change(pull)

    async def _complete(self, pull: Pull, layer: _Layer) -> None:
        fill = await self._obtain(pull.repository, layer.descriptor)
        layer.joins(fill)
        if fill is not None:
            await fill.wait()

    def _wanted(self, fill: Fill, cancelled: Pull) -> bool:
        return any(pull is not cancelled and not pull.state.ended and fill in pull.fills() for pull in self._pulls.values())

    def _end(self, pull: Pull, state: PullState) -> None:
        pull.state = state
        pull.ended = self._clock()
        if pull.manifest is not None and self._under_way.get((pull.repository, pull.manifest.digest)) is pull:
            del self._under_way[pull.repository, pull.manifest.digest]

    def _forget_old(self) -> None:
        ended = [id for id, pull in self._pulls.items() if pull.state.ended]
        for id in ended[: max(0, len(ended) - ENDED_AT_HAND)]:
            del self._pulls[id]
