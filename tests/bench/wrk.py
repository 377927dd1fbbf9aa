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

_DISTINCT = """\
local number = 0
request = function()
    number = number + 1
    return wrk.format("GET", string.format(wrk.path, number))
end
"""

_REPORT = """\
done = function(summary, latency, requests)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.timeout
    local counts = '\\n{"microseconds": %d, "requests": %d, "received": %d, "failed": %d, '
    io.write(string.format(counts .. '"refused": %d, "p50": %d, "p99": %d, "max": %d}\\n',
        summary.duration, summary.requests, summary.bytes, failed, errors.status,
        latency:percentile(50), latency:percentile(99), latency.max))
end
"""


def ask_again_and_again(url: str, *, connections: int, seconds: float, home: Path) -> Load:
    """Ask for the same manifest on some connections for whole *seconds*; raises `WrongAnswer` when
    anything but 200 came."""
    return _run(url, _REPORT, connections=connections, seconds=seconds, home=home, refused=False)


def ask_for_missing(
    url: str, *, connections: int, seconds: float, home: Path, distinct: bool = False
) -> Load:
    """Ask for a missing manifest in the same way; raises `WrongAnswer` when anything but a refusal
    came.

    With *distinct* each request asks for another one: *url* has a ``%d``.
    """
    script = _DISTINCT + _REPORT if distinct else _REPORT
    return _run(url, script, connections=connections, seconds=seconds, home=home, refused=True)


def _run(
    url: str, script: str, *, connections: int, seconds: float, home: Path, refused: bool
) -> Load:
    home.mkdir(parents=True, exist_ok=True)
    script_file = home / "report.lua"
    script_file.write_text(script)
    duration = f"{max(1, round(seconds))}s"
    arguments: list[str | Path] = [
        require_program("wrk"),
        "-t1",
        f"-c{connections}",
        f"-d{duration}",
        "-H",
        f"Accept: {ACCEPT}",
        "-s",
        script_file,
        url,
    ]
    finished = run(arguments, environment=bare_environment(home), timeout=seconds + 60)
    if finished.status:
        raise WrongAnswer(finished.output)
    match = json.loads(finished.output.strip().splitlines()[-1])
    expected_refusals = match["requests"] if refused else 0
    if match["failed"] or not match["requests"] or match["refused"] != expected_refusals:
        raise WrongAnswer(finished.output)
    return Load(
        seconds=match["microseconds"] / 1e6,
        received=match["received"],
        requests=match["requests"],
        half_within=match["p50"] / 1e6,
        most_within=match["p99"] / 1e6,
        longest=match["max"] / 1e6,
    )
