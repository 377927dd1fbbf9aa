from __future__ import annotations

import pytest

from tests.programs import REQUIRED, require_program

MISSING = "a-program-that-does-not-exist"


def test_a_program_is_found_by_its_path() -> None:
    assert require_program("sh").name == "sh"


def test_without_a_program_a_test_is_skipped_and_says_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match=MISSING):
        require_program(MISSING)


def test_the_debian_package_of_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REQUIRED, raising=False)
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(
        pytest.skip.Exception, match=r"ctr is not installed \(Debian package: containerd\)"
    ):
        require_program("ctr")
    with pytest.raises(
        pytest.skip.Exception, match=r"skopeo is not installed \(Debian package: skopeo\)"
    ):
        require_program("skopeo")


def test_where_programs_are_required_a_test_fails_without_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match=MISSING):
        require_program(MISSING)
