"""What a client gets when a source fails, and how long it waits for a slow one."""

from __future__ import annotations

import copy
from collections.abc import Callable

from entrepot.cache.index import CacheIndex
from entrepot.cache.recent_failures import Failures
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.rules import Route
from entrepot.errors import EntrepotError, ManifestUnknown, RegistryError, RepositoryUnknown
from entrepot.source.client import SourceClient
from entrepot.source.errors import (
    SignInUnsafe,
    SourceAvoided,
    SourceError,
    SourceNotFound,
    SourceRefused,
    SourceUnreachable,
)

REVALIDATION_TIMEOUT = 2.0
"""Seconds that a client waits for a source to revalidate something of which a copy is cached; after
that it gets the copy."""


class SourceFailures(Failures):
    """Turns failures of sources into errors for clients, and remembers them.

    *lifetime* and *clock* are those of `Failures`.
    """

    def __init__(
        self,
        *,
        index: CacheIndex,
        lifetime: float,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(lifetime=lifetime, clock=clock)
        self._index = index

    def timeout(self, client: SourceClient) -> float:
        """Seconds that a client with a copy waits for a source.

        A source that was too slow a moment ago is asked, but no client waits for it.
        """
        return 0.0 if client.is_suspected else REVALIDATION_TIMEOUT

    def too_slow(self, client: SourceClient, route: Route) -> SourceUnreachable:
        """Suspect a source that did not answer in time; return the error that says so."""
        client.suspect()
        return SourceUnreachable(
            f"{route.registry.login_server} does not answer within {REVALIDATION_TIMEOUT:g} s. "
            f"(cache rule {route.rule.name})"
        )

    def failed(
        self,
        repository: Repository,
        reference: str,
        error: SourceError,
        route: Route,
        unknown: type[RegistryError] | None = ManifestUnknown,
        *,
        has_copy: bool = False,
    ) -> EntrepotError:
        """Return the client's error for a source's failure, and remember it.

        A storm of requests must not become a storm at the source. See `for_client` for *unknown*.
        """
        client_error = self.for_client(error, route, unknown)
        # A source that was not even asked costs nothing, and may be back at any moment.
        if not isinstance(error, SourceAvoided):
            self.remember(repository, reference, client_error, has_copy=has_copy)
        return client_error

    def for_client(
        self,
        error: SourceError,
        route: Route,
        unknown: type[RegistryError] | None = ManifestUnknown,
    ) -> EntrepotError:
        """A source's failure with the name of the cache rule.

        Where the source does not have the requested object, the error becomes an *unknown*; with
        None it stays what it is, because "there is none" must not be said of what could not be
        seen.
        """
        # Docker Hub and GHCR answer 401 or 403 for a repository that does not exist. For a client
        # without credentials "unknown" lets it go on to its next registry; with a credential set it
        # is a refusal, and must not pass for a missing image.
        what = f"{error.what} (cache rule {route.rule.name})"
        is_refusal = isinstance(error, SourceRefused) and not isinstance(error, SignInUnsafe)
        if unknown is not None and (
            isinstance(error, SourceNotFound) or (is_refusal and route.rule.credential_set is None)
        ):
            unknown_error = unknown(what, error.hint)
            unknown_error.cause = error.cause
            unknown_error.source_message = error.source_message
            return unknown_error
        client_error = copy.copy(error)
        client_error.what = what
        return client_error

    async def unknown(self, repository: Repository, reference: Tag | Digest) -> EntrepotError:
        """The error for a request to a repository for which no cache rule answers."""
        if await self._index.is_cached(repository):
            return ManifestUnknown(
                f"{reference} of {repository} is not cached, and no cache rule answers for the "
                "repository any more.",
                "Create a cache rule for it to pull more.",
            )
        return no_rule(repository)

    def check_without_copy(self, repository: Repository, reference: Tag | Digest) -> None:
        """Raise the remembered failure of a manifest of which nothing is cached.

        That is known without a question to the catalog, which costs ten times as much.
        """
        is_cached = (
            self._index.is_manifest_in_memory(repository, reference)
            if isinstance(reference, Digest)
            else self._index.tag_in_memory(repository, reference) is not None
        )
        if not is_cached:
            self.check(repository, manifest_key(reference), without_copy=True)


def no_rule(repository: str) -> RepositoryUnknown:
    """The error for a repository that no cache rule answers for and that is not cached."""
    return RepositoryUnknown(
        f"No cache rule answers for {repository}.",
        "Create one in the dashboard or with: entrepot rule create",
    )


def manifest_key(reference: Tag | Digest) -> str:
    """The name under which a failure of a manifest is remembered.

    A blob of the same digest has another name: a client may ask for either.
    """
    return f"manifests/{reference}" if isinstance(reference, Digest) else reference
