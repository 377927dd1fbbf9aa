"""What ``pyproject.toml`` says to pip, and to the programs that build distributions of it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.documents import CHECKOUT, DOCUMENTS

PROJECT: dict[str, Any] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())

HOOK: dict[str, Any] = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["custom"]

GROUPS = {
    "dependencies": PROJECT["project"]["dependencies"],
    **PROJECT["project"]["optional-dependencies"],
}


@pytest.mark.parametrize("group", GROUPS)
def test_pip_finds_the_python_too_old_before_any_dependency(group: str) -> None:
    """pip before 23.1 resolves dependencies first: without the marker Python 3.9 gets screens of
    versions instead of "requires a different Python"."""
    [lowest] = re.findall(r"^>=(3\.\d+)$", PROJECT["project"]["requires-python"])
    without = [
        requirement
        for requirement in GROUPS[group]
        if not requirement.endswith(f"; python_version >= '{lowest}'")
    ]
    assert without == []


def _pythons_before(lowest: tuple[int, int]) -> list[Path]:
    """Older Pythons of this machine, from pyenv and in the directories of the system."""
    names = [f"3.{minor}" for minor in range(7, lowest[1])]
    places = [
        *(
            path
            for name in names
            for path in Path.home().glob(f".pyenv/versions/{name}.*/bin/python{name}")
        ),
        *(
            Path(directory) / f"python{name}"
            for name in names
            for directory in ("/usr/bin", "/usr/local/bin")
        ),
    ]
    return [path for path in places if path.is_file()]


def test_a_checkout_run_by_an_older_python_says_so_in_one_sentence() -> None:
    older = _pythons_before((3, 11))
    if not older:
        pytest.skip("no Python before 3.11 is installed")
    result = subprocess.run(
        [older[0], "-B", "-m", "entrepot", "status"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert re.fullmatch(
        r"Error: Entrepot needs Python 3\.11 or later, and \S+ is 3\.\d+\.\d+\. "
        r"Run it with a later one, such as python3\.12\.\n",
        result.stderr,
    )


@pytest.mark.parametrize("name", ["__init__.py", "__main__.py"])
def test_the_files_that_say_so_can_be_read_by_older_pythons(name: str) -> None:
    """Where no older Python is installed: at least the grammar of the files that it reads first is
    that of 3.7."""
    ast.parse((CHECKOUT / "entrepot" / name).read_text(), feature_version=(3, 7))


def _is_included(path: str) -> bool:
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    return any(f"/{path}" == entry or f"/{path}".startswith(f"{entry}/") for entry in included)


def test_a_source_distribution_holds_what_the_pages_lead_to() -> None:
    links = {
        os.path.relpath(document.parent / link, CHECKOUT)
        for document in DOCUMENTS
        for link in re.findall(r"\]\(([^)#:\s]+)[^):]*\)", document.read_text())
    }
    mentioned = {"screenshots/demo.cast", ".ci/run", ".ci/lowest", "tests/test_packaging.py"}
    assert {"docs/keys.md", "screenshots/overview.png", "CONTRIBUTING.md", "SECURITY.md"} <= links
    for path in sorted(links | mentioned | {"hatch_build.py"}):
        assert (CHECKOUT / path).exists(), path
        assert _is_included(path), path


# What a package index gets


def _metadata(monkeypatch: pytest.MonkeyPatch, repository: str) -> dict[str, Any]:
    """What the hook of the build adds, built from a repository at this address."""
    pytest.importorskip("hatchling")
    from hatch_build import VARIABLE, ProjectLinks

    monkeypatch.setenv(VARIABLE, repository)
    metadata: dict[str, Any] = {}
    ProjectLinks(str(CHECKOUT), HOOK).update(metadata)
    return metadata


def test_a_package_index_shows_images_and_links_of_the_repository(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metadata = _metadata(monkeypatch, "https://forge.example/ann/entrepot/")
    readme = metadata["readme"]["text"]
    repository = "https://forge.example/ann/entrepot"
    assert f"]({repository}/raw/HEAD/screenshots/overview.png)" in readme
    assert f"]({repository}/blob/HEAD/docs/rules.md)" in readme
    assert re.findall(r"\]\((?!https://)[^)]*\)", readme) == []
    assert metadata["urls"]["Source"] == repository
    assert metadata["urls"].keys() == HOOK["urls"].keys()


def test_a_package_index_shows_no_broken_image_or_link_of_an_unknown_repository(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metadata = _metadata(monkeypatch, "")
    assert re.findall(r"\]\((?!https://)[^)]*\)", metadata["readme"]["text"]) == []
    assert "overview.png" not in metadata["readme"]["text"]
    assert metadata["urls"] == {}


def test_the_readme_of_an_index_is_otherwise_that_of_the_repository(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (CHECKOUT / "README.md").read_text()
    repository = "https://forge.example/ann/entrepot"
    readme = _metadata(monkeypatch, repository)["readme"]["text"]
    assert re.sub(rf"{repository}/(raw|blob)/HEAD/", "", readme) == text


def test_the_hook_of_the_build_can_be_read_by_older_pythons() -> None:
    """pip of an older Python runs it before it looks at ``requires-python``."""
    ast.parse((CHECKOUT / "hatch_build.py").read_text(), feature_version=(3, 7))


def test_the_types_of_the_package_can_be_used_by_others() -> None:
    assert (CHECKOUT / "entrepot/py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["project"]["classifiers"]


def test_a_wheel_has_every_module_of_the_product() -> None:
    """Without ``tui`` and ``widgets`` a wheel installs a command that can't open its dashboard."""
    builder = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(CHECKOUT))
    packed = {file.distribution_path for file in builder.recurse_included_files()}
    modules = {
        str(path.relative_to(CHECKOUT))
        for package in ("entrepot", "tui", "widgets")
        for path in (CHECKOUT / package).rglob("*.py")
    }
    assert {name for name in packed if name.endswith(".py")} == modules
    assert "entrepot/py.typed" in packed
