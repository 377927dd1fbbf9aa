"""Find the cache rule that answers for an image. Pure: no I/O.

A person types a target repository, the engine's address and a target repository, or a source
repository.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from entrepot.core.hosts import looks_like_host
from entrepot.core.mirrors import SourceIndex
from entrepot.core.reference import Digest, ImageReference, Repository, Tag
from entrepot.core.registries import SourceRegistries, SourceRegistry
from entrepot.core.rules import CacheRule, Route, RuleBook
from entrepot.errors import Refusal

NEARBY_RULES = 5
"""The most rules that are named where none answers."""

MIN_LIKENESS = 0.6
"""The ratio from which two names are alike, from 0 to 1 (`difflib`)."""

_CREATE = "Create one in the dashboard or with: entrepot rule create"

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
    """Where no rule answers: at most `NEARBY_RULES`, the nearest first."""


def match(
    text: str, rules: RuleBook, registries: SourceRegistries, own_addresses: Collection[str]
) -> RuleLookup:
    """The rule that answers for *text*; raises a `Refusal` where it names no image."""
    image_name = text.strip()
    for scheme in _SCHEMES:
        image_name = image_name.removeprefix(scheme)
    host, slash, rest = image_name.partition("/")
    if slash and host.lower() in own_addresses:
        return _look_up_target(rest, rules)
    if slash and (looks_like_host(host) or host.lower() in registries):
        return _look_up_source(host, rest, rules, registries)
    return _look_up_target(image_name, rules)


def _look_up_target(text: str, rules: RuleBook) -> RuleLookup:
    image, tag = _parse(text)
    route = rules.route(image.repository)
    if route is not None:
        return RuleLookup(image.repository, tag, image.digest, route)
    near = tuple(_near_target(image.repository, rules))[:NEARBY_RULES]
    hint = "See which come near." if near else _CREATE
    if not len(rules):
        hint = f"There is no rule at all. {_CREATE}"
    return RuleLookup(
        image.repository,
        tag,
        image.digest,
        None,
        f"No cache rule answers for {image.repository}. {hint}",
        near=near,
    )


def _look_up_source(
    host: str, rest: str, rules: RuleBook, registries: SourceRegistries
) -> RuleLookup:
    # Without its host it has the grammar of an image here.
    image, tag = _parse(rest)
    try:
        registry = registries.find(host)
    except Refusal as refusal:
        # A target repository may begin with the name of a host.
        as_target = _look_up_routed_target(f"{host}/{rest}", rules)
        return as_target or RuleLookup(None, tag, image.digest, None, refusal.message)
    path = registry.repository(image.repository)
    sources = SourceIndex(rules)
    routes = list(sources.routes(registry.login_server, path))
    if routes:
        (repository, route), *others = routes
        return RuleLookup(
            repository,
            tag,
            image.digest,
            route,
            others=tuple(other_repository for other_repository, _ in others),
        )
    as_target = _look_up_routed_target(f"{host}/{rest}", rules)
    if as_target is not None:
        return as_target
    near = tuple(_near_source(registry, path, sources))[:NEARBY_RULES]
    hint = (
        "See which come near."
        if near
        else f"None pulls from {registry.login_server} at all. {_CREATE}"
    )
    return RuleLookup(
        None,
        tag,
        image.digest,
        None,
        f"No cache rule pulls from {registry.login_server}/{path}. {hint}",
        near=near,
    )


def _look_up_routed_target(text: str, rules: RuleBook) -> RuleLookup | None:
    """The look-up of a target repository; None if no rule answers for it."""
    try:
        lookup = _look_up_target(text, rules)
    except Refusal:
        return None
    return lookup if lookup.route is not None else None


def _parse(text: str) -> tuple[ImageReference, Tag | None]:
    """The image, and the tag if one was written."""
    image = ImageReference.parse(text)
    return image, None if text == image.repository else image.tag


def _near_target(repository: str, rules: RuleBook) -> Iterator[NearbyRule]:
    """Rules that nearly answer for a target repository, the nearest first."""
    scored: list[tuple[float, CacheRule, str]] = []
    official = rules.route(f"library/{repository}") if "/" not in repository else None
    if official is not None:
        scored.append((1.8, official.rule, f"It answers for library/{repository}."))
    for rule in rules:
        if official is not None and rule is official.rule:
            continue
        target = rule.target
        if target.wildcard and target.path == repository:
            why = f"It answers for what is below {target.path}/, and not for {repository} itself."
            scored.append((2.0, rule, why))
            continue
        if not target.wildcard and repository.startswith(f"{target.path}/"):
            why = f"It answers for {target.path} alone, and not for what is below it."
            scored.append((1.5, rule, why))
            continue
        depth = target.path.count("/") + 1
        compared = "/".join(repository.split("/")[:depth]) if target.wildcard else repository
        likeness = _likeness(compared, target.path)
        if likeness >= MIN_LIKENESS:
            scored.append((likeness, rule, f"Its target is {target}."))
    for _, rule, why in sorted(scored, key=lambda entry: (-entry[0], entry[1].name.casefold())):
        yield NearbyRule(rule, why)


def _near_source(registry: SourceRegistry, path: str, sources: SourceIndex) -> Iterator[NearbyRule]:
    """Rules that pull from the same source registry, the most alike paths first."""
    scored = [
        (_likeness(path, rule.source.path), rule)
        for rule in sources.rules_of(registry.login_server)
    ]
    for _, rule in sorted(scored, key=lambda entry: (-entry[0], entry[1].name.casefold())):
        yield NearbyRule(rule, f"It pulls {rule.source} from the same registry.")


def _likeness(one: str, other: str) -> float:
    """The ratio of `difflib`, or 0.0 below `MIN_LIKENESS`."""
    matcher = difflib.SequenceMatcher(None, one, other, autojunk=False)
    # The upper bounds are cheap, and rule out most names.
    if matcher.real_quick_ratio() < MIN_LIKENESS or matcher.quick_ratio() < MIN_LIKENESS:
        return 0.0
    return matcher.ratio()
