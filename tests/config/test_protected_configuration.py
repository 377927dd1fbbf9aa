"""F78: an engine whose configuration can't be written starts with what is there, and refuses a
change when it is made."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.programs import require_program, run_in_mount_namespace


@pytest.fixture
def root(open_directory: Path) -> Iterator[Path]:
    yield open_directory
    chattr = require_program("chattr")
    for path in (open_directory / "config" / "entrepot").glob("*.toml"):
        if not path.is_symlink():
            subprocess.run([chattr, "-i", path], check=False, capture_output=True)


def tried(case: str, root: Path) -> Any:
    """What becomes of changes in a case of `tests.protected`."""
    return json.loads(run_in_mount_namespace("tests.protected", case, root))


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("store", "store/rules.toml, can't be written: it is on a read-only file system"),
        (
            "config_map",
            "..2026_11_30/rules.toml, can't be written: it is on a read-only file system",
        ),
        ("mounted_alone", "it is mounted alone, so no other file can take its place"),
        ("immutable", "it is write-protected (chattr +i)."),
        ("of_root", "it belongs to root, and the engine's user may only read it"),
        ("directory_of_root", "its directory belongs to root"),
        ("write_protected", "it is write-protected (mode 0444)"),
    ],
)
def test_a_change_of_what_can_not_be_written_is_refused_and_changes_nothing(
    case: str, reason: str, root: Path
) -> None:
    outcome = tried(case, root)
    assert (outcome["rules"], outcome["sets"], outcome["same"], outcome["edited"]) == (
        ["hub-app"],
        ["hub-login"],
        True,
        False,
    )
    assert [refusal[:2] for refusal in outcome["refusals"]] == [["ConfigurationReadOnly", 409]] * 2
    assert reason in outcome["refusals"][0][2]
    # No advice that can't be followed.
    assert ("let the engine's user write it" in outcome["refusals"][0][2]) == (
        case not in {"store", "config_map", "mounted_alone"}
    )
    assert "credentials.toml" in outcome["refusals"][1][2]
    for _, _, message in outcome["refusals"]:
        assert "Nothing is changed. Edit it where it comes from" in message


@pytest.mark.parametrize(
    ("case", "reason"),
    [("no_directory", "belongs to root"), ("read_only_home", "is on a read-only file system")],
)
def test_without_a_place_for_configuration_an_engine_has_no_rules(
    case: str, reason: str, root: Path
) -> None:
    outcome = tried(case, root)
    assert (outcome["rules"], outcome["sets"]) == ([], [])
    assert [refusal[0] for refusal in outcome["refusals"]] == ["ConfigurationReadOnly"] * 2
    assert reason in outcome["refusals"][0][2]
    assert (
        "Nothing is changed. Set XDG_CONFIG_HOME to a directory that the engine's user can write"
        in outcome["refusals"][0][2]
    )
