"""Which repositories exist for a reader.

Every request for a manifest, a blob, tags or referrers passes here first. What a reader may not
read does not exist for that reader: the answer, and the time that it takes, are those for a
repository without a rule, and no source is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from entrepot.cache.failures import no_rule
from entrepot.cache.index import CacheIndex
from entrepot.core.readers import Reader
from entrepot.core.reference import Repository
from entrepot.core.rules import CacheRule, Route
from entrepot.errors import RegistryError, RepositoryUnknown, SignInRequired

_SIGN_IN = "Sign in: docker login, podman login, or a token of: entrepot token create"


class Names(Protocol):
    """Gives the names of at most *limit* repositories in order, those behind *after*."""

    async def __call__(self, *, after: str | None, limit: int) -> Sequence[str]:
        """The names."""


class ReaderPolicy(Protocol):
    """Who may read which repository, by the rules in force."""

    def admits(self, repository: str, reader: Reader) -> bool:
        """Whether a reader may read a repository, if it exists."""

    def admits_rule(self, rule: CacheRule, reader: Reader) -> bool:
        """Whether a reader may read what a rule caches."""

    @property
    def can_sign_in(self) -> bool:
        """Whether there is any reader who can sign in."""

    @property
    def anonymous_may_read_something(self) -> bool:
        """Whether readers who do not sign in may read any rule."""


class EveryoneReads:
    """The policy of an engine without readers."""

    can_sign_in = False
    anonymous_may_read_something = True

    def admits(self, repository: str, reader: Reader) -> bool:  # noqa: ARG002
        """Everyone may read everything."""
        return True

    def admits_rule(self, rule: CacheRule, reader: Reader) -> bool:  # noqa: ARG002
        """Everyone may read everything."""
        return True


class AccessCheck:
    """Refuses what does not exist for a reader. *route* is that of `ArtifactCache`."""

    def __init__(
        self, policy: ReaderPolicy, index: CacheIndex, route: Callable[[str], Route | None]
    ) -> None:
        self._policy = policy
        self._index = index
        self._route = route

    def admits(self, repository: str, reader: Reader) -> bool:
        """Whether a reader may read a repository, if it exists."""
        return self._policy.admits(repository, reader)

    def admits_rule(self, rule: CacheRule, reader: Reader) -> bool:
        """Whether a reader may read what a rule caches."""
        return self._policy.admits_rule(rule, reader)

    def check_reads_something(self, reader: Reader) -> None:
        """Raise `SignInRequired` if a reader has to sign in before anything may be read."""
        if (
            reader.is_anonymous
            and self._policy.can_sign_in
            and not self._policy.anonymous_may_read_something
        ):
            raise SignInRequired("No repository is for readers who do not sign in.", _SIGN_IN)

    async def readable(
        self, reader: Reader, names: Names, *, after: str | None, limit: int
    ) -> Sequence[str]:
        """The first *limit* repositories behind *after* that a reader may read.

        *names* gives those that exist.
        """
        readable: list[str] = []
        while len(readable) < limit:
            page = await names(after=after, limit=limit)
            readable += [name for name in page if self.admits(name, reader)]
            if len(page) < limit:
                break
            after = page[-1]
        return readable[:limit]

    async def check(self, repository: Repository, reader: Reader) -> None:
        """Raise `RepositoryUnknown` or `SignInRequired` unless it exists for the reader.

        It exists when a rule answers for it or something of it is cached.
        """
        if self._policy.admits(repository, reader):
            if self._route(repository) is not None or await self._index.is_cached(repository):
                return
        else:
            # No repository has this name, so the index takes as long as for one that is not cached.
            await self._index.is_cached(Repository(f"{repository}/-"))
        raise self.unknown(repository, reader)

    def unknown(
        self, name: str, reader: Reader, unknown: RepositoryUnknown | None = None
    ) -> RegistryError:
        """The error for a repository that does not exist for a reader, by the name that was sent.

        A reader who could sign in is asked to, whether it exists or not. For others it is
        *unknown*, by default that for a repository without a rule.
        """
        if reader.is_anonymous and self._policy.can_sign_in:
            return SignInRequired(
                f"{name} is not for readers who do not sign in, or does not exist.", _SIGN_IN
            )
        return unknown or no_rule(name)
