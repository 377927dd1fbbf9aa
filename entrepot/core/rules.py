"""Cache rules, the limits that hold between them, and which rule answers for a repository. Pure: no
I/O.

A rule maps a source repository onto a target repository. Both are either one repository (a static
rule) or everything below a path (a wildcard rule). The limits are those of ACR's artifact cache:
two wildcard targets may not overlap, two static targets may not be equal, and a static target may
stand inside a wildcard, where it wins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import ClassVar, Final, TypeVar

from entrepot.core.credentials import (
    CredentialBook,
    CredentialSetInUse,
    parse_name,
    to_the_second,
)
from entrepot.core.freshness import freshness_text, parse_optional_freshness
from entrepot.core.patterns import SourceRepository as SourceRepository
from entrepot.core.patterns import Target as Target
from entrepot.core.reference import REPOSITORY_LENGTH, Repository
from entrepot.core.registries import (
    DOCKER_HUB,
    SourceRegistries,
    SourceRegistry,
    UpstreamTakesNoCredentials,
    parse_login_server,
)
from entrepot.core.states import SignIn
from entrepot.errors import NotFound, Refusal

Value = TypeVar("Value")

SHOWN: Final = 3
"""So many names are given as examples in a message."""


class WildcardOnOneSide(Refusal):
    """Of source and target, only one has a wildcard."""

    code = "CacheRuleWildcardMismatch"


class CacheRuleNameTaken(Refusal):
    """There is a cache rule of that name, without regard to case."""

    code = "CacheRuleAlreadyExists"
    status = 409


class CacheRuleNotFound(NotFound):
    """There is no cache rule of that name."""

    code = "CacheRuleNotFound"


class CacheRuleLimitReached(Refusal):
    """The rule book is full."""

    code = "CacheRuleLimitReached"
    status = 409


class CacheRuleTargetOverlap(Refusal):
    """Two wildcard targets are equal or one contains the other, or two static targets are equal."""

    code = "CacheRuleTargetOverlap"
    status = 409


class CacheRuleImmutable(Refusal):
    """Only the credential set and the freshness of a rule can change."""

    code = "CacheRuleImmutable"
    status = 409


class TargetRepositoryPresent(Refusal):
    """The target of a static rule exists already as a repository here."""

    code = "TargetRepositoryAlreadyPresentInRegistry"
    status = 409


class TargetPrefixPresent(Refusal):
    """The target of a wildcard rule covers a repository that exists already here."""

    code = "TargetRepositoryPrefixMatchesExistingRegistries"
    status = 409


class CredentialSetRequired(Refusal):
    """The source registry serves authenticated pulls only."""

    code = "EnforceUpstreamAuthentication"


class DockerCredentialSetRequired(CredentialSetRequired):
    """Docker Hub serves authenticated pulls only."""

    code = "EnforceDockerAuthentication"


class CredentialSetUnknown(Refusal):
    """A rule names a credential set that is not there."""

    code = "CredentialSetNotFound"


class CredentialSetLoginServerMismatch(Refusal):
    """A rule's credential set is for another login server than its source."""

    code = "CredentialSetLoginServerMismatch"


class RulesInvalid(Refusal):
    """Several rules, read together, can't stand; ``refusals`` holds what is wrong with which (by
    position, from 0; None: with all of them)."""

    code = "CacheRulesInvalid"

    def __init__(self, refusals: tuple[tuple[int | None, Refusal], ...]) -> None:
        super().__init__(" ".join(refusal.message for _, refusal in refusals))
        self.refusals = refusals


@dataclass(frozen=True, slots=True)
class CacheRule:
    """A source repository that appears here under a target repository."""

    name: str
    source: SourceRepository
    target: Target
    credential_set: str | None
    """Its name, as the credential set itself spells it."""
    created: datetime
    """In UTC, to the second."""
    freshness: float | None = None
    """How long its tags are believed, in seconds (`entrepot.core.freshness`); None: as the settings
    say."""

    @property
    def freshness_text(self) -> str | None:
        """The freshness as a person would write it; None: as the settings say."""
        return freshness_text(self.freshness) if self.freshness is not None else None

    @property
    def draft(self) -> RuleDraft:
        """As a person would type it."""
        return RuleDraft(
            self.name, str(self.source), str(self.target), self.credential_set, self.freshness_text
        )


@dataclass(frozen=True, slots=True)
class RuleDraft:
    """A cache rule as a person types it.

    None is what was left out: `RuleBook.check` asks for it, `RuleBook.problems` does not judge it.
    An empty ``credential_set`` says that there shall be none; for `RuleBook.check` None says so
    too.
    """

    name: str | None = None
    source_repository: str | None = None
    target_repository: str | None = None
    credential_set: str | None = None
    freshness: str | float | None = None
    """``always``, ``never``, ``10 min`` or seconds; None, an empty text and ``default`` leave it to
    the settings."""


@dataclass(frozen=True, slots=True)
class Route:
    """What answers for one repository of ours."""

    rule: CacheRule
    registry: SourceRegistry
    repository: Repository
    """Its path at the source registry, ``library/`` put in where Docker Hub needs it."""

    @property
    def source(self) -> str:
        """The source repository with its login server: ``docker.io/library/nginx``."""
        return f"{self.registry.login_server}/{self.repository}"


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """A rule draft as a book judges it. Fields that the draft leaves out are neither judged nor filled."""

    source_repository: str | None
    """In its normal form: ``docker.io/library/nginx`` for ``docker.io/nginx``."""
    login_server: str | None
    sign_in: SignIn | None
    proposed_target: str | None
    """A target that is free."""
    problems: tuple[Refusal, ...]
    """In the order of the fields."""
    remarks: tuple[str, ...]
    """``library/ was put in front: Docker Hub keeps its official images there.``"""


class RuleBook:
    """All cache rules, with the limits that hold between them. An immutable value: each change
    gives a new book."""

    RULES_LIMIT: ClassVar[int] = 1000
    """ACR's limit for one registry."""

    __slots__ = (
        "_beneath",
        "_credential_sets",
        "_names",
        "_registries",
        "_sources",
        "_static",
        "_wildcards",
    )

    def __init__(self, registries: SourceRegistries, credential_sets: CredentialBook) -> None:
        """An empty book."""
        self._registries = registries
        self._credential_sets = credential_sets
        self._names: dict[str, CacheRule] = {}
        """By name, in one case."""
        self._static: dict[str, CacheRule] = {}
        """By the whole target."""
        self._wildcards: dict[str, CacheRule] = {}
        """By the target without its wildcard; ``""`` is ``*``."""
        self._beneath: dict[str, CacheRule] = {}
        """For each path (and ``""``) that contains a wildcard target: such a rule."""
        self._sources: dict[str, SourceRegistry] = {}
        """The source registries of the rules, by login server."""

    @classmethod
    def of(
        cls,
        rules: Iterable[CacheRule],
        registries: SourceRegistries,
        credential_sets: CredentialBook,
    ) -> RuleBook:
        """A book of *rules*; raises `RulesInvalid` with all that is wrong."""
        return cls.read(((each.draft, each.created) for each in rules), registries, credential_sets)

    @classmethod
    def read(
        cls,
        drafts: Iterable[tuple[RuleDraft, datetime]],
        registries: SourceRegistries,
        credential_sets: CredentialBook,
        *,
        known: RuleBook | None = None,
        existing_repositories: Collection[str] = (),
    ) -> RuleBook:
        """A book of drafts with their times of creation, judged as a whole; raises `RulesInvalid`
        with all that is wrong.

        A rule of the book *known* has its target already, and what it cached exists; the targets of
        all others must not be among *existing_repositories*.
        """
        book = cls(registries, credential_sets)
        refusals: list[tuple[int | None, Refusal]] = []
        count = 0
        for position, (draft, created) in enumerate(drafts):
            count += 1
            judged = _Judged(draft, book, complete=True, within_limit=False)
            if known is not None and judged.target is not None and not known._has(judged):
                judged.check_existing(existing_repositories)
            refusals += [(position, refusal) for refusal in judged.refusals]
            if not judged.refusals:
                book._add(judged.rule(created))
        if count > cls.RULES_LIMIT:
            refusals.append((None, _limit_reached(count)))
        if refusals:
            raise RulesInvalid(tuple(refusals))
        return book

    def check(
        self,
        draft: RuleDraft,
        *,
        existing_repositories: Collection[str] = (),
        created: datetime | None = None,
    ) -> CacheRule:
        """The rule that *draft* describes; raises the first `Refusal`."""
        judged = _Judged(draft, self, complete=True)
        judged.check_existing(existing_repositories)
        if judged.refusals:
            raise judged.refusals[0]
        return judged.rule(created or datetime.now(UTC))

    def problems(
        self, draft: RuleDraft, *, existing_repositories: Collection[str] = ()
    ) -> RuleVerdict:
        """Everything that is wrong with a draft of which parts may be missing, a target that would
        be free, and what a person may want to know."""
        judged = _Judged(draft, self, complete=False)
        judged.check_existing(existing_repositories)
        source, registry = judged.source, judged.registry
        return RuleVerdict(
            source_repository=str(source) if source else None,
            login_server=source.login_server if source else None,
            sign_in=registry.sign_in if registry else None,
            proposed_target=self._proposed_target(source, existing_repositories)
            if source
            else None,
            problems=tuple(judged.refusals),
            remarks=tuple(judged.remarks()),
        )

    def check_unchanged(
        self,
        name: str,
        *,
        source_repository: str | None = None,
        target_repository: str | None = None,
    ) -> None:
        """Raise `CacheRuleImmutable` if a change of a rule would move its source or target; None
        leaves one as it is."""
        rule = self.get(name)
        for given, kept, field, what in (
            (
                source_repository
                and str(SourceRepository.parse(source_repository, self._registries)),
                str(rule.source),
                "sourceRepository",
                "source",
            ),
            (
                target_repository and str(Target.parse(target_repository)),
                str(rule.target),
                "targetRepository",
                "target",
            ),
        ):
            if given and given != kept:
                raise CacheRuleImmutable(
                    f"The {what} of rule {rule.name} is {kept} and can't become {given}.",
                    "Only the credential set and the freshness of a rule can change. Delete the rule and create another.",
                    field=field,
                )

    def with_rule(self, rule: CacheRule) -> RuleBook:
        """The book with one more rule; raises a `Refusal` if it can't stand in it."""
        checked = self.check(rule.draft, created=rule.created)
        book = self._copy()
        book._add(checked)
        return book

    def without(self, name: str) -> RuleBook:
        """The book without a rule; raises `CacheRuleNotFound`."""
        gone = self.get(name)
        book = RuleBook(self._registries, self._credential_sets)
        for rule in self._names.values():
            if rule is not gone:
                book._add(rule)
        return book

    def with_credential_set(self, name: str, credential_set: str | None) -> RuleBook:
        """The book with another credential set in a rule, or none; raises `CacheRuleNotFound` or a
        `Refusal` for ``credentialSet``."""
        rule = self.get(name)
        registry = self._registries.find(rule.source.login_server)
        changed = replace(
            rule, credential_set=signing_in(registry, credential_set or None, self._credential_sets)
        )
        book = self._copy()
        book._add(changed)
        return book

    def with_freshness(self, name: str, freshness: str | float | None) -> RuleBook:
        """The book with another freshness in a rule, or that of the settings; raises
        `CacheRuleNotFound` or `FreshnessInvalid`."""
        changed = replace(self.get(name), freshness=parse_optional_freshness(freshness))
        book = self._copy()
        book._add(changed)
        return book

    def with_credential_sets(self, credential_sets: CredentialBook) -> RuleBook:
        """The book on other credential sets; raises `CredentialSetInUse` if one that a rule uses is
        no longer among them."""
        for name in {rule.credential_set for rule in self if rule.credential_set is not None}:
            if credential_sets.find(name) is None:
                users = [rule.name for rule in self.using(name)]
                raise CredentialSetInUse(
                    f"The credential set {name} is in use by {_some(users, 'cache rule', 'cache rules')}.",
                    "Give them another credential set, or delete them first."
                    if len(users) > 1
                    else "Give it another credential set, or delete it first.",
                    field="name",
                )
        book = self._copy()
        book._credential_sets = credential_sets
        return book

    def using(self, credential_set: str) -> tuple[CacheRule, ...]:
        """The rules that use a credential set, by name."""
        key = credential_set.casefold()
        return tuple(
            rule
            for rule in self
            if rule.credential_set is not None and rule.credential_set.casefold() == key
        )

    def get(self, name: str) -> CacheRule:
        """The rule of that name, without regard to case; raises `CacheRuleNotFound`."""
        found = self.find(name)
        if found is None:
            raise CacheRuleNotFound(
                f"There is no cache rule {name}.",
                "Look at the list of cache rules for its name."
                if self._names
                else "There is none yet.",
            )
        return found

    def find(self, name: str) -> CacheRule | None:
        """The rule of that name, without regard to case, or None."""
        return self._names.get(name.casefold())

    def route(self, repository: str) -> Route | None:
        """The rule that answers for a repository of ours, and where it leads; None if none does."""
        rule = self.rule_of(repository)
        if rule is None:
            return None
        if not rule.target.wildcard:
            return self._route(rule, rule.source.path)
        prefix = rule.target.path
        return self._route(
            rule, _joined(rule.source.path, repository[len(prefix) + 1 :] if prefix else repository)
        )

    def rule_of(self, repository: str) -> CacheRule | None:
        """The rule that answers for a repository of ours; None if none does.

        A static rule wins. No two wildcard targets match one repository, so its prefixes are looked
        up one by one: the cost grows with the number of its parts and not with the number of rules.
        """
        rule = self._static.get(repository)
        end = len(repository)
        while rule is None and (end := repository.rfind("/", 0, end)) > 0:
            rule = self._wildcards.get(repository[:end])
        return rule if rule is not None else self._wildcards.get("")

    def __iter__(self) -> Iterator[CacheRule]:
        """By name."""
        return iter(sorted(self._names.values(), key=lambda each: each.name.casefold()))

    def __len__(self) -> int:
        return len(self._names)

    def __eq__(self, other: object) -> bool:
        return self._names == other._names if isinstance(other, RuleBook) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def _route(self, rule: CacheRule, path: str) -> Route:
        registry = self._sources[rule.source.login_server]
        return Route(rule, registry, registry.repository(path))

    def _add(self, rule: CacheRule) -> None:
        """Only for a book that nobody else has seen."""
        self._names[rule.name.casefold()] = rule
        login_server = rule.source.login_server
        if login_server not in self._sources:
            self._sources[login_server] = self._registries.find(login_server)
        path = rule.target.path
        if not rule.target.wildcard:
            self._static[path] = rule
            return
        self._wildcards[path] = rule
        for prefix in _prefixes(path):
            self._beneath[prefix] = rule

    def _copy(self) -> RuleBook:
        book = RuleBook(self._registries, self._credential_sets)
        book._names = dict(self._names)
        book._static = dict(self._static)
        book._wildcards = dict(self._wildcards)
        book._beneath = dict(self._beneath)
        book._sources = dict(self._sources)
        return book

    def _has(self, judged: _Judged) -> bool:
        """Whether this book has that very rule; its credential set may be another."""
        rule = self.find(judged.name) if judged.name else None
        return rule is not None and rule.source == judged.source and rule.target == judged.target

    def _overlap(self, target: Target) -> Refusal | None:
        """Why *target* can't stand beside those that are here."""
        if not target.wildcard:
            rule = self._static.get(target.path)
            if rule is None:
                return None
            return _overlap(
                f"The target {target} is the target of rule {rule.name} already.",
                f"Choose another target, or delete rule {rule.name} first.",
            )
        rule = self._wildcards.get(target.path)
        if rule is not None:
            return _overlap(
                f"The target {target} is the target of rule {rule.name} already.",
                f"Choose another target, or delete rule {rule.name} first.",
            )
        apart = "Two wildcard rules may not overlap. A rule for one repository may stand inside a wildcard."
        for prefix in _prefixes(target.path):
            rule = self._wildcards.get(prefix)
            if rule is not None:
                return _overlap(
                    f"The target {target} lies inside the target {rule.target} of rule {rule.name}.",
                    apart,
                )
        rule = self._beneath.get(target.path)
        if rule is not None:
            return _overlap(
                f"The target {target} contains the target {rule.target} of rule {rule.name}.", apart
            )
        return None

    def _proposed_target(
        self, source: SourceRepository, existing_repositories: Collection[str]
    ) -> str | None:
        """A target that is free: the path as at the source, which lets clients use the cache as a
        mirror, else with the login server in front of it.

        For a whole registry the login server comes first, because ``*`` would leave no room for
        another wildcard.
        """
        host = re.sub(r"[^a-z0-9.]+", "-", source.login_server).strip("-")
        paths = [source.path] if source.path else []
        paths.append(_joined(host, source.path) if source.path else host)
        for path in paths:
            target = Target(path, source.wildcard)
            if (
                len(path) <= REPOSITORY_LENGTH
                and self._overlap(target) is None
                and next(target.covered(existing_repositories), None) is None
            ):
                return str(target)
        return None


class _Judged:
    """A draft, held against a book: its parts as far as they can be read, and what is wrong with
    it, in the order of the fields."""

    def __init__(
        self, draft: RuleDraft, book: RuleBook, *, complete: bool, within_limit: bool = True
    ) -> None:
        self.refusals: list[Refusal] = []
        self.credential_set: str | None = None
        self.freshness: float | None = None
        self._draft = draft
        self._book = book
        self._complete = complete
        self.name = self._read(draft.name, self._free_name)
        if within_limit and len(book) >= RuleBook.RULES_LIMIT:
            self.refusals.append(_limit_reached(len(book)))
        self.source = self._read(
            draft.source_repository, lambda text: SourceRepository.parse(text, book._registries)
        )
        self.registry = book._registries.find(self.source.login_server) if self.source else None
        self.target = self._read(draft.target_repository, Target.parse)
        self._check_target()
        if self.registry is not None and (complete or draft.credential_set is not None):
            try:
                self.credential_set = signing_in(
                    self.registry, draft.credential_set or None, book._credential_sets
                )
            except Refusal as refusal:
                self.refusals.append(refusal)
        try:
            self.freshness = parse_optional_freshness(draft.freshness)
        except Refusal as refusal:
            self.refusals.append(refusal)

    def rule(self, created: datetime) -> CacheRule:
        """What the draft describes, when nothing is wrong with it."""
        assert self.name is not None
        assert self.source is not None
        assert self.target is not None
        return CacheRule(
            self.name,
            self.source,
            self.target,
            self.credential_set,
            to_the_second(created),
            self.freshness,
        )

    def check_existing(self, repositories: Collection[str]) -> None:
        """Refuse a target that exists already as a repository."""
        if self.target is None:
            return
        found = sorted(self.target.covered(repositories))
        if not found:
            return
        hint = "Delete the repository first, or choose another target. What a deleted rule had cached stays as a repository."
        refusal: Refusal
        if self.target.wildcard:
            refusal = TargetPrefixPresent(
                f"There are one or more target repositories in the registry which match the target repository prefix '{self.target}': {_some(found)}.",
                hint.replace("the repository", "the repositories") if len(found) > 1 else hint,
                field="targetRepository",
            )
        else:
            refusal = TargetRepositoryPresent(
                f"Target repository '{self.target}' is already present in registry. Cache rules cannot be created for existing repositories in registry.",
                hint,
                field="targetRepository",
            )
        # What is wrong with the credential set comes after what is wrong with the target.
        position = next(
            (
                index
                for index, each in enumerate(self.refusals)
                if each.field in {"credentialSet", "freshness"}
            ),
            len(self.refusals),
        )
        self.refusals.insert(position, refusal)

    def remarks(self) -> Iterator[str]:
        """What a person may want to know about a draft that is right as far as it goes."""
        if self.source is not None and self.source.login_server == DOCKER_HUB:
            typed = (self._draft.source_repository or "").strip().partition("/")
            if parse_login_server(typed[0]) != typed[0].lower():
                yield f"{typed[0]} is written {DOCKER_HUB}."
            if not self.source.wildcard and typed[2] != self.source.path:
                yield "library/ was put in front: Docker Hub keeps its official images there."
            if self.source.wildcard and not self.source.path:
                yield "library/ is put in front of names of one part: alpine means docker.io/library/alpine."
        if self.target is not None and not self.target.wildcard:
            inside = next(
                (
                    rule
                    for prefix in _prefixes(self.target.path)
                    if (rule := self._book._wildcards.get(prefix))
                ),
                None,
            )
            if inside is not None:
                yield f"It stands inside the target {inside.target} of rule {inside.name}, and wins there for {self.target}."

    def _read(self, text: str | None, read: Callable[[str], Value]) -> Value | None:
        if text is None and not self._complete:
            return None
        try:
            return read(text or "")
        except Refusal as refusal:
            self.refusals.append(refusal)
            return None

    def _free_name(self, text: str) -> str:
        name = parse_name(text, "cache rule")
        taken = self._book.find(name)
        if taken is not None:
            raise CacheRuleNameTaken(
                f"There is a cache rule {taken.name} already.",
                "Choose another name; capitals and small letters count as equal.",
                field="name",
            )
        return name

    def _check_target(self) -> None:
        if self.target is None:
            return
        if self.source is not None and self.source.wildcard != self.target.wildcard:
            with_it, without_it = (
                ("source", "target") if self.source.wildcard else ("target", "source")
            )
            self.refusals.append(
                WildcardOnOneSide(
                    f"The {with_it} has a wildcard and the {without_it} has none.",
                    "End both with /*, or neither.",
                    field="targetRepository",
                )
            )
        overlap = self._book._overlap(self.target)
        if overlap is not None:
            self.refusals.append(overlap)


def signing_in(
    registry: SourceRegistry, name: str | None, credential_sets: CredentialBook
) -> str | None:
    """The credential set that a rule for *registry* may use, as it spells itself; raises a
    `Refusal` for ``credentialSet``."""
    field = "credentialSet"
    if name is None:
        if registry.sign_in is not SignIn.REQUIRED:
            return None
        if registry.login_server == DOCKER_HUB:
            raise DockerCredentialSetRequired(
                "Cannot create cache rule pointing to Docker Hub without credentials.",
                "Please add a credential set to cache rule.",
                field=field,
            )
        raise CredentialSetRequired(
            f"{registry.name} ({registry.login_server}) serves authenticated pulls only.",
            f"Give the rule a credential set for {registry.login_server}.",
            field=field,
        )
    if registry.sign_in is SignIn.NONE:
        raise UpstreamTakesNoCredentials(
            f"{registry.name} ({registry.login_server}) takes no credentials: all its pulls are unauthenticated.",
            "Leave the credential set out.",
            field=field,
        )
    found = credential_sets.find(name)
    if found is None:
        usable = [each.name for each in credential_sets.for_login_server(registry.login_server)]
        hint = (
            f"For {registry.login_server} there is: {_some(usable)}."
            if usable
            else f"Create one for {registry.login_server} first."
        )
        raise CredentialSetUnknown(f"There is no credential set {name}.", hint, field=field)
    if found.login_server != registry.login_server:
        raise CredentialSetLoginServerMismatch(
            f"The credential set {found.name} is for {found.login_server}, and the source is in {registry.login_server}.",
            f"Choose a credential set for {registry.login_server}.",
            field=field,
        )
    return found.name


def _prefixes(path: str) -> Iterator[str]:
    """All that contains *path*, without itself, nearest first, down to ``""``."""
    while path:
        path = path.rpartition("/")[0]
        yield path


def _joined(path: str, rest: str) -> str:
    return f"{path}/{rest}" if path else rest


def _overlap(what: str, hint: str) -> CacheRuleTargetOverlap:
    return CacheRuleTargetOverlap(what, hint, field="targetRepository")


def _limit_reached(count: int) -> CacheRuleLimitReached:
    limit = f"{RuleBook.RULES_LIMIT:,}"
    what = (
        f"There are {limit} cache rules, the most there may be."
        if count <= RuleBook.RULES_LIMIT
        else f"There are {count:,} cache rules, and {limit} are the most there may be."
    )
    return CacheRuleLimitReached(
        what,
        "Delete one that is no longer needed, or let one wildcard rule take the place of several.",
    )


def _some(names: list[str], one: str = "", many: str = "") -> str:
    """``rule a``, or ``rules a, b, c and 4 more``."""
    shown = ", ".join(names[:SHOWN]) + (
        f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    )
    word = one if len(names) == 1 else many
    return f"{word} {shown}" if word else shown
