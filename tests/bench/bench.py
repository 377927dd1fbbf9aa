"""A run of the benchmark: contenders in turn, measurements kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.bench.contenders import (
    Contender,
    Start,
    straight,
    through_another_entrepot,
    through_distribution,
    through_entrepot,
    through_proxy,
)
from tests.bench.measurement import (
    BASELINE,
    DISTRIBUTION,
    ENTREPOT,
    PROXY,
    SOURCE,
    Load,
    Measurement,
)
from tests.bench.nginx import Source
from tests.bench.process_meter import ProcessMeter
from tests.e2e.clients.container_clients import AMD64, ARM64
from tests.fakes.images import FakeImage, build_image

MEGABYTE = 1_000_000

T = TypeVar("T")


@dataclass
class Bench:
    """Where and how often it is measured. *progress* is told of every measurement.

    *baseline* is the Python of another environment, whose Entrepot is measured beside this one;
    *distribution* is the program of a later version of docker-registry.
    """

    root: Path
    rounds: int
    progress: Callable[[str], None] = lambda _: None
    baseline: Path | None = None
    distribution: Path | None = None
    found: list[Measurement] = field(default_factory=list)

    @property
    def engines(self) -> dict[str, Start]:
        """This Entrepot, and the one that it is compared with."""
        engines: dict[str, Start] = {ENTREPOT: through_entrepot}
        if self.baseline is not None:
            engines[BASELINE] = through_another_entrepot(self.baseline)
        return engines

    @property
    def caches(self) -> dict[str, Start]:
        """The engines, and the other registries that cache."""
        caches = self.engines | {PROXY: through_proxy}
        if self.distribution is not None:
            caches[DISTRIBUTION] = through_distribution(self.distribution)
        return caches

    @property
    def caches_and_source(self) -> dict[str, Start]:
        return self.caches | {SOURCE: straight}

    def in_turn(self, contenders: dict[str, T]) -> Iterator[tuple[str, T]]:
        """All rounds: each contender once in each, so that none always has the warmer machine."""
        for number in range(self.rounds):
            first = number % len(contenders)
            yield from [*contenders.items()][first:] + [*contenders.items()][:first]

    @contextmanager
    def source(self, *images: FakeImage, tls: bool = False) -> Iterator[Source]:
        with self.source_of(images, tls=tls) as source:
            yield source

    @contextmanager
    def source_of(self, images: Iterable[FakeImage], *, tls: bool = False) -> Iterator[Source]:
        """A source registry of images that are forgotten one by one."""
        with (
            tempfile.TemporaryDirectory(prefix="s-", dir=self.root) as fresh,
            Source(Path(fresh), images, tls=tls) as source,
        ):
            yield source

    @contextmanager
    def started(self, start: Start, source: Source, image: FakeImage) -> Iterator[Contender]:
        """A contender with empty storage."""
        with (
            tempfile.TemporaryDirectory(prefix="r-", dir=self.root) as fresh,
            start(Path(fresh), source, image) as contender,
        ):
            yield contender

    @contextmanager
    def directory(self) -> Iterator[Path]:
        """An empty directory with a short path."""
        with tempfile.TemporaryDirectory(prefix="d-", dir=self.root) as fresh:
            yield Path(fresh)

    @property
    def home(self) -> Path:
        """For the programs that ask."""
        return self.root / "home"

    def measure(
        self,
        scenario: str,
        contender: Contender,
        source: Source,
        act: Callable[[], Load],
        *,
        expected: int = 0,
        complete: bool = True,
    ) -> Measurement:
        """The time is the clients' time; processor time and requests at the source count until the
        cache has kept everything, or with *complete* false until the clients have ended."""
        before, meter = source.mark(), ProcessMeter(contender.pid)
        load = act()
        if complete:
            contender.complete()
        processor_seconds, peak_memory = meter.processor_seconds, meter.peak_memory
        loop_seconds = meter.main_thread_seconds if contender.name in self.engines else None
        accesses = source.accesses(before)
        gets = [each for each in accesses if each.method == "GET"]
        return self.found_out(
            Measurement(
                scenario=scenario,
                through=contender.name,
                load=load,
                expected=expected,
                source_gets=len(gets),
                source_bytes=sum(each.sent for each in gets),
                processor_seconds=processor_seconds,
                peak_memory=peak_memory,
                source_requests=len(accesses),
                loop_seconds=loop_seconds,
                memory=meter.memory,
            )
        )

    def found_out(self, measurement: Measurement) -> Measurement:
        self.found.append(measurement)
        self.progress(
            f"{measurement.scenario}, {measurement.through}: {measurement.load.seconds:.3f} s"
        )
        return measurement

    def ended(self, since: int) -> list[Measurement]:
        """What a scenario found, in the order of its table."""
        return self.found[since:]


def image_of(name: str, layers: Sequence[int]) -> FakeImage:
    """An image for two platforms, of which one is pulled; *layers* are its sizes in bytes, to the
    next 10 KiB."""
    return build_image(
        f"library/{name}", "1", {AMD64: list(layers), ARM64: [10_000]}, [AMD64, ARM64], index=True
    )
