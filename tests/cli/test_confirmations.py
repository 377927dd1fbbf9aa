"""What a command asks before it deletes something or has a program run."""

from __future__ import annotations

import click
import pytest

from entrepot.cli.confirmations import confirm, confirm_programs


def test_yes_asks_nothing() -> None:
    confirm("Delete it?", yes=True)
    confirm_programs(["command:/bin/pass"], yes=True)


def test_without_a_terminal_yes_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(click.UsageError, match="Delete it\\? Without a terminal, confirm with"):
        confirm("Delete it?", yes=False)


def test_a_program_is_named_once_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(click.UsageError) as refused:
        confirm_programs(["command:/bin/pass", "env:USER", "command:/bin/pass"], yes=False)
    assert refused.value.message.count("command:/bin/pass") == 1
    assert "env:USER" not in refused.value.message


def test_identifiers_without_a_program_need_no_confirmation() -> None:
    confirm_programs(["env:USER", None, "file:/run/secret"], yes=False)
