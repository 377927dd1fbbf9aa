"""Cached repositories of a running engine, and their tags."""

from __future__ import annotations

from typing import Final, TypeAlias
from urllib.parse import quote

import msgspec

from entrepot.api.models import (
    DeletionPlan,
    RefreshedTag,
    RepositoryDetail,
    RepositorySnapshot,
    TagDetail,
)
from entrepot.api.session import ApiSession, path_segment, path_segments

SOURCE_TIMEOUT: Final = 120.0
"""Seconds that a question to a slow source registry may take."""


class _CatalogPage(msgspec.Struct):
    repositories: list[str]


class _NamedTag(msgspec.Struct):
    name: str


class _TagPage(msgspec.Struct):
    tags: list[_NamedTag]


_Repositories: TypeAlias = list[RepositorySnapshot]
_Names: TypeAlias = list[str]


class RepositoriesClient:
    """``client.repositories``: what is cached, by repository and tag."""

    def __init__(self, session: ApiSession) -> None:
        self._session = session

    async def list(self) -> _Repositories:
        """All cached repositories, by name.

        Returns the same list object as long as nothing has changed.
        """
        return await self._session.listing("/entrepot/v1/repositories", _Repositories)

    async def get(self, name: str) -> RepositoryDetail:
        """A cached repository with its tags.

        Returns the same object as long as nothing has changed.
        """
        return await self._session.listing(_path(name), RepositoryDetail)

    async def get_tag(self, repository: str, tag: str) -> TagDetail:
        """A tag with the images behind it, their layers, and what shares these."""
        return await self._session.get(f"{_path(repository)}/_tags/{path_segment(tag)}", TagDetail)

    async def list_names(self, prefix: str, limit: int) -> _Names:
        """Names of at most *limit* cached repositories that begin with *prefix*, in order."""
        page = await self._session.get(
            f"/acr/v1/_catalog?{_page_from(prefix, limit)}", _CatalogPage
        )
        return [name for name in page.repositories if name.startswith(prefix)]

    async def list_tag_names(self, repository: str, prefix: str, limit: int) -> _Names:
        """Names of at most *limit* tags of a repository, in order.

        They begin with *prefix*.
        """
        page = await self._session.get(
            f"/acr/v1/{quote(repository)}/_tags?{_page_from(prefix, limit)}", _TagPage
        )
        return [tag.name for tag in page.tags if tag.name.startswith(prefix)]

    async def preview_delete(self, name: str) -> DeletionPlan:
        """What would go and what would stay if a cached repository were deleted."""
        return await self._session.get(f"{_path(name)}/_plan", DeletionPlan)

    async def preview_delete_tag(self, repository: str, tag: str) -> DeletionPlan:
        """What would go and what would stay if a tag were deleted."""
        return await self._session.get(
            f"{_path(repository)}/_tags/{path_segment(tag)}/_plan", DeletionPlan
        )

    async def delete(self, name: str) -> None:
        """Delete a cached repository and everything that only it needs."""
        await self._session.change("DELETE", f"/acr/v1/{path_segments(name)}")

    async def delete_tag(self, repository: str, tag: str) -> None:
        """Delete a cached tag; the next pull fetches it again."""
        await self._session.change(
            "DELETE", f"/acr/v1/{path_segments(repository)}/_tags/{path_segment(tag)}"
        )

    async def lock(
        self, repository: str, tag: str | None = None, digest: str | None = None
    ) -> None:
        """Protect a repository, a tag or a manifest from eviction and deletion.

        Everything that it needs is protected with it.
        """
        await self._session.change(
            "PATCH", _lockable_path(repository, tag, digest), {"deleteEnabled": False}
        )

    async def unlock(
        self, repository: str, tag: str | None = None, digest: str | None = None
    ) -> None:
        """Remove one lock; others stay."""
        await self._session.change(
            "PATCH", _lockable_path(repository, tag, digest), {"deleteEnabled": True}
        )

    async def refresh_tag(self, image: str) -> RefreshedTag:
        """Ask the source where a tag points now, whatever its tag lifetime is.

        If it has moved, only the manifest is fetched.
        """
        return await self._session.send(
            "POST",
            "/entrepot/v1/refresh",
            RefreshedTag,
            {"image": image},
            read_timeout=SOURCE_TIMEOUT,
        )


def _path(name: str) -> str:
    return f"/entrepot/v1/repositories/{path_segments(name)}"


def _lockable_path(repository: str, tag: str | None, digest: str | None) -> str:
    path = f"/acr/v1/{path_segments(repository)}"
    if digest is not None:
        return f"{path}/_manifests/{path_segment(digest)}"
    return path if tag is None else f"{path}/_tags/{path_segment(tag)}"


def _page_from(prefix: str, limit: int) -> str:
    """The query of a page that begins with the first name at or after *prefix*.

    ``last`` is the name that a page comes after, so it names one just before the prefix.
    """
    if not prefix:
        return f"n={limit}"
    just_before = f"{prefix[:-1]}{chr(max(1, ord(prefix[-1]) - 1))}~"
    return f"n={limit}&last={quote(just_before, safe='')}"
