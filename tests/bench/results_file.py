"""Measurements in a file, so that tables can be made again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.bench.measurement import Measurement


class ResultsFile(msgspec.Struct):
    """The document in the file (JSON)."""

    rounds: int
    processors: int
    measurements: list[Measurement]


def save(path: Path, results: ResultsFile) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))


def load(paths: Sequence[Path]) -> list[Measurement]:
    """The measurements of some files, in their order."""
    return [
        measurement
        for path in paths
        for measurement in msgspec.json.decode(path.read_bytes(), type=ResultsFile).measurements
    ]
