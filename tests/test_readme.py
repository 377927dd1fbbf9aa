"""Examples, commands and links of the README and the other pages are right."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import click
import pytest

from entrepot.cli.main import cli
from entrepot.config.settings import Settings
from entrepot.core.registries import TABLE
from entrepot.core.states import SignIn
from tests.documents import CHECKOUT, DOCUMENTS, README, blocks

PAGES = tuple(document for document in DOCUMENTS if document.name != "CHANGELOG.md")
"""The pages that describe today's version."""

_LINK = re.compile(r"\]\(([^()\s]+)\)")


def _typed() -> list[list[str]]:
    """The commands of ``entrepot`` in the blocks for a shell, without the program's name."""
    lines = [
        line
        for block in blocks()
        if block.language == "sh"
        for line in block.text.replace("\\\n", " ").splitlines()
        if line.startswith("entrepot ")
    ]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def _mentioned() -> Iterator[tuple[str, list[str]]]:
    """The commands within the sentences of the pages, with the name of their page."""
    for page in PAGES:
        # Blocks are tried elsewhere, and the reference is generated from the commands.
        text = page.read_text().partition("<!-- begin: ")[0]
        text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        for code in re.findall(r"`entrepot ([^`…]+)`", " ".join(text.split())):
            yield page.name, shlex.split(code)


def _words(title: str) -> str:
    """The anchor of a heading, as forges make it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def test_the_settings_shown_are_the_defaults_and_two_source_registries(tmp_path: Path) -> None:
    [example] = [
        block
        for block in blocks()
        if "[upstreams" in block.text and block.document.name == "configuration.md"
    ]
    path = tmp_path / "settings.toml"
    path.write_text(example.text)
    settings = Settings.load(path)
    assert settings == Settings(upstreams=settings.upstreams)
    assert [upstream.login_server for upstream in settings.upstreams] == [
        "registry.example.com",
        "docker.io",
    ]


@pytest.mark.parametrize("arguments", _typed(), ids=" ".join)
def test_every_command_on_a_page_is_accepted(arguments: list[str]) -> None:
    command: click.Command = cli
    while isinstance(command, click.Group):
        # Options of a group stand before the name of its command; entrepot without one opens the
        # dashboard.
        context = command.make_context(str(command.name), list(arguments), resilient_parsing=True)
        _, arguments, _ = command.make_parser(context).parse_args(list(arguments))
        if command is cli and not arguments:
            return
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(str(command.name), arguments)


def test_each_command_in_a_sentence_exists_with_its_options() -> None:
    unknown: list[str] = []
    for page, words in _mentioned():
        command: click.Command = cli
        options = {option for parameter in cli.params for option in parameter.opts}
        for word in words:
            if isinstance(command, click.Group) and word in command.commands:
                command = command.commands[word]
                options |= {option for parameter in command.params for option in parameter.opts}
            elif word.startswith("-") and len(word) > 1 and word not in options:
                unknown.append(f"{page}: entrepot {' '.join(words)}")
        if isinstance(command, click.Group) and words[0] not in options:
            unknown.append(f"{page}: entrepot {' '.join(words)}")
    assert unknown == []


def test_the_table_of_source_registries_is_the_engine_s() -> None:
    policies = {
        SignIn.REQUIRED: "required",
        SignIn.OPTIONAL: "optional",
        SignIn.NONE: "not allowed",
    }
    rules = (CHECKOUT / "docs/rules.md").read_text()
    rows = re.findall(r"^\| (\S[^|]*) \| `([^`]+)` \| (\w[^|]+) \|$", rules, re.MULTILINE)
    assert rows == [
        (registry.name, registry.login_server, policies[registry.sign_in]) for registry in TABLE
    ]


def test_the_page_on_tested_source_registries_has_all_of_the_table() -> None:
    page = (CHECKOUT / "docs/source-registries.md").read_text()
    names = re.findall(r"^\| (\S[^|]*) \| `[^`]+` \|", page, re.MULTILINE)
    assert names == [registry.name for registry in TABLE]


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_each_link_leads_to_a_file_and_a_heading_that_exist(page: Path) -> None:
    for link in _LINK.findall(page.read_text()):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in map(_words, titles), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_page_can_be_reached_from_the_readme(page: Path) -> None:
    reached, waiting = {README}, [README]
    while waiting:
        document = waiting.pop()
        for link in _LINK.findall(document.read_text()):
            target = (document.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.is_file() and target not in reached:
                reached.add(target)
                waiting.append(target)
    assert page in reached


def test_the_readme_shows_one_image() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\((screenshots/[^)]+\.png)\)", README.read_text())
    assert len(pictures) == 1
