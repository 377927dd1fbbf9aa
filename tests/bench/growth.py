"""How an engine grows with its catalog: start, listings, single things, deletion and eviction."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.bench.bench import Bench
from tests.bench.growth_catalogs import CACHED_MANIFEST, Size, copied, engine_on, prepare, write
from tests.bench.growth_trial import Trial
from tests.bench.measurement import BASELINE, ENTREPOT, Measurement
from tests.bench.probe import Probe

PROBE_INTERVAL = 0.01
"""Seconds."""


def growth(bench: Bench, sizes: Sequence[Size], *, data: Path | None = None) -> list[Measurement]:
    """Catalogs of some sizes. They are written below *data*, unless they are there already."""
    since = len(bench.found)
    pythons: dict[str, Path | None] = {ENTREPOT: None}
    if bench.baseline is not None:
        pythons[BASELINE] = bench.baseline
    for size in sizes:
        with bench.directory() as root:
            original = (data or root) / f"{size.what}-{size.count}"
            if not original.is_dir():
                bench.progress(f"writing {size}")
                write(size, original, bench.baseline)
            prepared = {name: root / f"p{number}" for number, name in enumerate(pythons)}
            for name, python in pythons.items():
                prepare(original, prepared[name], python)
            for name, python in bench.in_turn(pythons):
                with (
                    copied(prepared[name], root / "x") as copy,
                    engine_on(copy, python) as engine,
                    Probe(engine.address, CACHED_MANIFEST, PROBE_INTERVAL, bench.home) as probe,
                ):
                    Trial(bench, size, name, engine, probe).run()
            if data is None:
                shutil.rmtree(original)
    return bench.ended(since)
