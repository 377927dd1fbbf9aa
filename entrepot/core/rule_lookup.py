"""Which cache rule answers for what a person types: a repository of ours, our address and a
repository, or a repository at its source. Pure: no I/O."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from entrepot.core.hosts import looks_like_host
from entrepot.core.reference import Digest, ImageReference, Repository, Tag
from entrepot.core.registries import SourceRegistries, SourceRegistry
from entrepot.core.rules import CacheRule, Route, RuleBook
from entrepot.errors import Refusal

NEAR = 5
"""Rules that are named where none answers."""

LIKENESS = 0.6
"""From which two names are near, from 0 to 1 (`difflib`)."""

_SCHEMES = ("https://", "http://", "docker://", "oci://")


@dataclass(frozen=True, slots=True)
class NearbyRule:
    """A rule that does not answer for an image, though it nearly does."""

    rule: CacheRule
    why: str
    """``Its target is library/nginx.``"""


@dataclass(frozen=True, slots=True)
class RuleLookup:
    """Which rule answers for an image."""

    repository: Repository | None
    """The target repository; None for a source repository to which no rule leads."""
    tag: Tag | None
    digest: Digest | None
    route: Route | None
    """None: no rule answers."""
    why_not: str | None = None
    """Why no rule answers, and what to do."""
    others: tuple[str, ...] = ()
    """Other target repositories that come from the same source repository."""
    near: tuple[NearbyRule, ...] = ()
    """Where no rule answers: at most `NEAR` that come near, the nearest first."""


def match(
    text: str, rules: RuleBook, registries: SourceRegistries, own_addresses: Collection[str]
) -> RuleLookup:
    """What answers for *text*; raises a `Refusal` when it names no image."""
    written = text.strip()
    for scheme in _SCHEMES:
        written = written.removeprefix(scheme)
    host, slash, rest = written.partition("/")
    if slash and host.lower() in own_addresses:
        return _here(rest, rules)
    if slash and (looks_like_host(host) or host.lower() in registries):
        return _at_source(host, rest, rules, registries)
    return _here(written, rules)


def _here(text: str, rules: RuleBook) -> RuleLookup:
    image, tag = _parse(text)
    route = rules.route(image.repository)
    if route is not None:
        return RuleLookup(image.repository, tag, image.digest, route)
    what = f"No cache rule answers for {image.repository}."
    if not len(rules):
        return RuleLookup(
            image.repository,
            tag,
            image.digest,
            None,
            f"{what} There is no rule at all. Make one in the dashboard or with: entrepot rule create",
        )
    near = tuple(_near_here(image.repository, rules))[:NEAR]
    hint = (
        "See which come near."
        if near
        else "Make one in the dashboard or with: entrepot rule create"
    )
    return RuleLookup(image.repository, tag, image.digest, None, f"{what} {hint}", near=near)


def _at_source(host: str, rest: str, rules: RuleBook, registries: SourceRegistries) -> RuleLookup:
    # Without its host it has the grammar of an image here.
    image, tag = _parse(rest)
    try:
        registry = registries.find(host)
    except Refusal as refusal:
        # A repository of ours may begin with the name of a host.
        here = _at_host(f"{host}/{rest}", rules)
        return here or RuleLookup(None, tag, image.digest, None, refusal.message)
    path = registry.repository(image.repository)
    found = [(repository, route) for repository, route in _reaching(registry, path, rules)]
    if found:
        (repository, route), *more = found
        return RuleLookup(
            repository, tag, image.digest, route, others=tuple(each for each, _ in more)
        )
    here = _at_host(f"{host}/{rest}", rules)
    if here is not None:
        return here
    near = tuple(_near_at_source(registry, path, rules))[:NEAR]
    what = f"No cache rule pulls from {registry.login_server}/{path}."
    hint = (
        "See which come near."
        if near
        else f"None pulls from {registry.login_server} at all. Make one in the dashboard or with: entrepot rule create"
    )
    return RuleLookup(None, tag, image.digest, None, f"{what} {hint}", near=near)


def _at_host(text: str, rules: RuleBook) -> RuleLookup | None:
    try:
        found = _here(text, rules)
    except Refusal:
        return None
    return found if found.route is not None else None


def _parse(text: str) -> tuple[ImageReference, Tag | None]:
    """The image, and the tag if one was written."""
    image = ImageReference.parse(text)
    return image, None if text == image.repository else image.tag


def _reaching(
    registry: SourceRegistry, path: str, rules: RuleBook
) -> Iterator[tuple[Repository, Route]]:
    """The repositories of ours that come from a repository of a source, those of static rules
    first."""
    of_registry = [rule for rule in rules if rule.source.login_server == registry.login_server]
    for rule in sorted(
        of_registry, key=lambda each: (each.source.wildcard, -len(each.source.path))
    ):
        repository = _target(rule, path)
        route = rules.route(repository) if repository is not None else None
        # Another rule may win at that target.
        if route is not None and route.rule is rule:
            yield Repository(repository or ""), route


def _target(rule: CacheRule, path: str) -> str | None:
    """Where a repository of the rule's source appears here; None where the rule does not cover it."""
    if not rule.source.wildcard:
        return rule.target.path if rule.source.path == path else None
    prefix = f"{rule.source.path}/" if rule.source.path else ""
    if not path.startswith(prefix):
        return None
    rest = path[len(prefix) :]
    return f"{rule.target.path}/{rest}" if rule.target.path else rest


def _near_here(repository: str, rules: RuleBook) -> Iterator[NearbyRule]:
    scored: list[tuple[float, CacheRule, str]] = []
    official = rules.route(f"library/{repository}") if "/" not in repository else None
    if official is not None:
        scored.append((1.8, official.rule, f"It answers for library/{repository}."))
    for rule in rules:
        if official is not None and rule is official.rule:
            continue
        target = rule.target
        if target.wildcard and target.path == repository:
            scored.append(
                (
                    2.0,
                    rule,
                    f"It answers for what is below {target.path}/, and not for {repository} itself.",
                )
            )
            continue
        if not target.wildcard and repository.startswith(f"{target.path}/"):
            scored.append(
                (1.5, rule, f"It answers for {target.path} alone, and not for what is below it.")
            )
            continue
        depth = target.path.count("/") + 1
        compared = "/".join(repository.split("/")[:depth]) if target.wildcard else repository
        likeness = _likeness(compared, target.path)
        if likeness >= LIKENESS:
            scored.append((likeness, rule, f"Its target is {target}."))
    for _, rule, why in sorted(scored, key=lambda each: (-each[0], each[1].name.casefold())):
        yield NearbyRule(rule, why)


def _near_at_source(registry: SourceRegistry, path: str, rules: RuleBook) -> Iterator[NearbyRule]:
    of_registry = [rule for rule in rules if rule.source.login_server == registry.login_server]
    scored = [(_likeness(path, rule.source.path), rule) for rule in of_registry]
    for _, rule in sorted(scored, key=lambda each: (-each[0], each[1].name.casefold())):
        yield NearbyRule(rule, f"It pulls {rule.source} from the same registry.")


def _likeness(one: str, other: str) -> float:
    compared = difflib.SequenceMatcher(None, one, other, autojunk=False)
    # The upper bounds are cheap, and tell of most names that they are not near.
    return (
        compared.ratio()
        if compared.real_quick_ratio() >= LIKENESS and compared.quick_ratio() >= LIKENESS
        else 0.0
    )
