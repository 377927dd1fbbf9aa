"""Which cache rules each of many readers may read. Pure: no I/O.

Asking each rule about each reader takes seconds with thousands of readers and rules; here the rules
are looked at once, and a reader costs what only that reader and its groups may read.
"""

from __future__ import annotations

from collections.abc import Iterable

from entrepot.core.readers import GROUP_SIGN, Reader
from entrepot.core.rules import CacheRule


class ReadableRules:
    """The rules that readers may read; the same as `ReaderAccess.admits` for each of them."""

    def __init__(self, rules: Iterable[CacheRule], *, allow_anonymous: bool) -> None:
        """*allow_anonymous* is the setting."""
        self._names: list[str] = []
        # Positions of the rules that everyone, and that all who sign in, may read.
        anonymous: list[int] = []
        signed_in: list[int] = []
        self._by_reader: dict[str, list[int]] = {}
        """Positions of the other rules, by reader, and by group with its ``@``."""
        for position, rule in enumerate(rules):
            self._names.append(rule.name)
            access = rule.access
            if access.admits_anonymous(allow_anonymous=allow_anonymous):
                anonymous.append(position)
                signed_in.append(position)
            elif not access.readers:
                signed_in.append(position)
            else:
                for name in access.readers:
                    self._by_reader.setdefault(name, []).append(position)
        self._signed_in = signed_in
        self._names_anonymous = self._names_at(anonymous)
        self._names_signed_in = self._names_at(signed_in)

    def of(self, reader: Reader) -> tuple[str, ...]:
        """The names of the rules that a reader may read, in the order of the rules."""
        if reader.is_anonymous:
            return self._names_anonymous
        own = {
            position
            for name in (reader.name, *(f"{GROUP_SIGN}{group}" for group in reader.groups))
            for position in self._by_reader.get(name, ())
        }
        if not own:
            return self._names_signed_in
        return self._names_at(sorted([*self._signed_in, *own]))

    def _names_at(self, positions: Iterable[int]) -> tuple[str, ...]:
        return tuple(self._names[position] for position in positions)
