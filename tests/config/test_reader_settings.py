"""``[readers]`` of settings.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrepot.config.settings import Settings, SettingsInvalid


def settings_of(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    return Settings.load(file)


def test_readers_are_read_relative_to_the_settings(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path,
        'listen = "127.0.0.1:5000"\n[readers]\nhtpasswd = "readers.htpasswd"\n'
        '[readers.groups]\nops = ["alice", "bob", "alice"]\n"@dev" = ["bob"]\n',
    )
    assert settings.readers is not None
    assert settings.readers.htpasswd == tmp_path / "readers.htpasswd"
    assert settings.readers.groups == {"ops": ("alice", "bob"), "dev": ("bob",)}


@pytest.mark.parametrize(
    ("text", "may_read"),
    [
        ("", True),
        ("allow_anonymous = false", False),
        ("[readers]", False),
        ("allow_anonymous = true\n[readers]", True),
    ],
)
def test_who_does_not_sign_in_reads_unless_there_are_readers(
    tmp_path: Path, text: str, may_read: bool
) -> None:
    assert settings_of(tmp_path, text).anonymous_may_read is may_read


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("readers = 1", 1, "is not a table"),
        ("[readers]\nhtpaswd = 'a'", 2, "Did you mean htpasswd?"),
        ("[readers]\nhtpasswd = 1", 2, "The value of htpasswd does not fit"),
        ("[readers.groups]\nops = 'alice'", 1, "does not fit"),
        ("[readers]\n[readers.groups]\nops = ['a b']", 3, "can't be the name of a reader"),
        ("[readers.groups]\n'a b' = ['alice']", 2, "can't be the name of a group"),
        ("[readers]\nhtpasswd = '~nobody-has-this-name/x'", 2, "unknown home directory"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int, what: str
) -> None:
    with pytest.raises(SettingsInvalid) as raised:
        settings_of(tmp_path, text)
    assert f"settings.toml, line {line}: " in raised.value.message
    assert what in raised.value.message
