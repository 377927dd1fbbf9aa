"""S04, F65: what a source says never reaches a terminal, or the log, as something that it obeys."""

from __future__ import annotations

import json
import logging
import re

import httpx
import pytest

from entrepot.api.errors import EngineRefused
from entrepot.api.models import Event
from entrepot.cli.output import fail, note, print_fields, print_json, print_table, print_text
from entrepot.engine.engine import Engine
from entrepot.errors import EngineError
from entrepot.event_kinds import EventKind
from entrepot.formatting import TableColumn
from entrepot.server.log_format import JsonFormatter, PlainFormatter
from entrepot.store import manifests
from tests.cli.conftest import CommandLine
from tests.fakes import FakeRegistry
from tests.hostile import HOSTILE, evil_image, obeyed


@pytest.fixture(params=["dropped", "stored"])
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """The platform of the image: dropped where it is read, or as a catalog may still have it that
    was written before there was a grammar."""
    if request.param == "dropped":
        return None
    monkeypatch.setattr(manifests, "PLATFORM_PART", re.compile(r".*", re.DOTALL))
    monkeypatch.setattr(manifests, "PLATFORM_PART_LENGTH", 1_000)
    monkeypatch.setattr(manifests, "_known_platform", manifests._checked_platform)
    return f"linux/amd64/{HOSTILE}"


async def _held(registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry) -> None:
    """A container client pulls the image by what its index refers to."""
    image = evil_image(source)
    assert (await registry.get("/v2/library/evil/manifests/1")).content == image.manifest.content
    [amd] = image.platforms.values()
    await registry.get(f"/v2/library/evil/manifests/{amd.digest}")
    for blob in amd.blobs:
        await registry.get(f"/v2/library/evil/blobs/{blob.digest}")
    for pull in engine.cache.pulls.all():
        await pull.finished.wait()


async def test_the_command_line_shows_a_hostile_image_in_printable_lines(
    entrepot: CommandLine,
    registry: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    platform: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "entrepot")
    await _held(registry, engine, source)
    for arguments in (
        ("repository", "show", "library/evil"),
        ("repository", "show", "library/evil:1"),
        ("repository", "show", "library/evil:1", "--json"),
        ("pull", "library/evil:1", "--platform", "plan9/mips"),
        ("pull", "library/evil:1", "--platform", platform or "linux/amd64"),
        ("evict", "--dry-run", "--to", "1"),
        ("doctor",),
    ):
        _, output = await entrepot.in_terminal(*arguments, columns=200)
        # A pull draws its line anew: to the beginning of the line, and then the rest of it is
        # erased.
        assert obeyed(output.replace("\r", "").replace("\x1b[K", "")) == [], arguments
        assert not any(line.startswith("2026-01-01") for line in output.splitlines()), arguments
    assert len(caplog.records) > 3
    for record in caplog.records:
        line = PlainFormatter().format(record)
        assert obeyed(line) == []
        assert "\n" not in line
        assert obeyed(JsonFormatter().format(record)) == []


async def test_what_the_engine_says_of_a_hostile_image_is_the_same_for_a_script(
    entrepot: CommandLine,
    registry: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    platform: str | None,
) -> None:
    await _held(registry, engine, source)
    [image, attestation] = (await entrepot.ask("repository", "show", "library/evil:1"))["images"]
    # Where the index names none, it is what the image's own config says.
    assert image["platform"] == (platform or "linux/amd64")
    assert attestation["attests"] == ""


def test_cells_and_fields_stay_in_their_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(
        [TableColumn("One"), TableColumn("Two", right=True)],
        [(HOSTILE, "1"), ("層", HOSTILE)],
        empty="",
    )
    print_fields([("Type", HOSTILE), ("Long name", 7)])
    output = capsys.readouterr().out
    assert len(output.splitlines()) == 5
    assert obeyed(output) == []


def test_texts_of_our_own_keep_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_text(f"one\n  two {HOSTILE[:5]}")
    note("three\n\nfour")
    output = capsys.readouterr()
    assert output.out == "one\n  two \\x1b]0;O\n"
    assert output.err == "three\n\nfour\n"


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (EngineRefused("Odd", f"No. {HOSTILE}", field=None, status=400), 1),
        (EngineError("It wrote:\n  a\n  b"), 3),
    ],
)
def test_an_error_of_the_engine_is_one_line_and_one_of_our_own_keeps_its_lines(
    capsys: pytest.CaptureFixture[str], error: EngineRefused | EngineError, lines: int
) -> None:
    with pytest.raises(SystemExit):
        fail(error)
    output = capsys.readouterr().err
    assert obeyed(output) == []
    assert len(output.splitlines()) == lines


def test_a_document_for_a_script_says_the_same_with_escapes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_json(Event(time=1.0, kind="odd", message=f"{HOSTILE}\U000e0041 層"))
    output = capsys.readouterr().out
    assert obeyed(output) == []
    assert json.loads(output)["message"] == f"{HOSTILE}\U000e0041 層"


def test_a_traceback_in_the_log_can_not_pass_for_records() -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        record = logging.LogRecord(
            "entrepot",
            logging.ERROR,
            __file__,
            1,
            "It failed: %s",
            (HOSTILE,),
            (ValueError, error, error.__traceback__),
        )
    first, *others = PlainFormatter().format(record).split("\n")
    assert first.startswith("20")
    assert "ERROR It failed: " in first
    assert len(others) > 3
    assert all(line.startswith("    ") for line in others)
    assert obeyed(first + "\n".join(others)) == []
    assert obeyed(JsonFormatter().format(record)) == []


async def test_an_event_is_one_printable_line_for_whoever_watches(engine: Engine) -> None:
    engine.events.record(EventKind.RULE_UPDATED, HOSTILE, HOSTILE)
    event = engine.events.recent()[-1]
    assert event.message.isprintable()
    assert event.subject is not None
    assert event.subject.isprintable()
