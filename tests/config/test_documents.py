from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from entrepot.config import document_files
from entrepot.config import documents as documents_module
from entrepot.config.directories import Directories
from entrepot.config.document_files import (
    DOCUMENT_SIZE,
    ConfigurationReadOnly,
    DocumentInvalid,
    write_document,
)
from entrepot.config.documents import Documents
from entrepot.core.credentials import CredentialSetDraft, CredentialSetInUse, CredentialSetNotFound
from entrepot.core.registries import SourceRegistries
from entrepot.core.rules import CacheRuleNotFound, RuleDraft
from entrepot.errors import EngineError, Refusal

HUB_LOGIN = CredentialSetDraft("hub-login", "docker.io", "env:HUB_USER", "file:/run/secrets/hub")
HUB_LIBRARY = RuleDraft("hub-library", "docker.io/library/*", "library/*", "hub-login")
GHCR_API = RuleDraft("ghcr-api", "ghcr.io/acme/api", "acme/api")

CREDENTIALS_TOML = """\
[[credential_sets]]
name = "hub-login"
login_server = "docker.io"
username_id = "env:HUB_USER"
password_id = "file:/run/secrets/hub"
created = 2026-11-02T10:00:00Z
"""

RULES_TOML = """\
[[rules]]
name = "hub-library"
source_repository = "docker.io/library/*"
target_repository = "library/*"
credential_set = "hub-login"
created = 2026-11-02T10:00:00Z
"""

MORE = """
[[rules]]
name = "{name}"
source_repository = "{source}"
target_repository = "{target}"
"""


def more(name: str, source: str, target: str) -> str:
    return MORE.format(name=name, source=source, target=target)


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    directories_of_test = Directories.under(tmp_path)
    directories_of_test.make()
    return directories_of_test


async def opened(directories: Directories) -> Documents:
    documents = Documents(directories, SourceRegistries())
    await documents.load()
    return documents


async def with_both(directories: Directories) -> Documents:
    """Documents with hub-library and hub-login, written by hand."""
    directories.rules.write_text(RULES_TOML)
    directories.credentials.write_text(CREDENTIALS_TOML)
    return await opened(directories)


def edit(file: Path, text: str) -> None:
    """Write as an editor does that puts a new file in the place of the old."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def contents(file: Path) -> str:
    return file.read_text()


def names(documents: Documents) -> list[str]:
    return [rule.name for rule in documents.rules]


def on_disk(directories: Directories) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in directories.config.iterdir()}


async def test_without_documents_both_books_are_empty_and_nothing_is_written(
    directories: Directories,
) -> None:
    documents = await opened(directories)
    assert (len(documents.rules), len(documents.credential_sets), documents.problem) == (0, 0, None)
    assert on_disk(directories) == {}
    assert not await documents.reload_if_changed()


async def test_what_was_made_is_there_after_a_restart(directories: Directories) -> None:
    documents = await opened(directories)
    credential_set = await documents.create_credential_set(HUB_LOGIN)
    rule = await documents.create_rule(HUB_LIBRARY)
    again = await opened(directories)
    assert list(again.rules) == [rule] == list(documents.rules)
    assert list(again.credential_sets) == [credential_set]
    assert again.rules.route("library/nginx") is not None


async def test_the_documents_can_be_read_by_a_person(directories: Directories) -> None:
    documents = await with_both(directories)
    await documents.update_rule("hub-library", "HUB-login")
    await documents.update_credential_set("hub-login", username_id="env:OTHER")
    await documents.create_rule(GHCR_API)
    rules, credentials = directories.rules.read_text(), directories.credentials.read_text()
    assert rules.startswith("# The cache rules of Entrepot.\n")
    assert "replaces this file whole" in rules
    assert RULES_TOML in rules
    assert CREDENTIALS_TOML.replace("HUB_USER", "OTHER") in credentials
    assert [entry["name"] for entry in tomllib.loads(rules)["rules"]] == ["ghcr-api", "hub-library"]
    assert "credential_set" not in tomllib.loads(rules)["rules"][0]


async def test_the_documents_are_for_their_owner_only_and_nothing_else_is_left(
    directories: Directories,
) -> None:
    documents = await opened(directories)
    await documents.create_credential_set(HUB_LOGIN)
    await documents.create_rule(HUB_LIBRARY)
    assert sorted(on_disk(directories)) == ["credentials.toml", "rules.toml"]
    for file in directories.config.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_change_touches_only_the_document_that_it_is_about(
    directories: Directories,
) -> None:
    documents = await with_both(directories)
    before = directories.credentials.stat()
    await documents.create_rule(GHCR_API)
    assert directories.credentials.stat() == before


async def test_our_own_writing_is_not_taken_for_a_hand_edit(directories: Directories) -> None:
    documents = await opened(directories)
    await documents.create_credential_set(HUB_LOGIN)
    await documents.create_rule(HUB_LIBRARY)
    rules = documents.rules
    assert not await documents.reload_if_changed(["library/nginx"])
    assert documents.rules is rules


async def test_every_change_can_be_made_and_comes_back_from_the_disk(
    directories: Directories,
) -> None:
    documents = await opened(directories)
    await documents.create_credential_set(HUB_LOGIN)
    await documents.create_credential_set(
        CredentialSetDraft("ghcr-login", "ghcr.io", "env:A", "env:B")
    )
    await documents.create_rule(GHCR_API)
    assert (await documents.update_rule("GHCR-api", "ghcr-login")).credential_set == "ghcr-login"
    assert (await documents.update_rule("ghcr-api", None)).credential_set is None
    assert (
        str((await documents.update_credential_set("hub-login", password_id="env:C")).password)
        == "env:C"
    )
    assert (await documents.delete_credential_set("GHCR-login")).name == "ghcr-login"
    await documents.create_rule(HUB_LIBRARY)
    assert (await documents.delete_rule("GHCR-api")).name == "ghcr-api"
    again = await opened(directories)
    assert again.rules == documents.rules
    assert again.credential_sets == documents.credential_sets
    assert names(again) == ["hub-library"]


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (
            lambda documents: documents.create_rule(
                RuleDraft("hub-other", "docker.io/other/*", "library/x/*", "hub-login")
            ),
            "CacheRuleTargetOverlap",
        ),
        (
            lambda documents: documents.create_rule(GHCR_API, ["acme/api"]),
            "TargetRepositoryAlreadyPresentInRegistry",
        ),
        (
            lambda documents: documents.update_rule("hub-library", None),
            "EnforceDockerAuthentication",
        ),
        (lambda documents: documents.update_rule("none-such", None), "CacheRuleNotFound"),
        (lambda documents: documents.delete_rule("none-such"), "CacheRuleNotFound"),
        (
            lambda documents: documents.create_credential_set(HUB_LOGIN),
            "CredentialSetAlreadyExists",
        ),
        (
            lambda documents: documents.update_credential_set("hub-login", username_id="me"),
            "SecretIdentifierInvalid",
        ),
        (lambda documents: documents.update_credential_set("none-such"), "CredentialSetNotFound"),
        (lambda documents: documents.delete_credential_set("none-such"), "CredentialSetNotFound"),
        (lambda documents: documents.delete_credential_set("hub-login"), "CredentialSetInUse"),
    ],
)
async def test_a_refused_change_changes_nothing(
    directories: Directories, act: Any, code: str
) -> None:
    documents = await with_both(directories)
    before, rules, sets = on_disk(directories), documents.rules, documents.credential_sets
    with pytest.raises((Refusal, CacheRuleNotFound, CredentialSetNotFound)) as caught:
        await act(documents)
    assert caught.value.code == code
    assert on_disk(directories) == before
    assert documents.rules is rules
    assert documents.credential_sets is sets


async def test_a_credential_set_can_be_deleted_when_its_last_rule_is_gone(
    directories: Directories,
) -> None:
    documents = await with_both(directories)
    with pytest.raises(CredentialSetInUse, match="hub-library"):
        await documents.delete_credential_set("hub-login")
    await documents.delete_rule("hub-library")
    await documents.delete_credential_set("hub-login")
    assert len((await opened(directories)).credential_sets) == 0


async def test_changes_made_at_once_are_all_kept(directories: Directories) -> None:
    documents = await opened(directories)
    drafts = [
        RuleDraft(f"rule-{number}", f"ghcr.io/acme/r{number}", f"acme/r{number}")
        for number in range(20)
    ]
    await asyncio.gather(*(documents.create_rule(draft) for draft in drafts))
    assert len((await opened(directories)).rules) == len(documents.rules) == 20


async def test_of_two_changes_made_at_once_that_clash_one_is_refused(
    directories: Directories,
) -> None:
    documents = await opened(directories)
    drafts = [
        RuleDraft("rule-one", "ghcr.io/a/*", "a/*"),
        RuleDraft("rule-two", "ghcr.io/b/*", "a/b/*"),
    ]
    results = await asyncio.gather(
        *(documents.create_rule(draft) for draft in drafts), return_exceptions=True
    )
    assert sorted(isinstance(result, Refusal) for result in results) == [False, True]
    assert len((await opened(directories)).rules) == 1


async def test_a_change_whose_caller_left_is_whole(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = await opened(directories)
    reached, go_on = threading.Event(), threading.Event()
    replace = write_document

    def slow(file: Path, content: bytes) -> Any:
        reached.set()
        assert go_on.wait(10)
        return replace(file, content)

    monkeypatch.setattr(documents_module, "write_document", slow)
    task = asyncio.create_task(documents.create_rule(GHCR_API))
    await asyncio.to_thread(reached.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    # It waits for the lock, so it runs after the change.
    assert not await documents.reload_if_changed()
    assert names(documents) == ["ghcr-api"]
    assert "ghcr-api" in directories.rules.read_text()


# Writing that fails


@pytest.mark.parametrize("step", ["fsync", "replace"])
async def test_a_write_that_fails_changes_nothing_and_leaves_nothing(
    directories: Directories, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    documents = await with_both(directories)
    before = on_disk(directories)

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(EngineError, match=r"No space left on device\. Nothing is changed"):
        await documents.create_rule(GHCR_API)
    monkeypatch.undo()
    assert on_disk(directories) == before
    assert names(documents) == ["hub-library"]
    assert not await documents.reload_if_changed()
    await documents.create_rule(GHCR_API)


async def test_the_file_and_its_directory_are_on_the_disk_before_a_change_is_told(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = await opened(directories)
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        order.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def replaced(source: str, target: Path) -> None:
        order.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    await documents.create_rule(GHCR_API)
    assert order == ["file", "rename", "directory"]


async def test_a_document_that_is_a_link_stays_one(
    directories: Directories, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "dotfiles"
    elsewhere.mkdir()
    (elsewhere / "rules.toml").write_text("# empty\n")
    directories.rules.symlink_to(elsewhere / "rules.toml")
    documents = await opened(directories)
    await documents.create_rule(GHCR_API)
    assert directories.rules.is_symlink()
    assert "ghcr-api" in (elsewhere / "rules.toml").read_text()
    assert not await documents.reload_if_changed()


# Edits by hand


async def test_a_hand_edit_is_picked_up(directories: Directories) -> None:
    documents = await with_both(directories)
    edit(directories.rules, RULES_TOML + more("ghcr-api", "ghcr.io/acme/api", "acme/api"))
    assert await documents.reload_if_changed(["library/nginx"])
    assert names(documents) == ["ghcr-api", "hub-library"]
    assert documents.problem is None
    assert not await documents.reload_if_changed(["library/nginx"])


async def test_a_hand_edit_in_the_same_file_and_of_the_same_length_is_picked_up(
    directories: Directories,
) -> None:
    documents = await with_both(directories)
    with directories.rules.open("r+") as file:
        file.write(RULES_TOML.replace("hub-library", "hub-LIBRARY"))
    os.utime(directories.rules, ns=(0, directories.rules.stat().st_mtime_ns + 1))
    assert await documents.reload_if_changed(["library/nginx"])
    assert names(documents) == ["hub-LIBRARY"]


async def test_an_edit_of_both_documents_is_one_whole(directories: Directories) -> None:
    documents = await opened(directories)
    edit(directories.credentials, CREDENTIALS_TOML)
    edit(directories.rules, RULES_TOML)
    assert await documents.reload_if_changed()
    assert documents.rules.get("hub-library").credential_set == "hub-login"


async def test_a_touched_document_is_no_change(directories: Directories) -> None:
    documents = await with_both(directories)
    edit(directories.rules, "# only a comment\n" + RULES_TOML)
    assert not await documents.reload_if_changed(["library/nginx"])
    assert documents.problem is None
    await documents.create_rule(GHCR_API)


async def test_a_time_of_creation_that_is_missing_is_now_and_is_kept(
    directories: Directories,
) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    directories.rules.write_text(more("ghcr-api", "ghcr.io/acme/api", "acme/api"))
    documents = await opened(directories)
    created = documents.rules.get("ghcr-api").created
    assert before <= created <= datetime.now(UTC)
    edit(
        directories.rules,
        "# touched\n"
        + more("ghcr-api", "ghcr.io/acme/api", "acme/api")
        + more("ghcr-web", "ghcr.io/acme/web", "acme/web"),
    )
    assert await documents.reload_if_changed()
    assert documents.rules.get("ghcr-api").created == created
    await documents.delete_rule("ghcr-web")
    assert f"created = {created:%Y-%m-%dT%H:%M:%SZ}" in directories.rules.read_text()


async def test_a_time_of_creation_that_a_hand_takes_away_stays_as_it_was(
    directories: Directories,
) -> None:
    documents = await with_both(directories)
    edit(
        directories.rules,
        RULES_TOML.replace("created = 2026-11-02T10:00:00Z\n", "")
        + more("ghcr-api", "ghcr.io/acme/api", "acme/api"),
    )
    edit(
        directories.credentials,
        CREDENTIALS_TOML.replace("created = 2026-11-02T10:00:00Z\n", "").replace(
            "HUB_USER", "OTHER"
        ),
    )
    assert await documents.reload_if_changed()
    assert documents.rules.get("hub-library").created == datetime(2026, 11, 2, 10, tzinfo=UTC)
    assert documents.credential_sets.get("hub-login").created == datetime(
        2026, 11, 2, 10, tzinfo=UTC
    )


async def test_a_time_of_creation_with_another_zone_is_the_same_moment(
    directories: Directories,
) -> None:
    directories.rules.write_text(
        more("ghcr-api", "ghcr.io/acme/api", "acme/api") + "created = 2026-11-02T12:00:00.5+02:00\n"
    )
    assert (await opened(directories)).rules.get("ghcr-api").created == datetime(
        2026, 11, 2, 10, tzinfo=UTC
    )


async def test_the_name_of_a_credential_set_may_be_written_in_any_case(
    directories: Directories,
) -> None:
    directories.credentials.write_text(CREDENTIALS_TOML)
    directories.rules.write_text(RULES_TOML.replace('"hub-login"', '"HUB-Login"'))
    assert (await opened(directories)).rules.get("hub-library").credential_set == "hub-login"


async def refused_edit(
    documents: Documents, file: Path, text: str, existing: tuple[str, ...] = ()
) -> DocumentInvalid:
    """The problem after an edit that can't be taken, after a look that the last good state stays
    and that the edit is not written over."""
    rules, sets = documents.rules, documents.credential_sets
    edit(file, text)
    assert not await documents.reload_if_changed(existing)
    problem = documents.problem
    assert problem is not None
    assert documents.rules is rules
    assert documents.credential_sets is sets
    assert not await documents.reload_if_changed(existing)
    assert documents.problem is problem, "the same problem is told once"
    with pytest.raises(DocumentInvalid):
        await documents.create_rule(RuleDraft("another-rule", "ghcr.io/x/y", "x/y"))
    assert contents(file) == text
    return problem


@pytest.mark.parametrize(
    ("text", "line", "entry", "says", "code"),
    [
        (
            RULES_TOML + more("inside", "ghcr.io/a/*", "library/a/*"),
            8,
            "rule inside",
            "lies inside the target library/* of rule hub-library",
            "CacheRuleTargetOverlap",
        ),
        (
            RULES_TOML + more("HUB-library", "ghcr.io/a/b", "b"),
            8,
            "rule HUB-library",
            "already",
            "CacheRuleAlreadyExists",
        ),
        (
            RULES_TOML.replace("hub-login", "hub-other"),
            1,
            "rule hub-library",
            "no credential set hub-other",
            "CredentialSetNotFound",
        ),
        (
            RULES_TOML.replace('credential_set = "hub-login"\n', ""),
            1,
            "rule hub-library",
            "without credentials",
            "EnforceDockerAuthentication",
        ),
        (
            RULES_TOML.replace("docker.io", "registry.example.com"),
            1,
            "rule hub-library",
            "Unsupported upstream",
            "UpstreamNotSupported",
        ),
        (
            RULES_TOML.replace("source_repository", "source_repo"),
            3,
            "rule hub-library",
            "Did you mean source_repository?",
            "DocumentInvalid",
        ),
        (
            RULES_TOML.replace('target_repository = "library/*"\n', ""),
            1,
            "rule hub-library",
            "The key target_repository is missing",
            "DocumentInvalid",
        ),
        (
            RULES_TOML.replace('"library/*"', "5"),
            4,
            "rule hub-library",
            "The value of target_repository does not fit",
            "DocumentInvalid",
        ),
        (
            RULES_TOML.replace("2026-11-02T10:00:00Z", "2026-11-02"),
            6,
            "rule hub-library",
            "The value of created does not fit",
            "DocumentInvalid",
        ),
        (
            RULES_TOML.replace("[[rules]]", "[[rule]]"),
            1,
            None,
            "Did you mean rules?",
            "DocumentInvalid",
        ),
        (
            RULES_TOML.replace("[[rules]]", "[rules]"),
            1,
            None,
            "Write each rule below a line [[rules]]",
            "DocumentInvalid",
        ),
        (RULES_TOML + "name = \n", 7, None, "It is not TOML", "DocumentInvalid"),
        (RULES_TOML.replace('"hub-library"', '""'), 1, None, "is missing", "InvalidResourceName"),
    ],
)
async def test_a_hand_edit_that_can_not_stand_is_refused_with_its_place(
    directories: Directories, text: str, line: int, entry: str | None, says: str, code: str
) -> None:
    problem = await refused_edit(await with_both(directories), directories.rules, text)
    first = problem.problems[0]
    assert (first.file, first.line, first.entry, first.code) == (
        directories.rules,
        line,
        entry,
        code,
    )
    assert says in first.message
    assert str(directories.rules) in problem.message
    assert "stays in force" in problem.hint
    assert (problem.code, problem.status) == ("DocumentInvalid", 409)


async def test_all_problems_of_both_documents_are_told(directories: Directories) -> None:
    documents = await with_both(directories)
    edit(directories.rules, RULES_TOML + more("x", "ghcr.io/a:1", "A") + 'colour = "red"\n')
    problem = await refused_edit(
        documents, directories.credentials, CREDENTIALS_TOML + "\n[[credential_sets]]\nname = 'y'\n"
    )
    assert [(each.file.name, each.code) for each in problem.problems] == [
        ("rules.toml", "DocumentInvalid"),
        ("credentials.toml", "DocumentInvalid"),
    ]
    edit(directories.credentials, CREDENTIALS_TOML)
    problem = await refused_edit(
        documents, directories.rules, RULES_TOML + more("x", "ghcr.io/a:1", "A")
    )
    assert [each.code for each in problem.problems] == [
        "InvalidResourceName",
        "GenericRepositoryNameInvalid",
        "GenericRepositoryNameInvalid",
    ]
    assert all(each.message in problem.message for each in problem.problems)


async def test_of_very_many_problems_the_message_tells_some_and_the_number_of_the_rest(
    directories: Directories,
) -> None:
    problem = await refused_edit(
        await with_both(directories),
        directories.rules,
        "".join(more("x", "ghcr.io/a/b", f"b{number}") for number in range(40)),
    )
    assert len(problem.problems) == 40
    assert "There are 35 more problems." in problem.what
    assert len(problem.message) < 2000


async def test_more_than_a_thousand_rules_are_refused_as_a_whole(directories: Directories) -> None:
    problem = await refused_edit(
        await with_both(directories),
        directories.rules,
        "".join(
            more(f"rule-{number}", f"ghcr.io/a/r{number}", f"r{number}") for number in range(1001)
        ),
    )
    assert [(each.code, each.line) for each in problem.problems] == [
        ("CacheRuleLimitReached", None)
    ]


async def test_a_secret_in_the_place_of_its_identifier_is_not_repeated(
    directories: Directories,
) -> None:
    documents = await with_both(directories)
    for wrong in (
        CREDENTIALS_TOML.replace("env:HUB_USER", "hunter2"),
        CREDENTIALS_TOML.replace('"env:HUB_USER"', '["hunter2"]'),
    ):
        problem = await refused_edit(documents, directories.credentials, wrong)
        assert "hunter2" not in problem.message


async def test_a_mended_document_is_in_force_again(directories: Directories) -> None:
    documents = await with_both(directories)
    await refused_edit(documents, directories.rules, "nonsense")
    edit(directories.rules, RULES_TOML)
    assert await documents.reload_if_changed(["library/nginx"])
    assert documents.problem is None
    await documents.create_rule(GHCR_API)
    assert names(documents) == ["ghcr-api", "hub-library"]


async def test_another_problem_replaces_the_first(directories: Directories) -> None:
    documents = await with_both(directories)
    first = await refused_edit(documents, directories.rules, "nonsense")
    second = await refused_edit(
        documents, directories.rules, RULES_TOML.replace("docker.io", "example.com")
    )
    assert first is not second
    assert first.message != second.message


async def test_a_new_rule_by_hand_must_not_have_a_target_that_exists_and_waits_until_it_is_gone(
    directories: Directories,
) -> None:
    documents = await with_both(directories)
    text = RULES_TOML + more("ghcr-api", "ghcr.io/acme/api", "acme/api")
    problem = await refused_edit(documents, directories.rules, text, ("library/nginx", "acme/api"))
    assert [each.code for each in problem.problems] == ["TargetRepositoryAlreadyPresentInRegistry"]
    assert await documents.reload_if_changed(["library/nginx"])
    assert documents.problem is None
    assert names(documents) == ["ghcr-api", "hub-library"]


@pytest.mark.parametrize("gone", [True, False])
async def test_a_document_that_vanished_or_was_emptied_is_not_taken_for_an_order_to_delete(
    directories: Directories, gone: bool
) -> None:
    documents = await with_both(directories)
    if gone:
        directories.rules.unlink()
    else:
        directories.rules.write_bytes(b"")
    assert not await documents.reload_if_changed()
    assert documents.problem is not None
    assert ("is gone" if gone else "is empty") in documents.problem.message
    assert names(documents) == ["hub-library"]
    edit(directories.rules, "# none\n")
    assert await documents.reload_if_changed()
    assert names(documents) == []


async def test_a_hand_edit_that_has_not_been_read_yet_is_not_written_over(
    directories: Directories,
) -> None:
    documents = await with_both(directories)
    text = RULES_TOML + more("ghcr-web", "ghcr.io/acme/web", "acme/web")
    edit(directories.rules, text)
    with pytest.raises(DocumentInvalid, match="has not been read yet") as caught:
        await documents.create_rule(GHCR_API)
    assert "Try again" in caught.value.hint
    assert directories.rules.read_text() == text
    assert documents.problem is None
    assert await documents.reload_if_changed()
    await documents.create_rule(GHCR_API)
    assert names(documents) == ["ghcr-api", "ghcr-web", "hub-library"]


# At the start


async def test_at_the_start_the_targets_of_rules_may_exist_but_limits_hold(
    directories: Directories,
) -> None:
    directories.rules.write_text(RULES_TOML)
    with pytest.raises(DocumentInvalid) as caught:
        await opened(directories)
    assert "no credential set hub-login" in caught.value.what
    assert caught.value.hint == "Fix the file and start again."
    directories.credentials.write_text(CREDENTIALS_TOML)
    assert names(await opened(directories)) == ["hub-library"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff", "not UTF-8"),
        (RULES_TOML.encode("utf-16"), "It is not UTF-8 text but UTF-16: save it as UTF-8."),
        (b"= 1", "not TOML"),
        (b"# " + b"x" * DOCUMENT_SIZE, "longer than"),
        (b"a = " + b"[" * 3000, ""),
        (b"rules = 3", "Write each rule below"),
    ],
    ids=["not text", "UTF-16", "not TOML", "too long", "too deep", "no list"],
)
async def test_a_document_that_can_not_be_read_stops_the_start_with_one_sentence(
    directories: Directories, content: bytes, says: str
) -> None:
    directories.rules.write_bytes(content)
    with pytest.raises(DocumentInvalid) as caught:
        await opened(directories)
    assert says in caught.value.message
    assert str(directories.rules) in caught.value.message


async def test_a_directory_in_the_place_of_a_document_is_told(directories: Directories) -> None:
    directories.credentials.mkdir()
    with pytest.raises(DocumentInvalid, match="It can't be read: Is a directory"):
        await opened(directories)


async def test_a_document_of_another_user_leads_to_the_right_to_read_it(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories.rules.write_text("rules = []")

    def refused(file: Path) -> object:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(document_files, "read_document", refused)
    with pytest.raises(
        DocumentInvalid, match=r"Permission denied\. Let the engine's user, .+, read it\."
    ):
        await opened(directories)


async def test_rules_written_as_inline_tables_are_read_too(directories: Directories) -> None:
    directories.rules.write_text(
        'rules = [{ name = "ghcr-api", source_repository = "ghcr.io/a", target_repository = "a" }]'
    )
    assert names(await opened(directories)) == ["ghcr-api"]
    directories.rules.write_text(
        'rules = [{ name = "ghcr-api", source_repository = "ghcr.io/a:1", target_repository = "a" }]'
    )
    with pytest.raises(DocumentInvalid, match="rule ghcr-api: Repository name 'a:1'"):
        await opened(directories)


async def test_the_freshness_of_a_rule_is_kept_changed_and_left_out_where_it_is_that_of_the_settings(
    directories: Directories,
) -> None:
    documents = await opened(directories)
    rule = await documents.create_rule(replace(GHCR_API, freshness="600"))
    assert rule.freshness == 600
    assert tomllib.loads(directories.rules.read_text())["rules"][0]["freshness"] == "10 min"
    assert (await opened(directories)).rules.get("ghcr-api").freshness == 600
    assert (await documents.update_rule("ghcr-api", None)).freshness == 600
    assert (await documents.update_rule("ghcr-api", freshness="never")).freshness == float("inf")
    assert (await opened(directories)).rules.get("ghcr-api").freshness == float("inf")
    assert (await documents.update_rule("ghcr-api", freshness=None)).freshness is None
    assert "freshness" not in tomllib.loads(directories.rules.read_text())["rules"][0]


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ('"soon"', "is not a tag lifetime"),
        ("-5", "lies between 0 and 365 days"),
        ("true", "does not fit"),
    ],
)
async def test_a_freshness_by_hand_that_is_none_is_refused_with_its_place(
    directories: Directories, written: str, says: str
) -> None:
    documents = await opened(directories)
    await documents.create_rule(GHCR_API)
    directories.rules.write_text(
        directories.rules.read_text().replace("created", f"freshness = {written}\ncreated")
    )
    assert not await documents.reload_if_changed()
    assert documents.problem is not None
    assert "rule ghcr-api" in documents.problem.message
    assert says in documents.problem.message
    assert documents.rules.get("ghcr-api").freshness is None


# Configuration that others deliver (F78). What can't be written is in
# test_protected_configuration.py.


async def test_documents_that_an_orchestrator_swaps_by_a_link_are_picked_up(
    directories: Directories,
) -> None:
    """A ConfigMap's ``..data``, and a store whose files all have the time 1."""
    for number, target in (("1", "one"), ("2", "two")):
        version = directories.config / f"..{number}"
        version.mkdir()
        (version / "rules.toml").write_text(more("acme-app", "ghcr.io/acme/app", target))
        os.utime(version / "rules.toml", (1, 1))
    (directories.config / "..data").symlink_to("..1")
    directories.rules.symlink_to("..data/rules.toml")
    documents = await opened(directories)
    assert [str(rule.target) for rule in documents.rules] == ["one"]
    (directories.config / "..new").symlink_to("..2")
    (directories.config / "..new").replace(directories.config / "..data")
    assert await documents.reload_if_changed()
    assert [str(rule.target) for rule in documents.rules] == ["two"]
    assert directories.rules.is_symlink()


async def test_a_link_that_leads_nowhere_stops_the_start_with_one_sentence(
    directories: Directories, tmp_path: Path
) -> None:
    """A disk that is not mounted must not look like a rule book without rules."""
    directories.rules.symlink_to(tmp_path / "gone" / "rules.toml")
    with pytest.raises(
        DocumentInvalid,
        match=r"rules\.toml: It is a link to .*gone/rules\.toml, and .*gone is not there\.",
    ):
        await opened(directories)


async def test_a_link_to_a_file_that_is_not_yet_there_is_written_through(
    directories: Directories, tmp_path: Path
) -> None:
    directories.rules.symlink_to(tmp_path / "rules.toml")
    documents = await opened(directories)
    await documents.create_rule(GHCR_API)
    assert directories.rules.is_symlink()
    assert "ghcr-api" in contents(tmp_path / "rules.toml")


async def test_a_link_into_the_store_is_not_written_through_even_where_it_could_be(
    directories: Directories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """root may write anywhere, and a store that was changed by hand is broken."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "rules.toml").write_text("# empty\n")
    directories.rules.symlink_to(tmp_path / "store" / "rules.toml")
    monkeypatch.setattr(document_files, "READABLE_STORES", (tmp_path / "store",))
    documents = await opened(directories)
    with pytest.raises(ConfigurationReadOnly, match="where nothing may be changed by hand"):
        await documents.create_rule(GHCR_API)
    assert contents(tmp_path / "store" / "rules.toml") == "# empty\n"


async def test_a_directory_that_is_not_yet_there_is_made_with_the_first_change(
    directories: Directories,
) -> None:
    directories.config.rmdir()
    documents = await opened(directories)
    await documents.create_rule(GHCR_API)
    assert stat.S_IMODE(directories.config.stat().st_mode) == 0o700


async def test_an_import_changes_nothing_where_one_of_two_documents_can_not_be_written(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = await opened(directories)
    monkeypatch.setattr(
        documents_module,
        "write_obstacle",
        lambda file: ("it is somebody's", "Edit it.") if file == directories.rules else None,
    )
    with pytest.raises(
        ConfigurationReadOnly,
        match=r"rules\.toml can't be written: it is somebody's\. Nothing is changed\. Edit it\.",
    ):
        await documents.apply_import(CREDENTIALS_TOML + RULES_TOML)
    assert on_disk(directories) == {}
    assert (len(documents.rules), len(documents.credential_sets)) == (0, 0)


async def test_an_import_is_taken_back_where_the_second_document_is_refused(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = await with_both(directories)
    before = on_disk(directories)
    replace_file = os.replace

    def refuse(source: str, target: Path) -> None:
        if target.name == "rules.toml":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    text = more("ghcr-api", "ghcr.io/acme/api", "acme/api") + CREDENTIALS_TOML.replace(
        "hub-login", "ghcr-login"
    ).replace("docker.io", "ghcr.io")
    with pytest.raises(ConfigurationReadOnly, match="mounted alone"):
        await documents.apply_import(text)
    assert on_disk(directories) == before
    assert [each.name for each in documents.credential_sets] == ["hub-login"]
    assert not await documents.reload_if_changed()


async def test_documents_of_another_system_are_read(directories: Directories) -> None:
    """F87: with a byte order mark and CRLF."""
    directories.rules.write_bytes(b"\xef\xbb\xbf" + RULES_TOML.replace("\n", "\r\n").encode())
    directories.credentials.write_bytes(b"\xef\xbb\xbf" + CREDENTIALS_TOML.encode())
    documents = await opened(directories)
    assert names(documents) == ["hub-library"]
    assert [each.name for each in documents.credential_sets] == ["hub-login"]


async def test_while_a_change_hangs_on_its_disk_others_are_refused_in_one_sentence(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F79: each of them held a thread, until pulls had none any more."""
    monkeypatch.setattr("entrepot.config.documents.LOCK_TIMEOUT", 0.01)
    documents = await opened(directories)
    documents._lock.acquire()
    with pytest.raises(
        EngineError,
        match=rf"Another change has not been written to {directories.config} for 0\.01 s\. Look at the disk",
    ):
        await documents.delete_rule("example-library")
    documents._lock.release()
    with pytest.raises(CacheRuleNotFound):
        await documents.delete_rule("example-library")
