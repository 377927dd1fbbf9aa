"""Ended pulls: how each ended and why, also across restarts.

Each is stored as a JSON record that belongs to this module. Its key ``version`` says what the
record means; version 1, which older engines wrote, has the same keys except ``version``.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from entrepot.cache.pull import PullProgress
from entrepot.store.catalog import Catalog

MAX_PULLS = 1000
"""Ended pulls that the history has at most."""

MAX_AGE = 30 * 86_400.0
"""Seconds after its end for which the history has a pull."""

RECORD_VERSION = 2

# Python refuses to read more than 4,300 digits (ValueError), and SQLite counts to 2^63 (S25).
_NUMBER = re.compile(r"[0-9]{1,18}+")

_log = logging.getLogger("entrepot.pull")


class _PullRecord(PullProgress, frozen=True, kw_only=True, rename="camel"):
    """An ended pull as the catalog stores it."""

    version: int = 1


_decoder = msgspec.json.Decoder(_PullRecord)


class PullHistory:
    """The ended pulls of this engine and of those before it on the same data directory.

    Only the catalog has their layers; in memory they are without.
    """

    def __init__(self, catalog: Catalog, clock: Callable[[], float]) -> None:
        self._catalog = catalog
        self._clock = clock
        self._pulls: OrderedDict[int, PullProgress] = OrderedDict()
        """By their number, in the order in which they ended."""
        self._unwritten: dict[int, PullProgress] = {}

    async def load(self) -> int:
        """Read the pulls of earlier engines; return the largest number that a pull has had."""
        for number, content in await self._catalog.ended_pulls(MAX_PULLS):
            try:
                self._pulls[number] = replace(decode_record(content), layers=())
            except msgspec.DecodeError as error:
                _log.warning("The ended pull %d can't be read and is left out: %s", number, error)
        return await self._catalog.last_ended_pull()

    def add(self, pull: PullProgress) -> None:
        """Add a pull that has ended."""
        number = int(pull.id)
        self._unwritten[number] = pull
        self._pulls[number] = replace(pull, layers=())
        while len(self._pulls) > MAX_PULLS:
            oldest, _ = self._pulls.popitem(last=False)
            self._unwritten.pop(oldest, None)

    def all(self) -> list[PullProgress]:
        """The pulls of the last 30 days without their layers, the last that ended first."""
        since = self._clock() - MAX_AGE
        return [pull for pull in reversed(self._pulls.values()) if (pull.ended or 0.0) >= since]

    async def get(self, id: str) -> PullProgress | None:
        """An ended pull with its layers; None when the history has none of this id."""
        if not _NUMBER.fullmatch(id):
            return None
        number = int(id)
        pull = self._pulls.get(number)
        if pull is None or (pull.ended or 0.0) < self._clock() - MAX_AGE:
            return None
        if number in self._unwritten:
            return self._unwritten[number]
        content = await self._catalog.ended_pull(number)
        return decode_record(content) if content is not None else pull

    async def write(self) -> None:
        """Write the pulls that ended since the last call, and delete the oldest."""
        if not self._unwritten:
            return
        pulls = dict(self._unwritten)
        rows = {number: (pull.ended or 0.0, encode_record(pull)) for number, pull in pulls.items()}
        await self._catalog.record_ended_pulls(rows, keep=MAX_PULLS, since=self._clock() - MAX_AGE)
        for number in pulls:
            self._unwritten.pop(number, None)


def encode_record(pull: PullProgress) -> bytes:
    """The record of an ended pull, in the newest version."""
    return msgspec.json.encode({"version": RECORD_VERSION, **msgspec.to_builtins(pull)})


def decode_record(content: bytes) -> PullProgress:
    """Read a record of any version; raises `msgspec.DecodeError`."""
    record = _decoder.decode(content)
    if record.version > RECORD_VERSION:
        raise msgspec.ValidationError(f"Its version {record.version} is that of a newer Entrepot")
    return msgspec.convert(record, PullProgress, from_attributes=True)
