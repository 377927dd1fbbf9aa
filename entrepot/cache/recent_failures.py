"""Failures of the last seconds, by repository and reference.

With them a storm of requests does not become a storm at a source registry. A failure is remembered
as its class and its texts. The exception itself would keep its traceback and its cause, and with
them the frames, responses and buffers of the request that failed: 25 kB each (S24). It is raised
again as a new exception.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from entrepot.core.reference import Repository
from entrepot.errors import EntrepotError

REMEMBERED_FAILURES = 10_000
"""Repositories, tags and digests whose failures are remembered."""

TEXT_LIMIT = 1_000
"""Characters of each text of a failure that are remembered."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The class of an error and its fields.

    They are texts and numbers: nothing that leads to the request that failed.
    """

    kind: type[EntrepotError]
    fields: tuple[tuple[str, str | float | None], ...]

    @classmethod
    def of(cls, error: EntrepotError) -> Self:
        """The class and the texts of an error."""
        fields = (
            (name, value[:TEXT_LIMIT] if isinstance(value, str) else value)
            for name, value in vars(error).items()
            if value is None or isinstance(value, (str, int, float))
        )
        return cls(type(error), tuple(fields))

    def error(self) -> EntrepotError:
        """A new error of the same class, with the same fields."""
        fields = dict(self.fields)
        # Not its constructor: each class has other arguments, and the fields have what they set.
        error = self.kind.__new__(self.kind, fields.get("what", ""))
        vars(error).update(fields)
        return error


@dataclass(frozen=True, slots=True)
class _RecentFailure:
    failure: Failure
    until: float
    has_copy: bool


class Failures:
    """Failures by repository and reference, each for *lifetime* seconds.

    *clock* is monotonic, in seconds. Of more than *limit* failures those go first that were not
    requested again, as long as they take half of the room: a client that asks for a million unknown
    tags makes no source repeat what many clients ask for.
    """

    def __init__(
        self, *, lifetime: float, clock: Callable[[], float], limit: int = REMEMBERED_FAILURES
    ) -> None:
        self._lifetime = lifetime
        self._clock = clock
        self._limit = limit
        # All have the same lifetime: the oldest is the first to expire.
        self._new: OrderedDict[tuple[Repository, str], _RecentFailure] = OrderedDict()
        self._repeated: OrderedDict[tuple[Repository, str], _RecentFailure] = OrderedDict()
        """Failures that were requested again, in the order of the first time."""

    def __len__(self) -> int:
        return len(self._new) + len(self._repeated)

    def remember(
        self,
        repository: Repository,
        reference: str,
        error: EntrepotError,
        *,
        has_copy: bool = False,
    ) -> None:
        """Remember the failure of *reference*.

        With *has_copy* something is cached that can be served meanwhile.
        """
        self.drop_expired()
        self.forget(repository, reference)
        self._new[repository, reference] = _RecentFailure(
            Failure.of(error), self._clock() + self._lifetime, has_copy
        )
        while len(self) > self._limit:
            oldest = self._new if len(self._new) > self._limit // 2 else self._repeated
            oldest.popitem(last=False)

    def check(self, repository: Repository, reference: str, *, without_copy: bool = False) -> None:
        """Raise the remembered failure of *reference*, as a new exception.

        With *without_copy* only where nothing cached could be served instead.
        """
        key = (repository, reference)
        recent = self._repeated.get(key)
        if recent is None:
            recent = self._new.get(key)
        if recent is None or (without_copy and recent.has_copy):
            return
        if self._clock() >= recent.until:
            self.forget(repository, reference)
            return
        if self._new.pop(key, None) is not None:
            self._repeated[key] = recent
        raise recent.failure.error()

    def forget(self, repository: Repository, reference: str) -> None:
        """Forget the failure of *reference*, which has succeeded."""
        self._new.pop((repository, reference), None)
        self._repeated.pop((repository, reference), None)

    def drop_expired(self) -> None:
        """Drop the failures whose time is over.

        One that was requested again may stay for another lifetime.
        """
        now = self._clock()
        for failures in (self._new, self._repeated):
            while failures and next(iter(failures.values())).until <= now:
                failures.popitem(last=False)

    def clear(self) -> None:
        """Forget all failures."""
        self._new.clear()
        self._repeated.clear()
