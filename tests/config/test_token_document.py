"""``tokens.toml``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from entrepot.config.document_files import ConfigurationReadOnly, DocumentInvalid
from entrepot.config.token_document import TokenDocument, read_token_uses, write_token_uses

NOW = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config" / "tokens.toml"


def opened(file: Path) -> TokenDocument:
    document = TokenDocument(file)
    document.load()
    return document


def test_tokens_come_back_from_the_disk(file: Path) -> None:
    document = opened(file)
    token, secret = document.create("ci", lifetime="90d", groups=("ops", "dev"), now=NOW)
    document.create("other", lifetime=None, groups=(), now=NOW)
    document.create("third", lifetime=None, groups=(), now=NOW)
    document.revoke("third")
    again = opened(file)
    assert again.book == document.book
    assert again.book.of_secret(secret) == token
    assert [each.name for each in again.book] == ["ci", "other"]
    assert secret not in file.read_text()


def test_a_token_whose_entry_is_deleted_by_hand_is_revoked(file: Path) -> None:
    document = opened(file)
    _, secret = document.create("ci", lifetime=None, groups=(), now=NOW)
    assert not document.reload_if_changed()
    file.write_text("# none\n")
    assert document.reload_if_changed()
    assert document.book.of_secret(secret) is None


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[[tokens]]\nname = 'a b'\nsha256 = '" + "0" * 64 + "'\n", "can't be the name"),
        ("[[tokens]]\nname = 'ci'\nsha256 = 'x'\n", "64 hex digits"),
        ("[[tokens]]\nname = 'ci'\n", "sha256 is missing"),
        ("[[tokens]]\nname = 'ci'\nsha256 = ''\nsecret = ''\n", "There is no key secret"),
        ("[[token]]\nname = 'ci'\n", "Did you mean tokens?"),
        ("[[tokens", "It is not TOML"),
    ],
)
def test_a_wrong_edit_is_refused_with_its_line_and_what_was_read_stays(
    file: Path, text: str, what: str
) -> None:
    document = opened(file)
    _, secret = document.create("ci", lifetime=None, groups=(), now=NOW)
    file.write_text(text)
    assert document.reload_if_changed()
    assert not document.reload_if_changed()
    assert document.problem is not None
    assert f"{file}, line 1" in document.problem.message
    assert what in document.problem.message
    assert document.book.of_secret(secret) is not None
    with pytest.raises(DocumentInvalid):
        document.create("new", lifetime=None, groups=(), now=NOW)
    with pytest.raises(DocumentInvalid):
        opened(file)


def test_where_the_configuration_is_read_only_no_token_is_created(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = opened(file)
    monkeypatch.setattr(
        "entrepot.config.token_document.write_obstacle", lambda _: ("it is so", "Change it.")
    )
    with pytest.raises(ConfigurationReadOnly):
        document.create("ci", lifetime=None, groups=(), now=NOW)
    assert len(document.book) == 0


def test_when_tokens_were_used_may_be_lost(tmp_path: Path) -> None:
    file = tmp_path / "uses"
    assert read_token_uses(file) == {}
    write_token_uses(file, {"a": 1.5})
    assert read_token_uses(file) == {"a": 1.5}
    file.write_text("{")
    assert read_token_uses(file) == {}
