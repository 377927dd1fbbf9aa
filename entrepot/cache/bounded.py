"""Mappings that clients and sources can make grow, each with a bound.

All of them share one more bound.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, MutableMapping
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Tally:
    """Counts the entries of several mappings together."""

    def __init__(self) -> None:
        self.count = 0


class BoundedMap(MutableMapping[K, V]):
    """A mapping that drops the oldest entry when it has more than *limit*.

    *weigh* gives the weight of a value, by default 1; *tally* counts for all mappings that share
    it.
    """

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
