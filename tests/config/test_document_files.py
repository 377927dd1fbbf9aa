"""The files of the documents: read, rendered and written."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from entrepot.config.document_files import (
    DOCUMENT_SIZE,
    ConfigurationReadOnly,
    DocumentFile,
    current_signature,
    read_document,
    read_only_error,
    render_rules,
    write_document,
    write_obstacle,
)
from entrepot.core.credentials import CredentialBook
from entrepot.core.registries import SourceRegistries
from entrepot.core.rule_import import RuleRow
from entrepot.core.rules import RuleBook, RuleDraft

REGISTRIES = SourceRegistries()
NOW = datetime(2026, 11, 2, 10, tzinfo=UTC)


def rules(file: Path, *, had_entries: bool = False) -> DocumentFile[RuleRow]:
    return DocumentFile(file, "rules", "rule", RuleRow, had_entries=had_entries)


def messages(document: DocumentFile[RuleRow]) -> list[tuple[int | None, str | None, str]]:
    return [(problem.line, problem.entry, problem.message) for problem in document.problems]


def test_what_is_rendered_is_read_back(tmp_path: Path) -> None:
    drafts = [
        RuleDraft("ghcr-api", "ghcr.io/acme/api", "api", "", "10 min"),
        RuleDraft("quay-all", "quay.io/*", "quay/*", "", None),
    ]
    book = RuleBook.read(((draft, NOW) for draft in drafts), REGISTRIES, CredentialBook(REGISTRIES))
    signature = write_document(tmp_path / "rules.toml", render_rules(book))
    document = rules(tmp_path / "rules.toml")
    assert [row.draft for row in document.rows] == drafts
    assert [row.created for row in document.rows] == [NOW, NOW]
    assert (document.problems, document.signature) == ([], signature)


def test_a_misspelt_key_is_named_with_its_line_and_not_the_one_that_it_left_out(
    tmp_path: Path,
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(
        '[[rules]]\nname = "ghcr-api"\nsource_repositry = "a"\ntarget_repository = "b"\n'
    )
    document = rules(file)
    assert messages(document) == [
        (
            3,
            "rule ghcr-api",
            "There is no key source_repositry. Did you mean source_repository?",
        )
    ]
    assert document.rows == []


def test_a_missing_file_has_no_rules_and_one_that_is_gone_is_a_problem(tmp_path: Path) -> None:
    assert messages(rules(tmp_path / "rules.toml")) == []
    [(line, entry, message)] = messages(rules(tmp_path / "rules.toml", had_entries=True))
    assert (line, entry) == (None, None)
    assert message.startswith("The file is gone, so the rules that it listed stay in force.")


def test_a_link_into_a_directory_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").symlink_to(tmp_path / "store" / "rules.toml")
    [(_, _, message)] = messages(rules(tmp_path / "rules.toml"))
    assert message.endswith(f"and {tmp_path}/store is not there.")


def test_a_document_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_bytes(b"#" * DOCUMENT_SIZE)
    assert read_document(file) == (b"#" * DOCUMENT_SIZE, current_signature(file))
    file.write_bytes(b"#" * (DOCUMENT_SIZE + 1))
    with pytest.raises(OSError, match="longer than 8,388,608 bytes"):
        read_document(file)


def test_a_replaced_file_has_another_signature(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    assert current_signature(file) is None
    first = write_document(file, b"# one\n")
    second = write_document(file, b"# two\n")
    assert first != second == current_signature(file)


def test_nothing_is_in_the_way_of_a_file_in_a_directory_that_can_be_written(
    tmp_path: Path,
) -> None:
    assert write_obstacle(tmp_path / "rules.toml") is None
    assert write_obstacle(tmp_path / "not" / "yet" / "rules.toml") is None


def test_a_file_that_another_program_mounted_alone_can_not_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ConfigurationReadOnly, match=r"mounted alone.*mount its whole directory"):
        write_document(tmp_path / "rules.toml", b"")


def test_an_error_about_a_link_names_what_it_points_at(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").symlink_to("/srv/rules.toml")
    error = read_only_error(tmp_path / "rules.toml", "it is write-protected", "Edit it.")
    assert error.message == (
        f"{tmp_path}/rules.toml, which is a link to /srv/rules.toml, can't be written: "
        "it is write-protected. Nothing is changed. Edit it."
    )
