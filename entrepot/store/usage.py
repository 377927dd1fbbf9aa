"""What clients used, as the catalog records it.

Pulls of repositories, tags and manifests, blobs, and requests of rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sqlalchemy import bindparam, insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store import schema
from entrepot.store.schema import CHUNK_SIZE


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used since the last `Catalog.record_usage`.

    Times are seconds since the epoch.
    """

    pulls: Mapping[Repository, tuple[int, float]]
    """How often a repository was pulled, and when last."""
    tags: Mapping[tuple[Repository, Tag], float]
    manifests: Mapping[tuple[Repository, Digest], float]
    blobs: Mapping[Digest, float]
    head_requests: Mapping[tuple[Repository, Digest], float] = field(default_factory=dict)
    """Manifests that clients requested with HEAD only: a use, but no pull."""
    requests: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """By the name of the rule: manifests that clients got, and requests for them to the source."""


async def write_usage(connection: AsyncConnection, usage: Usage) -> None:
    """Write *usage* within a write transaction.

    Each statement takes many rows: they are bound on the event loop, `CHUNK_SIZE` at a time.
    """
    await _execute(
        connection,
        _PULLS,
        (
            {"in_repository": repository, "more": count, "last": last}
            for repository, (count, last) in usage.pulls.items()
        ),
    )
    await _execute(
        connection,
        _TAGS,
        (
            {"in_repository": repository, "of_tag": tag, "last": last}
            for (repository, tag), last in usage.tags.items()
        ),
    )
    for statement, manifests in ((_MANIFESTS, usage.manifests), (_HEADS, usage.head_requests)):
        await _execute(
            connection,
            statement,
            (
                {"in_repository": repository, "of_digest": str(digest), "last": last}
                for (repository, digest), last in manifests.items()
            ),
        )
    await _execute(
        connection,
        _BLOBS,
        ({"of_digest": str(digest), "last": last} for digest, last in usage.blobs.items()),
    )
    await _execute(connection, _NEW_RULES, ({"of_rule": rule} for rule in usage.requests))
    await _execute(
        connection,
        _RULES,
        (
            {"of_rule": rule, "to_clients": to_clients, "to_source": to_source}
            for rule, (to_clients, to_source) in usage.requests.items()
        ),
    )


async def _execute(
    connection: AsyncConnection, statement: Any, rows: Iterator[dict[str, Any]]
) -> None:
    """Execute a statement for all *rows*."""
    while chunk := list(islice(rows, CHUNK_SIZE)):
        await connection.execute(statement, chunk)


def _update_link() -> Any:
    links = schema.repository_manifests.c
    return update(schema.repository_manifests).where(
        links.repository == bindparam("in_repository"), links.digest == bindparam("of_digest")
    )


_last_used = schema.repository_manifests.c.last_used
_requests = schema.rule_requests.c

_PULLS = (
    update(schema.repositories)
    .where(schema.repositories.c.name == bindparam("in_repository"))
    .values(pulls=schema.repositories.c.pulls + bindparam("more"), last_pull=bindparam("last"))
)
_TAGS = (
    update(schema.tags)
    .where(
        schema.tags.c.repository == bindparam("in_repository"),
        schema.tags.c.name == bindparam("of_tag"),
    )
    .values(last_pull=bindparam("last"))
)
_MANIFESTS = _update_link().values(last_pull=bindparam("last"), last_used=bindparam("last"))
_HEADS = (
    _update_link()
    .where(_last_used.is_(None) | (_last_used < bindparam("last")))
    .values(last_used=bindparam("last"))
)
_BLOBS = (
    update(schema.blobs)
    .where(schema.blobs.c.digest == bindparam("of_digest"))
    .values(last_used=bindparam("last"))
)
_NEW_RULES = (
    insert(schema.rule_requests)
    .prefix_with("OR IGNORE")
    .values(rule=bindparam("of_rule"), answered=0, made=0)
)
_RULES = (
    update(schema.rule_requests)
    .where(_requests.rule == bindparam("of_rule"))
    .values(
        answered=_requests.answered + bindparam("to_clients"),
        made=_requests.made + bindparam("to_source"),
    )
)
