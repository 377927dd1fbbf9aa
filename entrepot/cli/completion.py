"""Completion in the shell: names of rules, credential sets, repositories and tags.

They come from this user's running engine. Nothing here starts an engine, and nothing is printed
where none answers within `ANSWER_TIMEOUT` seconds. Only values without shell syntax are offered
(`_PLAIN`): click's script for bash puts them into an array unquoted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from threading import Thread
from typing import Any, ClassVar

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)

from entrepot.api.client import CacheClient
from entrepot.api.errors import ClientError, EngineRefused
from entrepot.cli.session import run_blocking
from entrepot.config.directories import Directories
from entrepot.errors import EntrepotError

ANSWER_TIMEOUT = 1.0
"""Seconds until the shell gets what has arrived: a person who pressed tab does not wait longer."""

MAX_VALUES = 200
"""Values that are offered at most."""

PLATFORMS = (
    "linux/amd64",
    "linux/arm64",
    "linux/arm/v7",
    "linux/arm/v6",
    "linux/386",
    "linux/ppc64le",
    "linux/riscv64",
    "linux/s390x",
)
"""The platforms that public images have most often."""

_PLAIN = re.compile(r"@?[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,511}")

Work = Callable[[CacheClient], Coroutine[Any, Any, list[str]]]


def rule_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of cache rules."""

    async def names(client: CacheClient) -> list[str]:
        return [rule.name for rule in await client.rules.list()]

    return _items(_query(context, names), incomplete)


def credential_set_names(
    context: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of credential sets."""

    async def names(client: CacheClient) -> list[str]:
        return [credential_set.name for credential_set in await client.credential_sets.list()]

    return _items(_query(context, names), incomplete)


def token_names(
    context: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of personal tokens."""

    async def names(client: CacheClient) -> list[str]:
        return [token.name for token in await client.readers.tokens()]

    return _items(_query(context, names), incomplete)


def group_names(
    context: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of groups that readers have."""

    async def names(client: CacheClient) -> list[str]:
        readers = (await client.readers.list()).readers
        return sorted({group for reader in readers for group in reader.groups})

    return _items(_query(context, names), incomplete)


def reader_names(
    context: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of readers, and of groups with ``@``."""

    async def names(client: CacheClient) -> list[str]:
        readers = (await client.readers.list()).readers
        groups = sorted({group for reader in readers for group in reader.groups})
        return [*(reader.name for reader in readers), *(f"@{group}" for group in groups)]

    return _items(_query(context, names), incomplete)


def login_servers(
    context: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Login servers that credential sets may be for."""

    async def servers(client: CacheClient) -> list[str]:
        return [
            registry.login_server
            for registry in await client.system.source_registries()
            if registry.sign_in.value != "none"
        ]

    return _items(_query(context, servers), incomplete)


def source_repositories(
    context: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Login servers, and the source repositories of existing rules."""

    async def beginnings(client: CacheClient) -> list[str]:
        servers = [
            f"{registry.login_server}/" for registry in await client.system.source_registries()
        ]
        return [
            *servers,
            *(rule.source_repository.rstrip("*") for rule in await client.rules.list()),
        ]

    return _items(_query(context, beginnings), incomplete)


def repositories(
    context: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of cached repositories."""
    return _items(
        _query(context, lambda client: client.repositories.list_names(incomplete, MAX_VALUES)),
        incomplete,
    )


def cached_images(
    context: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Cached repositories, and the tags of one of them.

    Tags are offered for a repository that is typed completely or is the only match.
    """
    return _items(_query(context, lambda client: _images(client, incomplete)), incomplete)


def images(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Cached repositories and their tags, and the target repositories of rules."""

    async def both(client: CacheClient) -> list[str]:
        return [
            *await _images(client, incomplete),
            *(rule.target_repository.rstrip("*") for rule in await client.rules.list()),
        ]

    return _items(_query(context, both), incomplete)


def platforms(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Platforms of images."""
    return _items(PLATFORMS, incomplete)


def themes(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Themes of the dashboard."""
    try:
        from tui.theme import theme_names
    except ModuleNotFoundError:
        # The dashboard is not installed.
        return []
    return _items(theme_names(), incomplete)


async def _images(client: CacheClient, incomplete: str) -> list[str]:
    repository, colon, tag = incomplete.partition(":")
    names = [] if colon else await client.repositories.list_names(repository, MAX_VALUES)
    of = repository if colon or repository in names else names[0] if len(names) == 1 else ""
    if of:
        # It need not be cached.
        with suppress(EngineRefused):
            names += [
                f"{of}:{name}"
                for name in await client.repositories.list_tag_names(of, tag, MAX_VALUES)
            ]
    return names


def _query(context: click.Context, work: Work) -> list[str]:
    """What *work* gets from this user's engine.

    Nothing where another engine is named, none answers, or the answer takes too long.
    """
    if context.find_root().params.get("connect"):
        # Connecting may take seconds, and ask for a password.
        return []
    answer: list[str] = []

    def run() -> None:
        # The shell has no place for a message.
        with suppress(ClientError, EntrepotError):
            answer.extend(run_blocking(work(CacheClient.blocking_at(Directories.of_user().socket))))

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(ANSWER_TIMEOUT)
    return [] if thread.is_alive() else answer


def _items(values: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """The values that begin with *incomplete*, without duplicates.

    A value that ends with a slash is a beginning: the shell adds no space after it.
    """
    matching = dict.fromkeys(
        value for value in values if value.startswith(incomplete) and _PLAIN.fullmatch(value)
    )
    return [
        CompletionItem(value, is_beginning=value.endswith("/"))
        for value in list(matching)[:MAX_VALUES]
    ]


_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n'
    local response completion type value

    response=$(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD \\
        %(complete_var)s=bash_complete $1)

    for completion in $response; do
        IFS=',' read -r type value <<< "$completion"

        if [[ $type == 'dir' ]]; then
            COMPREPLY=()
            compopt -o dirnames
        elif [[ $type == 'file' ]]; then
            COMPREPLY=()
            compopt -o default
        else
            COMPREPLY+=("$value")
            if [[ $type == 'beginning' ]]; then
                compopt -o nospace
            fi
        fi
    done

    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class ImageBashComplete(BashComplete):
    """click's completion for bash, with colons as part of a word.

    readline ends words at a colon, and an image has one before its tag.
    """

    name: ClassVar[str] = "bash"
    source_template: ClassVar[str] = _BASH

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._typed_before = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words of the command line, joined again where bash has cut them at a colon."""
        args, incomplete = super().get_completion_args()
        words: list[str] = []
        joins = False
        for word in [*args, incomplete]:
            if word == "=" and words and words[-1].startswith("--"):
                # readline ends a word at = too: --name=VALUE comes as three.
                joins = False
                continue
            if words and (joins or set(word) == {":"}):
                words[-1] += word
            else:
                words.append(word)
            joins = set(word) == {":"}
        if incomplete == "=" and words[-1] != "=":
            words.append("")
        *before, whole = words
        # What bash replaces begins after the last colon.
        self._typed_before = whole[: whole.rfind(":") + 1]
        return before, whole

    def format_completion(self, item: CompletionItem) -> str:
        """Format one value for the shell script."""
        kind = "beginning" if item.is_beginning else item.type
        return f"{kind},{item.value.removeprefix(self._typed_before)}"


class _WholeWords(ShellComplete):
    """Completion for shells that replace the whole word.

    It keeps the option of ``--name=VALUE``.
    """

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """The completions of the value, each with the option in front."""
        items = super().get_completions(args, incomplete)
        option, separator, _ = incomplete.partition("=")
        if separator and option.startswith("--"):
            for item in items:
                item.value = f"{option}={item.value}" if item.type == "plain" else item.value
        return items


class OptionZshComplete(_WholeWords, ZshComplete):
    """click's completion for zsh."""


class OptionFishComplete(_WholeWords, FishComplete):
    """click's completion for fish."""


def prepare() -> None:
    """Register these classes with click, in a process that completes."""
    add_completion_class(ImageBashComplete)
    add_completion_class(OptionZshComplete)
    add_completion_class(OptionFishComplete)
