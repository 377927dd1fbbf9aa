"""Requests for what the source registry does not have."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import httpx

from tests.bench.bench import Bench, image_of
from tests.bench.measurement import Load, Measurement
from tests.bench.readers import WrongAnswer
from tests.bench.wrk import ACCEPT, ask_for_missing

REPOSITORY = "library/absent"
"""The source has no such repository; the rule for ``library/*`` answers for it."""

CONNECTIONS = 16


def misses(bench: Bench, seconds: float) -> list[Measurement]:
    """The manifest of an unknown tag, of an unknown repository, and of an unknown repository that
    is another one each time."""
    since = len(bench.found)
    image = image_of("known", [20_000])
    paths = {
        "an unknown tag": f"/v2/{image.repository}/manifests/absent",
        "an unknown repository": f"/v2/{REPOSITORY}/manifests/1",
        "unknown repositories, each once": f"/v2/{REPOSITORY}-%d/manifests/1",
    }
    with bench.source(image) as source:
        for _, start in bench.in_turn(bench.caches):
            with bench.started(start, source, image) as contender:
                for what, path in paths.items():
                    url = f"http://{contender.address}{path}"
                    bench.measure(
                        f"404 of {what}, {CONNECTIONS} connections",
                        contender,
                        source,
                        partial(_ask, url, seconds, bench.home),
                        complete=False,
                    )
    return bench.ended(since)


def _ask(url: str, seconds: float, home: Path) -> Load:
    """Ask once, so that what is measured is remembered, and then again and again."""
    answer = httpx.get(
        url.replace("%d", "0"), headers={"Accept": ACCEPT}, trust_env=False, timeout=30
    )
    if answer.status_code != 404:
        raise WrongAnswer(f"{url}: {answer.status_code} {answer.text[:1000]}")
    return ask_for_missing(
        url, connections=CONNECTIONS, seconds=seconds, home=home, distinct="%d" in url
    )
