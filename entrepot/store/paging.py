"""Pages of listings, as queries.

A page is one query with a limit that follows an index (keyset paging), so it takes as long in a
large catalog as in a small one. Entries that are inserted or removed between two pages neither move
other entries to another page nor repeat them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, select, tuple_

from entrepot.core.pages import ListOrder, Page


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
