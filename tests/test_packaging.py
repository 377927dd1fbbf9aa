"""What ``pyproject.toml`` says to pip and to whoever builds a distribution of it."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())

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
    ended = subprocess.run(
        [older[0], "-B", "-m", "entrepot", "status"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert re.fullmatch(
        r"Error: Entrepot needs Python 3\.11 or later, and \S+ is 3\.\d+\.\d+\. Run it with a later one, such as python3\.12\.\n",
        ended.stderr,
    )


@pytest.mark.parametrize("name", ["__init__.py", "__main__.py"])
def test_the_files_that_say_so_can_be_read_by_older_pythons(name: str) -> None:
    """Where no older Python is installed: at least the grammar of the files that it reads first is
    that of 3.7."""
    ast.parse((CHECKOUT / "entrepot" / name).read_text(), feature_version=(3, 7))


def test_a_source_distribution_holds_what_the_readme_leads_to() -> None:
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    links = set(re.findall(r"\]\(([^)#:]+)\)", (CHECKOUT / "README.md").read_text()))
    mentioned = {
        "docs/keys.md",
        "screenshots/demo.cast",
        ".ci/run",
        ".ci/lowest",
        "tests/test_packaging.py",
    }
    for path in sorted(links | mentioned):
        assert (CHECKOUT / path).exists(), path
        assert any(f"/{path}" == each or f"/{path}".startswith(f"{each}/") for each in included), (
            path
        )


def test_the_types_of_the_package_can_be_used_by_others() -> None:
    assert (CHECKOUT / "entrepot/py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["project"]["classifiers"]
