"""Lists of digests, names or keys as one parameter of a statement.

The list is JSON, which SQLite reads as a table. So a statement has the same text for any number of
values, and SQLAlchemy compiles it once; an ``IN`` with five hundred parameters takes longer to
render than to execute. SQLite finds rows of a listed *pair* by an index only where the pairs are a
table that is joined: ``(a, b) IN (VALUES ...)`` scans.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, func, select

from entrepot.core.reference import Digest, Repository


def listed(name: str) -> Select[Any]:
    """The values of the list that is bound to *name*."""
    return select(func.json_each(bindparam(name)).table_valued("value").c.value)


def list_of(values: Iterable[object]) -> str:
    """A list of texts, for `listed`."""
    return json.dumps([str(value) for value in values])


listed_keys = func.json_each(bindparam("keys")).table_valued("value", name="listed_keys")
"""A table of the keys that are bound to ``keys``: manifests of repositories, from `keys_of`."""

listed_repository: ColumnElement[str] = func.json_extract(listed_keys.c.value, "$[0]")
"""The repository of a listed key."""

listed_digest: ColumnElement[str] = func.json_extract(listed_keys.c.value, "$[1]")
"""The digest of a listed key."""


def keys_of(keys: Iterable[tuple[Repository | str, Digest | str]]) -> str:
    """Keys as a list, for `listed_keys`."""
    return json.dumps([(repository, str(digest)) for repository, digest in keys])
