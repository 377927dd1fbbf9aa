"""Ended pulls: how each ended and why, kept across restarts."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from entrepot.api.models import PullSnapshot
from entrepot.store.catalog import Catalog

KEPT = 1000
"""Ended pulls that are kept."""

KEPT_FOR = 30 * 86_400.0
"""Seconds after its end for which a pull is kept."""

# Python refuses to read more than 4,300 digits (ValueError), and SQLite counts to 2^63 (S25).
_NUMBER = re.compile(r"[0-9]{1,18}+")

_log = logging.getLogger("entrepot.pull")
_decoder = msgspec.json.Decoder(PullSnapshot)


class PullHistory:
    """The ended pulls of one engine and of those before it. In memory they are without their
    layers, which the catalog has."""

    def __init__(self, catalog: Catalog, clock: Callable[[], float]) -> None:
        self._catalog = catalog
        self._clock = clock
        self._pulls: OrderedDict[int, PullSnapshot] = OrderedDict()
        """By their number, in the order in which they ended."""
        self._unwritten: dict[int, PullSnapshot] = {}

    async def load(self) -> int:
        """Read what earlier engines wrote; gives the largest number that a pull has had."""
        for number, content in await self._catalog.ended_pulls(KEPT):
            try:
                self._pulls[number] = replace(_decoder.decode(content), layers=())
            except msgspec.DecodeError as error:
                _log.warning("The ended pull %d can't be read and is left out: %s", number, error)
        return await self._catalog.last_ended_pull()

    def add(self, pull: PullSnapshot) -> None:
        """Take in a pull that has ended."""
        number = int(pull.id)
        self._unwritten[number] = pull
        self._pulls[number] = replace(pull, layers=())
        while len(self._pulls) > KEPT:
            oldest, _ = self._pulls.popitem(last=False)
            self._unwritten.pop(oldest, None)

    def all(self) -> list[PullSnapshot]:
        """Those of the last 30 days, without their layers, the one that ended last first."""
        since = self._clock() - KEPT_FOR
        return [pull for pull in reversed(self._pulls.values()) if (pull.ended or 0.0) >= since]

    async def get(self, id: str) -> PullSnapshot | None:
        """An ended pull with its layers."""
        if not _NUMBER.fullmatch(id):
            return None
        number = int(id)
        kept = self._pulls.get(number)
        if kept is None or (kept.ended or 0.0) < self._clock() - KEPT_FOR:
            return None
        if number in self._unwritten:
            return self._unwritten[number]
        content = await self._catalog.ended_pull(number)
        return _decoder.decode(content) if content is not None else kept

    async def write(self) -> None:
        """Write those that ended since the last time, and forget the oldest."""
        if not self._unwritten:
            return
        writing = dict(self._unwritten)
        rows = {
            number: (pull.ended or 0.0, msgspec.json.encode(pull))
            for number, pull in writing.items()
        }
        await self._catalog.record_ended_pulls(rows, keep=KEPT, since=self._clock() - KEPT_FOR)
        for number in writing:
            self._unwritten.pop(number, None)
