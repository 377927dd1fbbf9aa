"""The statements that a catalog executes, their plans and their rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event

from entrepot.store.catalog import Catalog


@dataclass(frozen=True)
class ReadStatement:
    """A statement that a read executed, on the catalog *path*."""

    path: str
    sql: str
    parameters: Any

    def plan(self) -> list[str]:
        """What SQLite does for it, a line for each step."""
        return [row[3] for row in self._execute(f"EXPLAIN QUERY PLAN {self.sql}")]

    def rows(self) -> int:
        """The rows that it returns."""
        return len(self._execute(self.sql))

    def _execute(self, sql: str) -> list[Any]:
        connection = sqlite3.connect(self.path)
        try:
            return connection.execute(sql, self.parameters).fetchall()
        finally:
            connection.close()


@contextmanager
def recorded_reads(catalog: Catalog) -> Iterator[list[ReadStatement]]:
    """The statements of reads within the block; that which begins a transaction is left out."""
    statements: list[ReadStatement] = []
    engine = catalog._readers._engine

    def record(
        _connection: Any, _cursor: Any, sql: str, parameters: Any, _context: Any, _many: bool
    ) -> None:
        if sql != "BEGIN":
            statements.append(ReadStatement(str(catalog.path), sql, parameters))

    event.listen(engine, "after_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(engine, "after_cursor_execute", record)
