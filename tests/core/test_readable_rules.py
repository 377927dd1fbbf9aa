"""Which rules each reader may read: as each rule says by itself, whatever their number."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product

import pytest

from entrepot.core.patterns import SourceRepository, TargetRepository
from entrepot.core.readable_rules import ReadableRules
from entrepot.core.readers import ANONYMOUS, Reader, ReaderAccess
from entrepot.core.rules import CacheRule

READERS = (
    ANONYMOUS,
    Reader("ci"),
    Reader("ops"),
    Reader("alice", frozenset({"ops"})),
    Reader("bob", frozenset({"ops", "dev"})),
)
NAMES = ((), ("ci",), ("@ops",), ("@ops", "@dev", "bob"), ("ops", "unknown"))
ACCESSES = [
    ReaderAccess(readers, anonymous=anonymous)
    for readers, anonymous in product(NAMES, (None, True, False))
]


def rule(number: int, access: ReaderAccess) -> CacheRule:
    return CacheRule(
        f"rule-{number}",
        SourceRepository("ghcr.io", f"acme/{number}", True),
        TargetRepository(f"acme/{number}", True),
        None,
        datetime(2026, 1, 1, tzinfo=UTC),
        access=access,
    )


@pytest.mark.parametrize("allow_anonymous", [False, True])
def test_a_reader_may_read_the_rules_that_admit_the_reader(*, allow_anonymous: bool) -> None:
    rules = [rule(number, access) for number, access in enumerate(ACCESSES)]
    readable = ReadableRules(rules, allow_anonymous=allow_anonymous)
    for reader in READERS:
        assert readable.of(reader) == tuple(
            rule.name
            for rule in rules
            if rule.access.admits(reader, allow_anonymous=allow_anonymous)
        )


def test_readers_of_the_same_rules_share_them() -> None:
    readable = ReadableRules([rule(0, ReaderAccess())], allow_anonymous=False)
    assert readable.of(Reader("ci")) is readable.of(Reader("alice"))
