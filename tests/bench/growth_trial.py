"""What is asked of an engine with a large catalog, and what another client sees meanwhile."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any

from tests.bench.bench import Bench
from tests.bench.engine_requests import EngineRequests
from tests.bench.growth_catalogs import Size, settle
from tests.bench.growth_data import LARGE, repository_name, tag_name
from tests.bench.measurement import Load, Measurement
from tests.bench.probe import Probe
from tests.bench.process_meter import ProcessMeter
from tests.e2e.clients.entrepot import Entrepot

REPEATED = 10
"""Requests of one kind, at the most."""

REPEATED_FOR = 0.5
"""Seconds after which a request is not repeated any more."""

IDLE_AFTER_START = 1.0
"""Seconds without work after which the start is over."""

EVICTION_LIMIT = 20.0
"""Seconds after which an eviction ends with its engine; what it has evicted until then counts."""

REQUEST_LIMIT = 60.0
"""Seconds after which any other request has failed."""


@dataclass
class Trial:
    """An engine with a large catalog, and the client beside it."""

    bench: Bench
    size: Size
    name: str
    engine: Entrepot
    probe: Probe
    requests: EngineRequests = field(init=False)

    def __post_init__(self) -> None:
        self.requests = EngineRequests.to(self.engine.address, self.engine.root)

    def run(self) -> None:
        """Start the engine, and ask it for everything that is measured."""
        self._start()
        if self.size.what == "tags":
            self._ask_about_tags()
        else:
            self._ask_about_repositories()
            self._evict()

    def _start(self) -> None:
        started = time.monotonic()
        process = self.engine.launch()
        meter = ProcessMeter(process.pid)
        first_answer = self.probe.first_answer()
        process.wait_for_line("answers container clients")
        settle(process.pid, idle=IDLE_AFTER_START)
        settled = time.monotonic()
        self._record(
            "start: first answer",
            Load(first_answer - started),
            processor_seconds=meter.processor_seconds,
            peak_memory=meter.peak_memory,
            memory=meter.memory,
        )
        after = self.probe.load(first_answer, settled)
        assert after.longest is not None
        self._record(
            "start: longest wait of another client afterwards",
            Load(after.longest, failed=after.failed),
            probe=after,
            loop_lag=self.requests.loop_lag(),
        )

    def _ask_about_repositories(self) -> None:
        get, manage = self.requests.get, self.requests.manage
        middle = repository_name(self.size.count // 2)
        rule = partial(manage, "GET", _own("rules/bench-0"))
        # Before anything else has counted the use of the rules.
        self._measure("rule show, the first time", rule, repeated=1)
        self._measure("rule show", rule)
        self._measure("_catalog?n=10", partial(get, "/v2/_catalog?n=10"))
        self._measure("_catalog?n=1000", partial(get, "/v2/_catalog?n=1000"))
        self._measure(
            "_catalog?n=10, from the middle", partial(get, f"/v2/_catalog?n=10&last={middle}")
        )
        self._measure(
            "repositories, as the dashboard asks", partial(manage, "GET", _own("repositories"))
        )
        self._measure("entrepot repository list --json", self._command("repository", "list"))
        self._measure("status", partial(manage, "GET", _own("status")))
        self._measure("entrepot status --json", self._command("status"))
        self._measure("entrepot rule show", self._command("rule", "show", "--name", "bench-0"))
        self._measure("one repository", partial(manage, "GET", _own(f"repositories/{middle}")))

    def _ask_about_tags(self) -> None:
        get, manage = self.requests.get, self.requests.manage
        tag = tag_name(self.size.count // 2)
        one_tag = f"/acr/v1/{LARGE}/_tags/{tag}"
        self._measure("tags/list?n=10", partial(get, f"/v2/{LARGE}/tags/list?n=10"))
        self._measure("tags/list", partial(get, f"/v2/{LARGE}/tags/list"))
        self._measure("_tags?n=10", partial(manage, "GET", f"/acr/v1/{LARGE}/_tags?n=10"))
        self._measure("one tag", partial(manage, "GET", one_tag))
        self._measure(
            "one tag, as the dashboard shows it",
            partial(manage, "GET", _own(f"repositories/{LARGE}/_tags/{tag}")),
        )
        self._measure("lock one tag", partial(manage, "PATCH", one_tag, {"deleteEnabled": False}))
        manage("PATCH", one_tag, {"deleteEnabled": True})
        self._measure("repository show", partial(manage, "GET", _own(f"repositories/{LARGE}")))
        self._measure(
            "repository delete",
            partial(manage, "DELETE", f"/acr/v1/{LARGE}", timeout=REQUEST_LIMIT),
            repeated=1,
        )

    def _evict(self) -> None:
        plan = partial(
            self.requests.manage,
            "POST",
            _own("checks/eviction"),
            {"target": 0},
            timeout=REQUEST_LIMIT,
        )
        self._measure("evict --dry-run --to 0", plan, repeated=1)
        if not self.engine.process.is_running:
            self.engine.start()
        images = "SELECT count(*) FROM repository_manifests"
        before, cached = self._count(images), self._count("SELECT sum(size) FROM blobs")
        evict = partial(
            self.requests.manage,
            "POST",
            _own("evict"),
            {"target": cached // 2},
            timeout=EVICTION_LIMIT,
        )
        self._measure("evict half", evict, repeated=1, count=lambda: before - self._count(images))

    def _count(self, query: str) -> int:
        """A number from the catalog, whose tables are older than all engines that are measured."""
        catalog = f"file:{self.engine.directories.catalog}?mode=ro"
        with closing(sqlite3.connect(catalog, uri=True)) as connection:
            return int(connection.execute(query).fetchone()[0])

    def _command(self, *arguments: str) -> Callable[[], object]:
        return partial(self.engine.run, *arguments, "--json")

    def _measure(
        self,
        what: str,
        act: Callable[[], object],
        *,
        repeated: int = REPEATED,
        count: Callable[[], int] | None = None,
    ) -> None:
        """Do something a few times, and note the median. *count* says afterwards how many images
        that took."""
        meter = ProcessMeter(self.engine.process.pid)
        start, waits, failed = time.monotonic(), list[float](), 0
        while len(waits) < repeated and time.monotonic() - start < REPEATED_FOR and not failed:
            began = time.monotonic()
            try:
                act()
            except TimeoutError:
                failed = 1
            waits.append(time.monotonic() - began)
        end = time.monotonic()
        processor_seconds, peak_memory = meter.processor_seconds, meter.peak_memory
        memory = meter.memory
        probed = self.probe.load(start, end)
        if failed:
            # It may go on for minutes. What it has done is in the catalog.
            self.engine.kill()
        load = Load.of_requests(waits, seconds=median(waits), failed=failed)
        self._record(
            what,
            replace(load, requests=count()) if count is not None else load,
            probe=probed,
            processor_seconds=processor_seconds / len(waits),
            peak_memory=peak_memory,
            memory=memory,
        )

    def _record(self, what: str, load: Load, **figures: Any) -> None:
        self.bench.found_out(Measurement(f"{what}, with {self.size}", self.name, load, **figures))


def _own(path: str) -> str:
    return f"/entrepot/v1/{path}"
