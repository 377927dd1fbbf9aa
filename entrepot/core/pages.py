"""Pages of listings: an order, and the entry after which a page begins."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ListOrder(StrEnum):
    """The order of a listing of tags or manifests."""

    NAME = "name"
    OLDEST = "oldest"
    NEWEST = "newest"


@dataclass(frozen=True, slots=True)
class ListPosition:
    """The entry after which a page begins: its name or digest.

    *time* is when it was cached, in seconds since the epoch. Without it, a page in the order of
    time begins after the entry of that name, and is empty when there is none any more.
    """

    name: str
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """The part of a listing to read: at most *limit* entries after *after*; None for all."""

    limit: int | None = None
    after: ListPosition | None = None
    order: ListOrder = ListOrder.NAME
