"""What clients used, as the catalog records it.

Pulls of repositories, tags and manifests, blobs, and requests of rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.store import schema
from entrepot.store.rows import insert_missing, is_link


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
    """Write *usage* within a write transaction."""
    for repository, (count, last) in usage.pulls.items():
        values = {"pulls": schema.repositories.c.pulls + count, "last_pull": last}
        await connection.execute(
            update(schema.repositories)
            .where(schema.repositories.c.name == repository)
            .values(values)
        )
    for (repository, tag), last in usage.tags.items():
        await connection.execute(
            update(schema.tags)
            .where(schema.tags.c.repository == repository, schema.tags.c.name == tag)
            .values(last_pull=last)
        )
    for (repository, digest), last in usage.manifests.items():
        await connection.execute(
            update(schema.repository_manifests)
            .where(is_link(repository, digest))
            .values(last_pull=last, last_used=last)
        )
    for (repository, digest), last in usage.head_requests.items():
        last_used = schema.repository_manifests.c.last_used
        is_newer = is_link(repository, digest) & (last_used.is_(None) | (last_used < last))
        await connection.execute(
            update(schema.repository_manifests).where(is_newer).values(last_used=last)
        )
    for digest, last in usage.blobs.items():
        await connection.execute(
            update(schema.blobs).where(schema.blobs.c.digest == str(digest)).values(last_used=last)
        )
    for rule, (to_clients, to_source) in usage.requests.items():
        await insert_missing(
            connection, schema.rule_requests, {"rule": rule}, {"answered": 0, "made": 0}
        )
        totals = {
            "answered": schema.rule_requests.c.answered + to_clients,
            "made": schema.rule_requests.c.made + to_source,
        }
        await connection.execute(
            update(schema.rule_requests).where(schema.rule_requests.c.rule == rule).values(totals)
        )
