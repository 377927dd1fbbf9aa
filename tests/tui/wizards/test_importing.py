"""The wizard that makes rules from a TOML file, driven by keys against a real engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual import events

from entrepot.core.states import PullState
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry
from tests.tui.conftest import Person, dashboard
from tui.wizards.importing import MAX_FILE_SIZE, path_candidates, read_text

TEXT = f"""
[[credential_sets]]
name = "example-login"
login_server = "{LOGIN_SERVER}"
username_id = "env:EXAMPLE_USER"
password_id = "env:EXAMPLE_PASSWORD"

[[rules]]
name = "team-apps"
source_repository = "{LOGIN_SERVER}/team/*"
target_repository = "team/*"

[[rules]]
name = "example-library"
source_repository = "{LOGIN_SERVER}/library/*"
target_repository = "library/*"
"""
CONFLICT = f"""
[[rules]]
name = "team-more"
source_repository = "{LOGIN_SERVER}/more/*"
target_repository = "team/more/*"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which the dashboard was started."""
    folder = tmp_path / "home"
    (folder / "rules").mkdir(parents=True)
    (folder / "rules" / "team.toml").write_text(TEXT)
    (folder / "notes.txt").write_text("no rules")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    return folder


async def begin(person: Person) -> None:
    await person.press("2")
    await person.sees("Cache rules", "example-library", "i import")
    await person.press("i")
    await person.sees("Which file holds the rules?")


async def test_a_file_is_found_planned_and_made_and_an_image_pulled_through_its_rule(
    folder: Path, person: Person, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("team/app", "1")
    await begin(person)
    await person.sees("rules/ directory", "tab files")
    assert "notes.txt" not in person.seen()
    await person.press("tab", "enter")
    await person.sees("File rules/", "> team.toml")
    await person.press("enter")
    await person.sees(
        "1 cache rule and 1 credential set will be created; 1 entry unchanged.",
        "> create example-login",
        "unchanged example-library",
    )
    assert (len(engine.documents.rules), len(engine.documents.credential_sets)) == (1, 0)
    await person.sees("enter create all")
    await person.press("enter")
    await person.sees("Created 1 cache rule and 1 credential set.", "enter close")
    await person.press("enter")
    await person.sees("Cache rules", "team-apps", "example-library")
    await person.app.client.pulls.start("team/app:1", "linux/amd64")
    await person.press("5")
    await person.sees("team/app:1", "completed")
    assert [each.state for each in engine.cache.pulls.all()] == [PullState.COMPLETED]


async def test_with_a_conflict_nothing_is_made_until_the_file_is_mended_and_read_again(
    folder: Path, person: Person, engine: Engine
) -> None:
    wrong = folder / "wrong.toml"
    wrong.write_text(TEXT + CONFLICT)
    await begin(person)
    await person.type("~/wro")
    await person.sees("> wrong.toml")
    await person.press("right")
    await person.sees("File ~/wrong.toml", "File read: 21 lines")
    await person.press("enter")
    await person.sees(
        "Nothing can be created: 1 conflict.",
        "> conflict team-more",
        "Line 18: The target team/more/* lies inside",
        "CacheRuleTargetOverlap",
    )
    assert "enter" not in person.seen().split("\n")[-1]
    await person.press("enter")
    await person.sees("step 2 of 3", "r read again")
    assert len(engine.documents.rules) == 1
    wrong.write_text(TEXT)
    await person.press("r")
    await person.sees("1 cache rule and 1 credential set will be created")


async def test_a_text_may_be_pasted_instead(folder: Path, person: Person, engine: Engine) -> None:
    await begin(person)
    person.app.screen.focused.post_message(events.Paste(TEXT))  # type: ignore[union-attr]
    await person.sees("Pasted text: 16 lines")
    await person.press("enter")
    await person.sees("1 cache rule and 1 credential set will be created")
    await person.press("escape")
    await person.sees("Pasted text: 16 lines")
    await person.press("ctrl+c")
    await person.sees("Quit the wizard?", "Nothing has been created.")
    await person.press("right", "enter")
    await person.sees("Cache rules")
    assert len(engine.documents.rules) == 1


async def test_what_another_client_created_meanwhile_is_seen_before_anything_is_created(
    folder: Path, person: Person, engine: Engine
) -> None:
    await begin(person)
    await person.type("rules/team.toml")
    await person.sees("File read: 16 lines")
    await person.press("enter")
    await person.sees("enter create all")
    await engine.rules.apply_import(
        f'[[rules]]\nname = "other-rule"\nsource_repository = "{LOGIN_SERVER}/team/*"\n'
        'target_repository = "team/*"\n'
    )
    await person.press("enter")
    await person.sees(
        "Nothing can be created: 1 conflict.", "is the target of rule other-rule already"
    )
    assert len(engine.documents.credential_sets) == 0


async def test_a_text_that_is_not_toml_is_refused_with_its_line(
    folder: Path, person: Person
) -> None:
    (folder / "bad.toml").write_text('[[rules]]\nname = "team-apps\n')
    await begin(person)
    await person.type("bad.toml")
    await person.sees("File read: 2 lines")
    await person.press("enter")
    await person.sees("Nothing can be created: 1 conflict.", "the text", "Line 2: It is not TOML")


async def test_a_file_that_is_not_there_is_told(folder: Path, person: Person) -> None:
    await begin(person)
    await person.type("nowhere.toml")
    await person.sees("Not possible: nowhere.toml can't be read: No such file or directory.")
    await person.press("enter")
    await person.sees("step 1 of 3")


@pytest.mark.parametrize("size", [(60, 15), (80, 24)])
async def test_each_step_has_its_question_and_its_next_key(
    folder: Path, engine: Engine, size: tuple[int, int]
) -> None:
    async with dashboard(engine, size=size) as person:
        await person.press("2")
        await person.sees("example-library")
        await person.press("i")
        await person.sees(
            "step 1 of 3",
            "Which file holds the rules?",
            "rules/",
            "enter next",
            "tab files",
            "esc back",
            "ctrl+c quit",
        )
        await person.type("rules/team.toml")
        await person.press("enter")
        await person.sees(
            "step 2 of 3",
            "will be created",
            "create example-login",
            "enter create all",
            "esc back",
            "ctrl+c quit",
        )
        await person.press("enter")
        await person.sees("step 3 of 3", "Created 1 cache rule", "enter close")


# Without a screen


def test_files_and_directories_are_offered_by_the_beginning_of_their_names(folder: Path) -> None:
    (folder / ".hidden.toml").write_text("")
    assert [each.path for each in path_candidates("")] == ["rules/"]
    assert [each.path for each in path_candidates("~/rules/te")] == ["~/rules/team.toml"]
    assert [each.path for each in path_candidates(".hid")] == [".hidden.toml"]
    assert path_candidates("nowhere/") == []
    assert path_candidates("~no-such-user/") == []


def test_a_file_that_is_too_long_or_no_text_is_refused(folder: Path) -> None:
    (folder / "long.toml").write_bytes(b"#" * (MAX_FILE_SIZE + 1))
    (folder / "odd.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(OSError, match="is longer than"):
        read_text("long.toml")
    with pytest.raises(OSError, match="is not UTF-8 text but UTF-16: save it as UTF-8"):
        read_text("~/odd.toml")
    with pytest.raises(OSError, match="No such file"):
        read_text("~no-such-user/odd.toml")
    assert read_text("rules/team.toml") == TEXT


async def test_a_plan_shows_where_secrets_are_kept_and_asks_before_programs_run(
    folder: Path, person: Person, engine: Engine
) -> None:
    """S13."""
    (folder / "net.toml").write_text(
        TEXT.replace("env:EXAMPLE_PASSWORD", "command:/no/such/program")
    )
    await begin(person)
    await person.type("net.toml")
    await person.sees("File read: 16 lines")
    await person.press("enter")
    await person.sees(
        "1 credential set runs a program.",
        "user name from env:EXAMPLE_USER, password from command:/no/such/program",
        LOGIN_SERVER,
    )
    await person.press("enter")
    await person.sees(
        "Run a program on the engine's machine?", "example-login: command:/no/such/program"
    )
    await person.press("escape")
    await person.sees("step 2 of 3", "enter create all")
    assert len(engine.documents.credential_sets) == 0
    await person.press("enter")
    await person.sees("Run a program on the engine's machine?")
    await person.press("right", "enter")
    await person.sees("Created 1 cache rule and 1 credential set.")
