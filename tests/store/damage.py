"""A catalog that is damaged as a failing disk damages it."""

from __future__ import annotations

import sqlite3
from pathlib import Path


def damage_table(catalog: Path, name: str) -> None:
    """Overwrite the first page of a table (or index); the others can still be read. Open
    connections may not see it before they are closed."""
    connection = sqlite3.connect(catalog)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    [root] = connection.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)
    ).fetchone()
    [size] = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    with catalog.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xa5" * size)
