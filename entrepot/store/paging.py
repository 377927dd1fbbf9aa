"""Pages of listings: an order, and the entry after which a page begins.

A page is one query with a limit that follows an index (keyset paging), so it takes as long in a
large catalog as in a small one. Entries that are inserted or removed between two pages neither move
other entries to another page nor repeat them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Select, select, tuple_


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


def page_of(
    query: Select[Any],
    page: Page,
    scope: ColumnElement[bool],
    *,
    name: ColumnElement[Any],
    time: ColumnElement[Any],
) -> Select[Any]:
    """*query* with the order and limits of a page of the rows that *scope* selects."""
    after = page.after
    query = query.where(scope)
    if page.order is ListOrder.NAME:
        if after is not None:
            query = query.where(name > after.name)
        return query.order_by(name).limit(page.limit)
    if after is not None:
        time_of_last = select(time).where(scope, name == after.name).scalar_subquery()
        key = tuple_(time, name)
        last = tuple_(after.time if after.time is not None else time_of_last, after.name)
        query = query.where(key > last if page.order is ListOrder.OLDEST else key < last)
    columns = (time.desc(), name.desc()) if page.order is ListOrder.NEWEST else (time, name)
    return query.order_by(*columns).limit(page.limit)
