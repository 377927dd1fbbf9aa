"""Who may read what is cached: written beside it, so that it outlives the rule."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from entrepot.config.directories import Directories
from entrepot.config.documents import Documents
from entrepot.config.restrictions import RestrictionRecord
from entrepot.core.readers import OPEN, ReaderAccess
from entrepot.core.registries import SourceRegistries
from entrepot.core.rules import RuleDraft
from entrepot.errors import EngineError

PRIVATE = ReaderAccess(("ci", "@ops"))
RULE = RuleDraft("acme-private", "mcr.microsoft.com/acme/*", "acme/*", readers=("ci", "@ops"))


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    directories = Directories.under(tmp_path)
    directories.make()
    return directories


async def opened(directories: Directories) -> Documents:
    record = RestrictionRecord(directories.restrictions)
    documents = Documents(directories, SourceRegistries(), record)
    await documents.load()
    return documents


async def test_nothing_is_written_where_everyone_may_read(directories: Directories) -> None:
    documents = await opened(directories)
    await documents.create_rule(RuleDraft("public", "mcr.microsoft.com/*", "*"))
    assert documents.access("any") == OPEN
    assert not directories.restrictions.exists()


async def test_the_readers_of_a_rule_come_back_from_the_disk(directories: Directories) -> None:
    documents = await opened(directories)
    await documents.create_rule(RULE)
    again = await opened(directories)
    assert again.rules.get("acme-private").access == PRIVATE
    assert again.access("acme/app") == PRIVATE


@pytest.mark.parametrize("way", ["command", "edit", "edit while stopped"])
async def test_what_a_rule_cached_keeps_its_readers_however_the_rule_went(
    directories: Directories, way: str
) -> None:
    documents = await opened(directories)
    await documents.create_rule(RULE)
    if way == "command":
        await documents.delete_rule("acme-private")
    else:
        directories.rules.write_text("# none\n")
        if way == "edit":
            assert await documents.reload_if_changed()
    for each in (documents, await opened(directories)):
        if way != "edit while stopped" or each is not documents:
            assert len(each.rules) == 0
        assert each.access("acme/app") == PRIVATE
        assert each.access("other") == OPEN


async def test_a_restriction_goes_when_it_is_not_needed(directories: Directories) -> None:
    documents = await opened(directories)
    await documents.create_rule(RULE)
    await documents.prune_restrictions(lambda _: False)
    await documents.delete_rule("acme-private")
    await documents.prune_restrictions(lambda _: True)
    assert documents.access("acme/app") == PRIVATE
    await documents.prune_restrictions(lambda _: False)
    assert documents.access("acme/app") == OPEN
    assert (await opened(directories)).access("acme/app") == OPEN


async def test_a_rule_that_opens_is_open_after_a_restart(directories: Directories) -> None:
    documents = await opened(directories)
    await documents.create_rule(RULE)
    await documents.update_rule("acme-private", readers=())
    assert documents.access("acme/app") == OPEN
    await documents.delete_rule("acme-private")
    assert (await opened(directories)).access("acme/app") == OPEN


async def test_where_readers_can_not_be_written_no_rule_is_created(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = await opened(directories)

    def refuse(*_: object) -> None:
        raise EngineError("The disk is full.")

    monkeypatch.setattr("entrepot.config.restrictions.write_restrictions", refuse)
    with pytest.raises(EngineError):
        await documents.create_rule(RULE)
    assert len(documents.rules) == 0
    assert not directories.rules.exists()


@pytest.mark.parametrize(
    "content",
    [
        "[[restrictions]]\nreaders = []\n",
        '\n[[restrictions]]\ntarget_repository = "a//b"\n',
        '\n[[restrictions]]\ntarget_repository = "a"\nreaders = ["a b"]\n',
        "not toml",
    ],
)
async def test_a_damaged_record_stops_the_start_with_its_place(
    directories: Directories, content: str
) -> None:
    directories.restrictions.write_text(content)
    with pytest.raises(EngineError, match=r"restrictions\.toml, line [12]: "):
        await opened(directories)


async def test_the_record_is_for_its_owner_only(directories: Directories) -> None:
    await (await opened(directories)).create_rule(RULE)
    assert os.stat(directories.restrictions).st_mode & 0o077 == 0


async def test_rules_without_readers_are_written_as_before(directories: Directories) -> None:
    documents = await opened(directories)
    await documents.create_rule(RuleDraft("public", "mcr.microsoft.com/*", "*"))
    text = directories.rules.read_text()
    assert "readers" not in text
    assert "anonymous" not in text


async def test_readers_that_are_none_are_refused_with_their_rule(directories: Directories) -> None:
    rule = '[[rules]]\nname = "acme-private"\nsource_repository = "mcr.microsoft.com/a"\n'
    documents = await opened(directories)
    for line, what in (
        ('readers = ["a b"]', "can't be the name of a reader"),
        ('readers = "ci"', "The value of readers does not fit"),
        ('anonymous = "yes"', "The value of anonymous does not fit"),
        ('reader = ["ci"]', "Did you mean readers?"),
    ):
        directories.rules.write_text(f'{rule}target_repository = "a"\n{line}\n')
        assert not await documents.reload_if_changed()
        assert documents.problem is not None
        assert what in documents.problem.message
        assert "rule acme-private" in documents.problem.message
