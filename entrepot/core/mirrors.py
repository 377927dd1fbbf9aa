"""From the name of an image at its source registry to the target repository here.

Pure: no I/O. A client in mirror mode keeps the names of the source registry: it says which one
(``?ns=docker.io``), or the listener that it uses stands for one. That name is only ever looked up
among the rules' sources.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from entrepot.core.hosts import HOST_LENGTH
from entrepot.core.reference import REPOSITORY_LENGTH, Repository, quoted
from entrepot.core.registries import (
    LoginServerInvalid,
    parse_login_server,
    repository_at,
)
from entrepot.core.rules import CacheRule, Route, RuleBook
from entrepot.errors import RequestInvalid

NAMESPACE_LENGTH: Final = HOST_LENGTH + len(":65535")
"""The longest name of a source registry with its port, in characters."""

MayRead = Callable[[CacheRule], bool]
"""Whether the reader who asks may read what a rule caches."""


def every_rule(_rule: CacheRule) -> bool:
    """Allow all rules: the predicate where nothing depends on the reader."""
    return True


def parse_namespace(text: str) -> str:
    """The login server that a client names in ``ns``, in its normal form.

    Lower case, without the port of HTTPS, and ``docker.io`` for its other names. Raises
    `RequestInvalid`.
    """
    if len(text) > NAMESPACE_LENGTH:
        raise RequestInvalid(
            f"ns={quoted(text)} is too long for the name of a registry.",
            f"It has at most {NAMESPACE_LENGTH} characters.",
            field="ns",
        )
    try:
        return parse_login_server(without_https_port(text.strip()), field="ns")
    except LoginServerInvalid as error:
        raise RequestInvalid(f"ns={quoted(text)}: {error.what}", error.hint, field="ns") from None


def without_https_port(login_server: str) -> str:
    """A login server without port 443, which means the same (RFC 9110, section 4.2.2)."""
    return login_server.removesuffix(":443")


class SourceIndex:
    """The rules of one book by the source repositories that they cover.

    A look-up costs as many dictionary accesses as the name has parts, however many rules there are.
    """

    def __init__(self, rules: RuleBook) -> None:
        self.rules = rules
        self._static: dict[tuple[str, str], list[CacheRule]] = defaultdict(list)
        self._wildcards: dict[tuple[str, str], list[CacheRule]] = defaultdict(list)
        self._login_servers: dict[str, list[CacheRule]] = defaultdict(list)
        # By name, so that rules with the same source are always tried in the same order.
        for rule in rules:
            source = rule.source
            by_source = self._wildcards if source.wildcard else self._static
            login_server = without_https_port(source.login_server)
            by_source[login_server, source.path].append(rule)
            self._login_servers[login_server].append(rule)

    def rules_of(self, login_server: str) -> Sequence[CacheRule]:
        """The rules that pull from a source registry, by name."""
        return self._login_servers.get(without_https_port(login_server), ())

    def covering(self, login_server: str, path: str) -> Iterator[CacheRule]:
        """The rules that cover a source repository: static ones, then the longest wildcards."""
        login_server = without_https_port(login_server)
        yield from self._static.get((login_server, path), ())
        end = len(path)
        while (end := path.rfind("/", 0, end)) > 0:
            yield from self._wildcards.get((login_server, path[:end]), ())
        yield from self._wildcards.get((login_server, ""), ())

    def routes(self, login_server: str, path: str) -> Iterator[tuple[Repository, Route]]:
        """The target repositories of a source repository, in the order of `covering`.

        Where another rule wins at a target, its source is another one: that target is left out.
        """
        path = repository_at(login_server, path)
        for rule in self.covering(login_server, path):
            target = target_of(rule, path)
            if len(target) <= REPOSITORY_LENGTH:
                route = self.rules.route(target)
                if route is not None and route.rule is rule:
                    yield Repository(target), route

    def find(
        self, namespace: str, name: str, may_read: MayRead = every_rule
    ) -> tuple[Repository, Route] | None:
        """The target repository for the name of an image at its source registry.

        None where no rule that *may_read* allows leads to one.
        """
        for repository, route in self.routes(namespace, name):
            if may_read(route.rule):
                return repository, route
        return None


def target_of(rule: CacheRule, path: str) -> str:
    """Where a repository that a rule covers appears here; *path* is that at its source."""
    if not rule.source.wildcard:
        return rule.target.path
    rest = path[len(rule.source.path) + 1 :] if rule.source.path else path
    return f"{rule.target.path}/{rest}" if rule.target.path else rest
