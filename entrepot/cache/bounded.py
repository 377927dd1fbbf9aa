"""Mappings that clients and sources can make grow, each with a bound.

Several share one more bound.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, MutableMapping
from typing import Generic, Protocol, TypeVar

KEPT_SHARE = 0.75
"""The share of the entries of all groups that stays when there are too many: the oldest groups are
not dropped one by one."""


class Group(Protocol):
    """Bounded mappings that belong together, and count in one tally."""

    def release(self) -> None:
        """Stop counting in the tally, because the group is dropped."""


K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
G = TypeVar("G", bound=Group)


class Tally:
    """Counts the entries of several mappings together."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class BoundedMap(MutableMapping[K, V]):
    """A mapping that drops the oldest entry when it has more than *limit*.

    *weigh* gives the weight of a value, by default 1; *tally* counts for all mappings that share
    it.
    """

    # There are several for each repository in memory.
    __slots__ = ("_items", "_limit", "_tally", "_weigh", "_weight")

    def __init__(self, limit: int, tally: Tally, weigh: Callable[[V], int] = lambda _: 1) -> None:
        self._limit = limit
        self._tally = tally
        self._weigh = weigh
        self._items: OrderedDict[K, V] = OrderedDict()
        self._weight = 0

    def __getitem__(self, key: K) -> V:
        return self._items[key]

    def __setitem__(self, key: K, value: V) -> None:
        if key in self._items:
            self._count(-self._weigh(self._items[key]))
        self._items[key] = value
        self._items.move_to_end(key)
        self._count(self._weigh(value))
        while self._weight > self._limit and len(self._items) > 1:
            _, oldest = self._items.popitem(last=False)
            self._count(-self._weigh(oldest))

    def use(self, key: K) -> V | None:
        """The value of *key*, which becomes the last one; None where it has none."""
        value = self._items.get(key)
        if value is not None:
            self._items.move_to_end(key)
        return value

    def note(self, key: K, value: V) -> None:
        """Set a value that differs from the present one.

        An equal value keeps its place in the order: this costs a tenth.
        """
        if self._items.get(key) != value:
            self[key] = value

    def __delitem__(self, key: K) -> None:
        self._count(-self._weigh(self._items.pop(key)))

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __reversed__(self) -> Iterator[K]:
        """The keys, the last that was set first."""
        return reversed(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def clear(self) -> None:
        """Drop all entries."""
        self._items.clear()
        self._count(-self._weight)

    def release(self) -> None:
        """Stop counting in the common tally, because the mapping is dropped."""
        self._tally.count -= self._weight
        self._tally = Tally()
        self._tally.count = self._weight

    def _count(self, more: int) -> None:
        self._weight += more
        self._tally.count += more


class BoundedGroups(Generic[K, G]):
    """Groups by key, those used last: at most *limit*, with at most *max_entries* together."""

    def __init__(self, create: Callable[[Tally], G], *, limit: int, max_entries: int) -> None:
        self.limit = limit
        self.max_entries = max_entries
        self._create = create
        self._tally = Tally()
        self._groups: OrderedDict[K, G] = OrderedDict()

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def entries(self) -> int:
        """The entries of all groups together."""
        return self._tally.count

    def get(self, key: K) -> G | None:
        """The group of *key*, which becomes the last one; None where it has none."""
        group = self._groups.get(key)
        if group is not None:
            self._groups.move_to_end(key)
        return group

    def of(self, key: K) -> G:
        """The group of *key*, which becomes the last one; a new one where it has none.

        Drops the oldest groups beyond the bounds.
        """
        group = self.get(key)
        if group is None:
            group = self._groups[key] = self._create(self._tally)
            if len(self._groups) > self.limit:
                self._drop_oldest()
        if self._tally.count > self.max_entries:
            while self._tally.count > self.max_entries * KEPT_SHARE and len(self._groups) > 1:
                self._drop_oldest()
        return group

    def drop(self, key: K) -> None:
        """Drop the group of *key*."""
        group = self._groups.pop(key, None)
        if group is not None:
            group.release()

    def _drop_oldest(self) -> None:
        _, oldest = self._groups.popitem(last=False)
        oldest.release()
