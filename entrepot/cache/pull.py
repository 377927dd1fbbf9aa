"""Pulls: completing one image of one platform in the cache, with its progress."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec

from entrepot.cache.fill import Fill, FillState
from entrepot.cache.recent_failures import Failure
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.states import LayerState, PullState
from entrepot.errors import EntrepotError, NotFound
from entrepot.formatting import counted
from entrepot.store.manifests import Descriptor, Manifest
from entrepot.tasks import OwnedTasks, where_raised

ENDED_PULLS_IN_MEMORY = 200
"""Ended pulls that stay in memory, for callers that wait for their end;
`entrepot.cache.pull_history` has more of them."""

ENDED_PULLS_WITH_LAYERS = 20
"""Ended pulls that stay in memory with their layers."""

MAX_REQUESTERS = 20
"""Clients that a pull names as its requesters, those that came first."""

MAX_RUNNING_PULLS = 100
"""Pulls that fetch at once; others wait for their turn in order. A client that requests a layer
meanwhile gets that layer, and no pull begins for it."""

MAX_WAITING_PULLS = 1_000
"""Pulls that may wait for their turn; more are refused."""

MAX_LAYERS_AT_ONCE = 64
"""Layers of one pull that are fetched, or wait for their turn at the source, at once: the largest
value of ``parallel_per_source``."""

_log = logging.getLogger("entrepot.pull")


class TooManyPulls(EntrepotError):
    """Too many pulls are under way and wait."""

    code = "TooManyPulls"
    status = oci_status = 503


class LayerProgress(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How far one blob of an image is: a layer, or the config. Sizes are in bytes."""

    digest: str
    media_type: str
    size: int
    received: int
    state: LayerState
    waiting_clients: int = 0
    resumed_at: int | None = None
    """The byte at which the fill last resumed."""


class PullProgress(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How far a pull is, as data. Sizes are in bytes, speeds in bytes per second.

    `entrepot.cache.pull_history` stores it under these names (in camelCase): a change of a field
    needs a new version of the stored record.
    """

    id: str
    repository: str
    tag: str | None
    digest: str | None
    """Of the image manifest; None until the tag is resolved."""
    platform: str | None
    """``linux/amd64``; None where the manifest names none."""
    rule: str | None
    login_server: str
    source_repository: str
    state: PullState
    started: float
    ended: float | None = None
    layers: tuple[LayerProgress, ...] = ()
    size: int = 0
    """Of all layers and the config."""
    received: int = 0
    """How much of ``size`` is in the cache: cached before, or received."""
    speed: float = 0.0
    """From the source, over the last seconds."""
    time_left: float | None = None
    from_source: int = 0
    to_clients: int = 0
    waiting_clients: int = 0
    """Clients that read its blobs while they arrive."""
    layer_count: int = 0
    """Layers and the config, also where ``layers`` is left out."""
    asked_by: tuple[str, ...] = ()
    """Addresses of clients, ``cli`` or ``dashboard``."""
    error_code: str | None = None
    error_message: str | None = None
    error_cause: str | None = None
    """The cause of the error, where one is recognised (`entrepot.causes`)."""

    @property
    def image(self) -> str:
        """The image as a user would type it: ``library/nginx:1.27``."""
        if self.tag:
            return f"{self.repository}:{self.tag}"
        return f"{self.repository}@{self.digest}" if self.digest else self.repository


_LAYER_STATES = {
    FillState.WAITING: LayerState.WAITING,
    FillState.RUNNING: LayerState.RUNNING,
    FillState.RESUMED: LayerState.RESUMED,
    FillState.VERIFIED: LayerState.VERIFIED,
    FillState.FAILED: LayerState.FAILED,
}


@dataclass(frozen=True, slots=True)
class PullOrigin:
    """The source of a pull. *rule* is the name of the cache rule."""

    rule: str
    login_server: str
    source_repository: str


@dataclass(frozen=True, slots=True)
class PullSubject:
    """The image that a pull completes."""

    manifest: Manifest
    platform: str | None
    referrers_of: tuple[Digest, ...] = ()
    """Manifests whose referrers belong to the pull; none where they were not requested."""


class _Layer:
    """A blob of the image, and its fill if it has one."""

    __slots__ = ("_progress", "_size", "cached_before", "descriptor", "fill")

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self.fill: Fill | None = None
        self.cached_before = False
        self._size = descriptor.size or 0
        """In bytes; 0 where the manifest states none and it is not known yet. The size of a cached
        copy counts (F82)."""
        self._progress: LayerProgress | None = None

    def join(self, fill: Fill) -> None:
        """Wait for a fill."""
        self.fill = fill
        self.cached_before = False

    def mark_cached(self, size: int) -> None:
        """Record that a copy of *size* bytes was cached already."""
        self.fill = None
        self.cached_before = True
        self._size = size

    def progress(self) -> LayerProgress:
        """The pull's progress as data.

        Returns the same object as before while nothing has changed, because a pull may have a
        thousand layers and is polled every second (S23).
        """
        fill = self.fill
        size = self._size
        if fill is None:
            state, received, clients, resumed_at = (
                (LayerState.CACHED, size, 0, None)
                if self.cached_before
                else (LayerState.WAITING, 0, 0, None)
            )
        else:
            # A blob that the full disk refused was served to clients, but it is not cached.
            state = (
                LayerState.FAILED
                if fill.ended and fill.error is not None
                else _LAYER_STATES[fill.state]
            )
            received, clients, resumed_at = fill.received, fill.readers, fill.resumed_at
            size = max(fill.size, received)
        last = self._progress
        if (
            last is None
            or last.state is not state
            or (last.size, last.received, last.waiting_clients, last.resumed_at)
            != (size, received, clients, resumed_at)
        ):
            last = self._progress = LayerProgress(
                digest=str(self.descriptor.digest),
                media_type=self.descriptor.media_type,
                size=size,
                received=received,
                state=state,
                waiting_clients=clients,
                resumed_at=resumed_at,
            )
        return last


@dataclass
class Pull:
    """The pull of one image of one platform. `Pulls` creates and owns it."""

    id: str
    repository: Repository
    tag: Tag | None
    origin: PullOrigin
    started: float
    platform: str | None = None
    manifest: Manifest | None = None
    referrers_of: tuple[Digest, ...] = ()
    state: PullState = PullState.WAITING
    ended: float | None = None
    error: EntrepotError | None = None
    asked_by: dict[str, None] = field(default_factory=dict)
    layers: list[_Layer] = field(default_factory=list)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    _last: PullProgress | None = None

    def add_requester(self, requester: str | None) -> None:
        """Record which client requests the image.

        It is the client's address, or ``cli`` or ``dashboard``.
        """
        if requester is not None and len(self.asked_by) < MAX_REQUESTERS:
            self.asked_by[requester] = None

    def fills(self) -> Iterable[Fill]:
        """The fills of its layers, ended ones included."""
        return (layer.fill for layer in self.layers if layer.fill is not None)

    def freeze(self) -> None:
        """Keep the progress with which the pull ended, and drop its manifest and fills."""
        self._last = self.progress()
        self.manifest = None
        self.layers = []

    def drop_layers(self) -> None:
        """Drop the layers of a pull that ended some time ago: the history has them."""
        if self._last is not None and self._last.layers:
            self._last = msgspec.structs.replace(self._last, layers=())

    def progress(self) -> PullProgress:
        """The progress of the pull as data."""
        if self._last is not None:
            return self._last
        layers = tuple(layer.progress() for layer in self.layers)
        size = sum(layer.size for layer in layers)
        received = sum(layer.received for layer in layers)
        speed = (
            0.0 if self.state.ended else sum(fill.speed for fill in self.fills() if not fill.ended)
        )
        return PullProgress(
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
            waiting_clients=0
            if self.state.ended
            else sum(layer.waiting_clients for layer in layers),
            layer_count=len(layers),
            asked_by=tuple(self.asked_by),
            error_code=self.error.code if self.error else None,
            error_message=self.error.message if self.error else None,
            error_cause=self.error.cause if self.error else None,
        )


class Pulls:
    """The pulls of an engine, and the owner of their tasks.

    Has those under way, and the last `ENDED_PULLS_IN_MEMORY` that ended. *obtain* returns the fill
    of a blob of a repository, or the size in bytes of a cached blob; *cancel_fill* cancels a fill
    that no other pull needs. *on_change* gets a pull when it begins and when it has ended,
    *on_complete* one whose layers are all cached.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        obtain: Callable[[Repository, Descriptor], Awaitable[Fill | int]],
        cancel_fill: Callable[[Fill], None],
        on_change: Callable[[Pull], None],
        on_complete: Callable[[Pull], Awaitable[None]],
    ) -> None:
        self._clock = clock
        self._obtain = obtain
        self._cancel_fill = cancel_fill
        self._on_change = on_change
        self._on_complete = on_complete
        self._pulls: OrderedDict[str, Pull] = OrderedDict()
        self._under_way: dict[tuple[Repository, Digest], Pull] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(MAX_RUNNING_PULLS)
        self._needed: Counter[Digest] = Counter()
        self._numbers = itertools.count(1)
        self._owned = OwnedTasks()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Pulls]:
        """The time in which pulls can begin; at its end those under way are cancelled."""
        async with self._owned:
            yield self

    def number_from(self, last: int) -> None:
        """Number the next pull *last* + 1: earlier engines numbered theirs."""
        self._numbers = itertools.count(last + 1)

    def all(self) -> list[Pull]:
        """The pulls under way and those that ended, newest first."""
        return list(reversed(self._pulls.values()))

    def running_count(self) -> int:
        """The number of pulls under way."""
        return len(self._tasks)

    @property
    def is_busy(self) -> bool:
        """Whether a new pull would have to wait for others to end."""
        return len(self._tasks) >= MAX_RUNNING_PULLS

    def needed(self) -> Collection[Digest]:
        """The blobs of all pulls under way, cached ones included.

        A live view, cheap to create and to search.
        """
        return self._needed.keys()

    def notices(self) -> Iterator[str]:
        """What an administrator should know while pulls wait for others to end."""
        waiting = len(self._tasks) - MAX_RUNNING_PULLS
        if waiting > 0:
            yield (
                f"{counted(waiting, 'pull waits', 'pulls wait')} for others to end: "
                f"{MAX_RUNNING_PULLS} are under way at once."
            )

    def get(self, id: str) -> Pull:
        """A pull by its id; raises `NotFound`."""
        pull = self._pulls.get(id)
        if pull is None:
            raise NotFound(f"There is no pull {id}.", "It ended long ago, or never existed.")
        return pull

    def of(self, repository: Repository, manifest: Digest) -> Pull | None:
        """The pull under way that completes this image."""
        return self._under_way.get((repository, manifest))

    def images_under_way(self) -> Collection[tuple[Repository, Digest]]:
        """The images that pulls under way complete. A live view."""
        return self._under_way.keys()

    def begin(
        self,
        repository: Repository,
        tag: Tag | None,
        origin: PullOrigin,
        subject: PullSubject | Callable[[], Awaitable[PullSubject]],
        *,
        asked_by: str | None,
    ) -> Pull:
        """Begin a pull of an image, which is known or still to be resolved.

        An image that is being pulled already gets no second pull. Beyond `MAX_RUNNING_PULLS` pulls
        it waits for others to end; beyond `MAX_WAITING_PULLS` more it is refused: raises
        `TooManyPulls`.
        """
        if isinstance(subject, PullSubject) and (
            same := self.of(repository, subject.manifest.digest)
        ):
            same.add_requester(asked_by)
            return same
        if not self._owned.open:
            raise EntrepotError("The engine is stopping.", "Pull again when it runs.")
        if len(self._tasks) >= MAX_RUNNING_PULLS + MAX_WAITING_PULLS:
            raise TooManyPulls(
                f"{MAX_RUNNING_PULLS} pulls are under way, and {MAX_WAITING_PULLS:,} wait for "
                "their end.",
                "Pull again later.",
            )
        pull = Pull(str(next(self._numbers)), repository, tag, origin, self._clock())
        pull.add_requester(asked_by)
        if isinstance(subject, PullSubject):
            self._set_subject(pull, subject)
        self._pulls[pull.id] = pull
        self._drop_old()
        task = self._owned.start(
            self._run(pull, None if isinstance(subject, PullSubject) else subject),
            f"pull {pull.id}",
        )
        self._tasks[pull.id] = task
        # Not at the end of _run: a task that is cancelled before its first step never gets there.
        task.add_done_callback(
            lambda ended_task: self._finish(pull, cancelled=ended_task.cancelled())
        )
        self._on_change(pull)
        return pull

    def cancel(self, id: str) -> Pull:
        """Cancel a pull.

        The fills that no client and no other pull waits for are cancelled too; blobs that are
        complete stay.
        """
        pull = self.get(id)
        task = self._tasks.get(id)
        if task is not None:
            task.cancel()
        return pull

    def _set_subject(self, pull: Pull, subject: PullSubject) -> None:
        pull.manifest = subject.manifest
        pull.platform = subject.platform
        pull.referrers_of = subject.referrers_of
        pull.layers = [
            _Layer(descriptor) for descriptor in subject.manifest.blobs if not descriptor.optional
        ]
        self._needed.update(layer.descriptor.digest for layer in pull.layers)
        self._under_way[pull.repository, subject.manifest.digest] = pull

    async def _run(self, pull: Pull, look_up: Callable[[], Awaitable[PullSubject]] | None) -> None:
        try:
            async with self._turns:
                if look_up is not None:
                    subject = await look_up()
                    same = self.of(pull.repository, subject.manifest.digest)
                    self._set_subject(pull, subject)
                    if same is not None:
                        # Another pull of the same image is under way: this one shares its fills and
                        # ends with it.
                        self._under_way[pull.repository, subject.manifest.digest] = same
                pull.state = PullState.RUNNING
                await self._complete_layers(pull)
                await self._on_complete(pull)
            self._end(pull, PullState.COMPLETED)
        except asyncio.CancelledError:
            # An engine that stops cancels the fills itself, and keeps the received bytes.
            if self._owned.open:
                await self._cancel_fills(pull)
            self._end(pull, PullState.CANCELLED)
        except EntrepotError as error:
            self._end(pull, PullState.FAILED, error)
        except Exception as error:
            _log.error(
                "The pull of %s failed in an unforeseen way: %s",
                pull.repository,
                where_raised(error),
            )
            _log.debug("The pull of %s", pull.repository, exc_info=error)
            self._end(pull, PullState.FAILED, _unforeseen(error))

    def _finish(self, pull: Pull, *, cancelled: bool) -> None:
        """End a pull whose task has ended, in whatever way, for all that wait for it."""
        if not pull.state.ended:
            if cancelled:
                self._end(pull, PullState.CANCELLED)
            else:
                self._end(pull, PullState.FAILED, _unforeseen())
        del self._tasks[pull.id]
        for layer in pull.layers:
            digest = layer.descriptor.digest
            self._needed[digest] -= 1
            if not self._needed[digest]:
                del self._needed[digest]
        pull.freeze()
        pull.finished.set()
        self._on_change(pull)

    async def _complete_layers(self, pull: Pull) -> None:
        """Return when all layers are cached.

        Raises the error of the first layer that can't be fetched.
        """
        errors: dict[int, Exception] = {}
        remaining = iter(enumerate(pull.layers))

        async def complete_next() -> None:
            for index, layer in remaining:
                try:
                    await self._complete(pull, layer)
                except Exception as error:
                    # The other layers go on: what arrives is cached, and the next pull has less to
                    # do.
                    errors[index] = error

        await asyncio.gather(
            *(complete_next() for _ in range(min(MAX_LAYERS_AT_ONCE, len(pull.layers))))
        )
        if errors:
            raise errors[min(errors)]
        # A cached copy may be gone meanwhile: deleted by hand, or found to be damaged.
        for layer in pull.layers:
            if layer.cached_before:
                await self._complete(pull, layer)

    async def _complete(self, pull: Pull, layer: _Layer) -> None:
        blob = await self._obtain(pull.repository, layer.descriptor)
        if isinstance(blob, int):
            layer.mark_cached(blob)
            return
        layer.join(blob)
        await blob.wait()

    async def _cancel_fills(self, pull: Pull) -> None:
        shared = {
            fill
            for other in self._pulls.values()
            if other is not pull and not other.state.ended
            for fill in other.fills()
            if not fill.ended
        }
        cancelled = [
            fill
            for fill in pull.fills()
            if not fill.ended and not fill.readers and fill not in shared
        ]
        for fill in cancelled:
            self._cancel_fill(fill)
        for fill in cancelled:
            await fill.finished.wait()

    def _end(self, pull: Pull, state: PullState, error: EntrepotError | None = None) -> None:
        pull.state = state
        # An ended pull stays in memory: the texts of its error, and not the frames of what failed
        # (S24).
        pull.error = None if error is None else Failure.of(error).error()
        if (
            pull.manifest is not None
            and self._under_way.get((pull.repository, pull.manifest.digest)) is pull
        ):
            del self._under_way[pull.repository, pull.manifest.digest]
        try:
            pull.ended = self._clock()
        except Exception as failure:
            _log.error("The end of pull %s has no time: %s", pull.id, where_raised(failure))
            pull.ended = pull.started

    def _drop_old(self) -> None:
        ended_ids = [id for id, pull in self._pulls.items() if pull.state.ended]
        for id in ended_ids[: max(0, len(ended_ids) - ENDED_PULLS_WITH_LAYERS)]:
            self._pulls[id].drop_layers()
        for id in ended_ids[: max(0, len(ended_ids) - ENDED_PULLS_IN_MEMORY)]:
            del self._pulls[id]


def _unforeseen(error: Exception | None = None) -> EntrepotError:
    what = f" ({where_raised(error)})" if error is not None else ""
    return EntrepotError(
        f"The pull failed for a reason that the engine did not foresee{what}.",
        "The engine's log has the details.",
    )
