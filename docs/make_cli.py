"""Write the reference of all commands into ``cli.md``, from what click knows about them.

    python -m docs.make_cli

What is outside of the two marks in ``cli.md`` is written by hand and stays.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from entrepot.cli.main import cli

PAGE = Path(__file__).parent / "cli.md"

BEGIN = "<!-- begin: python -m docs.make_cli -->"
END = "<!-- end: python -m docs.make_cli -->"

COLUMNS = 100
"""Columns of a line, at most."""


def commands(
    group: click.Group = cli, *parents: str
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands below *group* that are not hidden, with the words that call them."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        words = (*parents, name)
        yield words, command
        if isinstance(command, click.Group):
            yield from commands(command, *words)


def reference() -> str:
    """The generated part of the page, in Markdown."""
    sections = ["### Before any command\n", *_command((), cli)]
    for words, command in commands():
        sections += [f"### entrepot {' '.join(words)}\n", *_command(words, command)]
    return "\n".join(sections)


def page() -> str:
    """The whole page as it should be now."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, mark, foot = rest.partition(END)
    if not mark:
        raise ValueError(f"{PAGE} lacks the lines {BEGIN} and {END}")
    return f"{head}{BEGIN}\n\n{reference()}\n{END}{foot}"


def _command(words: tuple[str, ...], command: click.Command) -> Iterator[str]:
    """The paragraphs of a command: how it is called, what it does, its commands or options."""
    name = " ".join(("entrepot", *words))
    context = click.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"`{name} {usage}`\n"
    for paragraph in _paragraphs(command.help or ""):
        yield f"{_wrap(paragraph)}\n"
    if isinstance(command, click.Group) and words:
        links = [
            f"- [`{name} {subcommand}`](#{re.sub(r'[^a-z-]', '-', f'{name} {subcommand}')})"
            for subcommand, called in command.commands.items()
            if not called.hidden
        ]
        yield "\n".join(links) + "\n"
    options = [
        _wrap(f"- `{names}`: {text}" if text else f"- `{names}`", indent="  ")
        for names, text in _options(command, context)
    ]
    if options:
        yield "\n".join(options) + "\n"


def _options(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """The names and the meaning of each option, but ``--help``, which all have."""
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            yield record[0], _escaped(re.sub(r"\s+", " ", record[1]))


def _paragraphs(text: str) -> list[str]:
    """The paragraphs of a help text, each as one line."""
    return [
        _escaped(" ".join(paragraph.split())) for paragraph in re.split(r"\n\s*\n", text.strip())
    ]


def _escaped(text: str) -> str:
    """*text* with what Markdown would take for emphasis or for a tag."""
    return re.sub(r"[*<]", r"\\\g<0>", text)


def _wrap(text: str, *, indent: str = "") -> str:
    return textwrap.fill(
        text,
        COLUMNS,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
