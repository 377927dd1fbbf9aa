"""Pulls: start, watch and cancel them, and ask a source where a tag points."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from entrepot.api.models import PullSnapshot, RefreshedTag
from entrepot.cache.cache import ArtifactCache
from entrepot.core.platforms import Platform, normal_architecture
from entrepot.core.reference import ImageReference
from entrepot.engine.api_models import pull_snapshot
from entrepot.engine.routing import Routing
from entrepot.errors import RequestInvalid
from entrepot.event_kinds import EventKind
from entrepot.events import EventLog


class PullService:
    """The pulls of one engine."""

    def __init__(self, *, cache: ArtifactCache, routing: Routing, events: EventLog) -> None:
        self._cache = cache
        self._routing = routing
        self._events = events

    def list(self) -> Sequence[PullSnapshot]:
        """The pulls under way and those that ended, without their layers; newest first."""
        return sorted(
            (*self.list_running(), *map(pull_snapshot, self._cache.history.all())),
            key=lambda pull: int(pull.id),
            reverse=True,
        )

    def list_running(self) -> Sequence[PullSnapshot]:
        """The pulls under way, newest first."""
        return [
            pull_snapshot(pull.progress())
            for pull in self._cache.pulls.all()
            if not pull.state.ended
        ]

    async def get(self, id: str) -> PullSnapshot:
        """A pull with its layers, one of an earlier engine too; raises `NotFound`."""
        progress = await self._cache.history.get(id)
        if progress is None:
            progress = self._cache.pulls.get(id).progress()
        return pull_snapshot(progress)

    async def start(
        self, image: str, platform_name: str | None, asked_by: str, *, referrers: bool = False
    ) -> PullSnapshot:
        """Start a pull of an image, for this machine's platform unless another is named.

        With *referrers* the signatures, SBOMs and other artifacts that refer to it come with it.
        Raises `PlatformInvalid`, or what `ArtifactCache.pull` raises.
        """
        own = Platform.parse(own_platform())
        requested = (
            Platform.parse(platform_name, machine=own)
            if platform_name and platform_name.strip()
            else own
        )
        pull = await self._cache.pull(
            ImageReference.parse(image), requested, asked_by=asked_by, referrers=referrers
        )
        return pull_snapshot(pull.progress())

    async def cancel(self, id: str) -> PullSnapshot:
        """Cancel a pull and wait for its end; one that has ended stays as it is.

        Raises `NotFound`.
        """
        final_progress = await self._cache.history.get(id)
        if final_progress is not None:
            return pull_snapshot(final_progress)
        pull = self._cache.pulls.cancel(id)
        await pull.finished.wait()
        return pull_snapshot(pull.progress())

    async def refresh(self, image: str) -> RefreshedTag:
        """Ask the source where a tag points now, whatever its tag lifetime is.

        Raises what `ArtifactCache.refresh` raises.
        """
        reference = ImageReference.parse(image)
        if reference.digest is not None or reference.tag is None:
            raise RequestInvalid(
                f"{image} is named by its digest, which never changes.",
                "Name a tag: library/nginx:1.27.",
                field="image",
            )
        route = self._routing.route(reference.repository)
        refreshed = await self._cache.refresh(reference.repository, reference.tag)
        name = f"{reference.repository}:{reference.tag}"
        if refreshed.before is not None and refreshed.before != refreshed.digest:
            self._events.record(
                EventKind.TAG_MOVED,
                f"{name} moved from {refreshed.before} to {refreshed.digest}.",
                name,
            )
        return RefreshedTag(
            repository=reference.repository,
            tag=reference.tag,
            source_repository=route.source if route is not None else "",
            digest=str(refreshed.digest),
            before=str(refreshed.before) if refreshed.before is not None else None,
            gone=refreshed.gone,
            problem=refreshed.problem,
        )


def own_platform() -> str:
    """The platform of this machine in the words of image indexes: ``linux/amd64``.

    Images for other systems than Linux are asked for by name.
    """
    return Platform("linux", *normal_architecture(platform.machine())).name
