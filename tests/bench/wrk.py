"""Many small requests, by wrk: a program in C, which is never what is measured."""

from __future__ import annotations

import json
from pathlib import Path

from entrepot.demo.images import DOCKER, OCI
from tests.bench.measurement import Load
from tests.bench.readers import WrongAnswer
from tests.e2e.clients.processes import bare_environment, run
from tests.programs import require_program

ACCEPT = ", ".join((OCI.index, OCI.manifest, DOCKER.index, DOCKER.manifest))

_REPORT = """\
done = function(summary, latency, requests)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.timeout + errors.status
    local counts = '\\n{"microseconds": %d, "requests": %d, "received": %d, "failed": %d, '
    io.write(string.format(counts .. '"p50": %d, "p99": %d}\\n',
        summary.duration, summary.requests, summary.bytes, failed,
        latency:percentile(50), latency:percentile(99)))
end
"""


def ask_again_and_again(url: str, *, connections: int, seconds: float, home: Path) -> Load:
    """Ask for the same manifest on some connections for whole *seconds*; raises `WrongAnswer` when
    anything but 200 came."""
    home.mkdir(parents=True, exist_ok=True)
    script = home / "report.lua"
    script.write_text(_REPORT)
    duration = f"{max(1, round(seconds))}s"
    arguments: list[str | Path] = [
        require_program("wrk"),
        "-t1",
        f"-c{connections}",
        f"-d{duration}",
        "-H",
        f"Accept: {ACCEPT}",
        "-s",
        script,
        url,
    ]
    finished = run(arguments, environment=bare_environment(home), timeout=seconds + 60)
    if finished.status:
        raise WrongAnswer(finished.output)
    match = json.loads(finished.output.strip().splitlines()[-1])
    if match["failed"] or not match["requests"]:
        raise WrongAnswer(finished.output)
    return Load(
        seconds=match["microseconds"] / 1e6,
        received=match["received"],
        requests=match["requests"],
        half_within=match["p50"] / 1e6,
        most_within=match["p99"] / 1e6,
    )
