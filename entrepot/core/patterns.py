"""The two sides of a cache rule: source repository and target repository.

Pure: no I/O. Both are read as a person types them. Either is one repository or, with a wildcard,
everything below a path. ACR documents ``*`` alone and as the last part of a path, and nothing else
("Wildcards in artifact cache").
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from entrepot.core.hosts import looks_like_host
from entrepot.core.reference import parse_repository, quoted
from entrepot.core.registries import SourceRegistries
from entrepot.errors import Refusal, RepositoryNameInvalid


class SourceLoginServerMissing(Refusal):
    """A source repository does not begin with a login server."""

    code = "SourceLoginServerMissing"


class WildcardInvalid(Refusal):
    """A wildcard is not alone and not the last part of a path."""

    code = "CacheRuleWildcardInvalid"


class NameRange(NamedTuple):
    """Names of repositories in their order: from *first* on, and before *before*."""

    first: str
    before: str


@runtime_checkable
class RepositoryLookup(Protocol):
    """Looks existing repositories up, where they are too many to name all of them."""

    def find_within(self, names: NameRange, limit: int) -> tuple[Sequence[str], int]:
        """The first *limit* repositories within a range, and how many are within it.

        Blocks the thread that calls it.
        """


ExistingRepositories: TypeAlias = Collection[str] | RepositoryLookup
"""The repositories that exist already: their names, or what looks them up."""


@dataclass(frozen=True, slots=True)
class SourceRepository:
    """Where a rule pulls from: one repository, or everything below a path."""

    login_server: str
    path: str
    """Without ``/*``; empty for a whole registry."""
    wildcard: bool

    @classmethod
    def parse(cls, text: str, registries: SourceRegistries) -> SourceRepository:
        """Read ``docker.io/library/*`` as a person types it.

        ``library/`` is put in where Docker Hub needs it. Raises a `Refusal` for
        ``sourceRepository``.
        """
        field = "sourceRepository"
        source = text.strip()
        if not source:
            raise RepositoryNameInvalid(
                "The source repository is missing.",
                "Write a login server and a path, such as docker.io/library/nginx.",
                field=field,
            )
        scheme, separator, rest = source.partition("://")
        if separator:
            raise RepositoryNameInvalid(
                f"Repository name {quoted(source)} is invalid.",
                f"Leave out {scheme}:// and write {rest or 'docker.io/library/nginx'}.",
                field=field,
            )
        host, slash, path = source.partition("/")
        _check_host(source, host, bool(slash), registries)
        registry = registries.find(host, field=field)
        if not path:
            raise RepositoryNameInvalid(
                f"The source repository names no repository of {host}.",
                f"Add its path, or /* for the whole registry: {registry.login_server}/*.",
                field=field,
            )
        prefix, wildcard = _parse_path(path, field)
        return cls(
            registry.login_server, prefix if wildcard else registry.repository(prefix), wildcard
        )

    def __str__(self) -> str:
        return f"{self.login_server}/{_written(self.path, self.wildcard)}"


@dataclass(frozen=True, slots=True)
class TargetRepository:
    """Where a rule's source appears here: one repository, or everything below a path."""

    path: str
    """Without ``/*``; empty for ``*``."""
    wildcard: bool

    @classmethod
    def parse(cls, text: str) -> TargetRepository:
        """Read ``library/*``; raises a `Refusal` for ``targetRepository``."""
        field = "targetRepository"
        target = text.strip()
        if not target:
            raise RepositoryNameInvalid(
                "The target repository is missing.",
                "Write the path under which clients find it here, such as library/nginx.",
                field=field,
            )
        if "://" in target:
            raise RepositoryNameInvalid(
                f"Repository name {quoted(target)} is invalid.",
                "A target is a path alone, without scheme and host: library/nginx.",
                field=field,
            )
        return cls(*_parse_path(target, field))

    def covers(self, repository: str) -> bool:
        """Whether *repository* lies at this target or, with a wildcard, below it."""
        if not self.wildcard:
            return repository == self.path
        return not self.path or repository.startswith(f"{self.path}/")

    @property
    def names(self) -> NameRange:
        """The names that this target covers."""
        # No character of a name sorts before a blank or after a tilde, and / comes before 0.
        if not self.wildcard:
            return NameRange(self.path, f"{self.path} ")
        return NameRange(f"{self.path}/", f"{self.path}0") if self.path else NameRange("", "~")

    def find_covered(
        self, repositories: ExistingRepositories, limit: int
    ) -> tuple[Sequence[str], int]:
        """The first *limit* repositories that this target covers, by name, and their number."""
        if isinstance(repositories, RepositoryLookup):
            return repositories.find_within(self.names, limit)
        covered = sorted(self.covered(repositories))
        return covered[:limit], len(covered)

    def covered(self, repositories: Collection[str]) -> Iterator[str]:
        """The *repositories* that this target covers."""
        if not self.wildcard:
            return iter((self.path,) if self.path in repositories else ())
        prefix = f"{self.path}/" if self.path else ""
        return (repository for repository in repositories if repository.startswith(prefix))

    def __str__(self) -> str:
        return _written(self.path, self.wildcard)


def _check_host(source: str, host: str, has_path: bool, registries: SourceRegistries) -> None:
    """Raise a `Refusal` if a source does not begin with a login server."""
    field = "sourceRepository"
    if host.startswith("*.") and host in registries:
        raise RepositoryNameInvalid(
            f"{host} stands for many registries.",
            f"Write the name of yours: {source.replace('*', 'contoso', 1)}.",
            field=field,
        )
    if looks_like_host(host, has_path=has_path) or host.lower() in registries:
        return
    path = source.strip("/").partition(":")[0]
    example = (
        path if re.fullmatch(r"(?:[a-z0-9._/-]+/)?\*|[a-z0-9._/-]+", path) else "library/nginx"
    )
    raise SourceLoginServerMissing(
        f"The source repository {quoted(source)} names no login server.",
        f"Put one in front: docker.io/{example} if it is in Docker Hub.",
        field=field,
    )


def _parse_path(text: str, field: str) -> tuple[str, bool]:
    """A path without its wildcard, and whether it has one."""
    if text == "*":
        return "", True
    path, wildcard = (text[:-2], True) if text.endswith("/*") else (text, False)
    if "*" in path:
        raise WildcardInvalid(
            f"The wildcard in {quoted(text)} stands where it may not.",
            "A wildcard is * alone, or the last part of a path: library/*.",
            field=field,
        )
    name, at, _ = path.partition("@")
    last = name.rpartition("/")[2]
    if at or ":" in last:
        what = "digest" if at else "tag"
        bare = name[: len(name) - len(last)] + last.partition(":")[0]
        instead = f" and write {bare}{'/*' if wildcard else ''}" if bare else ""
        raise RepositoryNameInvalid(
            f"Repository name {quoted(text)} is invalid: it carries a {what}.",
            f"Leave it out{instead}; a rule covers every tag.",
            field=field,
        )
    if path != path.lower():
        raise RepositoryNameInvalid(
            f"Repository name {quoted(text)} is invalid. All characters should be lowercase.",
            f"Write {text.lower() if len(text) <= 80 else 'it in small letters'}.",
            field=field,
        )
    return parse_repository(path, field=field), wildcard


def _written(path: str, wildcard: bool) -> str:
    if not wildcard:
        return path
    return f"{path}/*" if path else "*"
