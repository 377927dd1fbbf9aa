"""Cache rules, the limits between them, and which rule answers for a repository.

Pure: no I/O. A rule maps a source repository onto a target repository. Both are either one
repository (a static rule) or everything below a path (a wildcard rule). The limits are those of
ACR's artifact cache: two wildcard targets may not overlap, two static targets may not be equal, and
a static target may lie inside a wildcard, where it wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import ClassVar, Final

from entrepot.core.book import Book, Candidate, parse_name, to_the_second
from entrepot.core.credentials import CredentialBook, CredentialSetInUse
from entrepot.core.freshness import freshness_text, parse_optional_freshness
from entrepot.core.patterns import ExistingRepositories, SourceRepository, TargetRepository
from entrepot.core.readers import OPEN, ReaderAccess, parse_readers
from entrepot.core.reference import REPOSITORY_LENGTH, Repository
from entrepot.core.registries import (
    DOCKER_HUB,
    CredentialsNotTaken,
    SourceRegistries,
    SourceRegistry,
    parse_login_server,
)
from entrepot.core.states import SignIn
from entrepot.errors import NotFound, Refusal

EXAMPLES_IN_MESSAGE: Final = 3
"""Names that are given as examples in a message."""


class WildcardOnOneSide(Refusal):
    """Only one of source and target has a wildcard."""

    code = "CacheRuleWildcardMismatch"


class CacheRuleNameTaken(Refusal):
    """A cache rule of that name exists, without regard to case."""

    code = "CacheRuleAlreadyExists"
    status = 409


class CacheRuleNotFound(NotFound):
    """No cache rule has that name."""

    code = "CacheRuleNotFound"


class CacheRuleLimitReached(Refusal):
    """The rule book is full."""

    code = "CacheRuleLimitReached"
    status = 409


class CacheRuleTargetOverlap(Refusal):
    """Two wildcard targets overlap, or two static targets are equal."""

    code = "CacheRuleTargetOverlap"
    status = 409


class CacheRuleImmutable(Refusal):
    """Only the credential set, the tag lifetime and the readers of a rule can change."""

    code = "CacheRuleImmutable"
    status = 409


class TargetRepositoryPresent(Refusal):
    """The target of a static rule is an existing repository."""

    code = "TargetRepositoryAlreadyPresentInRegistry"
    status = 409


class TargetPrefixPresent(Refusal):
    """The target of a wildcard rule covers an existing repository."""

    code = "TargetRepositoryPrefixMatchesExistingRegistries"
    status = 409


class CredentialSetRequired(Refusal):
    """The source registry serves authenticated pulls only."""

    code = "EnforceUpstreamAuthentication"


class DockerCredentialSetRequired(CredentialSetRequired):
    """Docker Hub serves authenticated pulls only."""

    code = "EnforceDockerAuthentication"


class CredentialSetUnknown(Refusal):
    """A rule names a credential set that does not exist."""

    code = "CredentialSetNotFound"


class CredentialSetLoginServerMismatch(Refusal):
    """A rule's credential set is for another login server than its source."""

    code = "CredentialSetLoginServerMismatch"


class RulesInvalid(Refusal):
    """Several rules, read together, break a limit.

    ``refusals`` holds what is wrong with which (by position, from 0; None: with all of them).
    """

    code = "CacheRulesInvalid"

    def __init__(self, refusals: tuple[tuple[int | None, Refusal], ...]) -> None:
        super().__init__(" ".join(refusal.message for _, refusal in refusals))
        self.refusals = refusals


@dataclass(frozen=True, slots=True)
class CacheRule:
    """A source repository that appears here under a target repository."""

    name: str
    source: SourceRepository
    target: TargetRepository
    credential_set: str | None
    """Its name, as the credential set itself spells it."""
    created: datetime
    """In UTC, to the second."""
    freshness: float | None = None
    """The tag lifetime, in seconds (`entrepot.core.freshness`); None: that of the settings."""
    access: ReaderAccess = OPEN
    """Who may read what it caches."""

    @property
    def freshness_text(self) -> str | None:
        """The tag lifetime as a person would write it; None: that of the settings."""
        return freshness_text(self.freshness) if self.freshness is not None else None

    @property
    def draft(self) -> RuleDraft:
        """As a person would type it."""
        return RuleDraft(
            self.name,
            str(self.source),
            str(self.target),
            self.credential_set,
            self.freshness_text,
            self.access.readers,
            self.access.anonymous,
        )


@dataclass(frozen=True, slots=True)
class RuleDraft:
    """A cache rule as a person types it.

    None is what was left out: `RuleBook.parse` asks for it, `RuleBook.validate` does not judge it.
    An empty ``credential_set`` asks for none; for `RuleBook.parse` None does so too.
    """

    name: str | None = None
    source_repository: str | None = None
    target_repository: str | None = None
    credential_set: str | None = None
    freshness: str | float | None = None
    """The tag lifetime: ``always``, ``never``, ``10 min`` or seconds; None, an empty text and
    ``default`` leave it to the settings."""
    readers: tuple[str, ...] = ()
    """Names of readers, and of groups with ``@``."""
    anonymous: bool | None = None

    @property
    def access(self) -> ReaderAccess:
        """Who may read; raises `ReaderInvalid`."""
        return ReaderAccess(parse_readers(self.readers), self.anonymous)


@dataclass(frozen=True, slots=True)
class Route:
    """The rule that answers for a target repository, and where it leads."""

    rule: CacheRule
    registry: SourceRegistry
    repository: Repository
    """Its path at the source registry, with ``library/`` where Docker Hub needs it."""

    @property
    def source(self) -> str:
        """The source repository with its login server: ``docker.io/library/nginx``."""
        return f"{self.registry.login_server}/{self.repository}"


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """A rule draft as a book judges it.

    Fields that the draft leaves out are neither judged nor filled.
    """

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


class RuleBook(Book[CacheRule]):
    """All cache rules, with the limits between them.

    An immutable value: each change gives a new book.
    """

    RULES_LIMIT: ClassVar[int] = 1000
    """ACR's limit for one registry."""

    __slots__ = (
        "_credential_sets",
        "_parents",
        "_registries",
        "_source_registries",
        "_static",
        "_wildcards",
    )

    def __init__(self, registries: SourceRegistries, credential_sets: CredentialBook) -> None:
        """An empty book."""
        super().__init__()
        self._registries = registries
        self._credential_sets = credential_sets
        self._static: dict[str, CacheRule] = {}
        """Static rules by their whole target."""
        self._wildcards: dict[str, CacheRule] = {}
        """Wildcard rules by their target without its wildcard; ``""`` is ``*``."""
        self._parents: dict[str, CacheRule] = {}
        """For each path (and ``""``) that contains a wildcard target: a rule with such a target."""
        self._source_registries: dict[str, SourceRegistry] = {}
        """The source registries of the rules, by login server."""

    @classmethod
    def read(
        cls,
        drafts: Iterable[tuple[RuleDraft, datetime]],
        registries: SourceRegistries,
        credential_sets: CredentialBook,
        *,
        current: RuleBook | None = None,
        existing_repositories: ExistingRepositories = (),
    ) -> RuleBook:
        """A book of drafts with their times of creation; raises `RulesInvalid`.

        The target of a rule must not be among *existing_repositories*, unless the book *current*
        has the same rule: then these are what it cached.
        """
        book = cls(registries, credential_sets)
        refusals: list[tuple[int | None, Refusal]] = []
        count = 0
        for position, (draft, created) in enumerate(drafts):
            count += 1
            candidate = RuleCandidate(draft, book, complete=True, within_limit=False)
            if current is not None and not current._has_rule_of(candidate):
                candidate.refuse_existing(existing_repositories)
            refusals += [(position, refusal) for refusal in candidate.refusals]
            if not candidate.refusals:
                book._add(candidate.rule(created))
        if count > cls.RULES_LIMIT:
            refusals.append((None, _limit_reached(count)))
        if refusals:
            raise RulesInvalid(tuple(refusals))
        return book

    def candidate(
        self,
        draft: RuleDraft,
        *,
        existing_repositories: ExistingRepositories = (),
        complete: bool = True,
    ) -> RuleCandidate:
        """Read a draft against this book."""
        candidate = RuleCandidate(draft, self, complete=complete)
        candidate.refuse_existing(existing_repositories)
        return candidate

    def parse(
        self,
        draft: RuleDraft,
        *,
        existing_repositories: ExistingRepositories = (),
        created: datetime | None = None,
    ) -> CacheRule:
        """The rule that *draft* describes; raises the first `Refusal`."""
        candidate = self.candidate(draft, existing_repositories=existing_repositories)
        candidate.require_valid()
        return candidate.rule(created or datetime.now(UTC))

    def validate(
        self, draft: RuleDraft, *, existing_repositories: ExistingRepositories = ()
    ) -> RuleVerdict:
        """Everything that is wrong with a draft of which parts may be missing.

        Also a target that is free, and remarks for the person who types it.
        """
        candidate = self.candidate(
            draft, existing_repositories=existing_repositories, complete=False
        )
        source, registry = candidate.source, candidate.registry
        return RuleVerdict(
            source_repository=str(source) if source else None,
            login_server=source.login_server if source else None,
            sign_in=registry.sign_in if registry else None,
            proposed_target=self._proposed_target(source, existing_repositories)
            if source
            else None,
            problems=tuple(candidate.refusals),
            remarks=tuple(candidate.remarks()),
        )

    def check_immutable(
        self,
        name: str,
        *,
        source_repository: str | None = None,
        target_repository: str | None = None,
    ) -> None:
        """Raise `CacheRuleImmutable` if a change would move a rule's source or target.

        None leaves one as it is.
        """
        rule = self.get(name)
        for new, current, field, side in (
            (
                source_repository
                and str(SourceRepository.parse(source_repository, self._registries)),
                str(rule.source),
                "sourceRepository",
                "source",
            ),
            (
                target_repository and str(TargetRepository.parse(target_repository)),
                str(rule.target),
                "targetRepository",
                "target",
            ),
        ):
            if new and new != current:
                raise CacheRuleImmutable(
                    f"The {side} of rule {rule.name} is {current} and can't become {new}.",
                    "Only the credential set, the tag lifetime (freshness) and the readers of a "
                    "rule can change. Delete the rule and create another.",
                    field=field,
                )

    def with_rule(self, rule: CacheRule) -> RuleBook:
        """The book with one more rule, which `parse` gave.

        Raises a `Refusal` if its name or target is taken, or the book is full.
        """
        self.require_free_name(rule.name)
        if len(self) >= self.RULES_LIMIT:
            raise _limit_reached(len(self))
        if (overlap := self._overlap(rule.target)) is not None:
            raise overlap
        return self._with(rule)

    def without(self, name: str) -> RuleBook:
        """The book without a rule; raises `CacheRuleNotFound`."""
        removed = self.get(name)
        book = RuleBook(self._registries, self._credential_sets)
        for rule in self._items.values():
            if rule is not removed:
                book._add(rule)
        return book

    def with_credential_set(self, name: str, credential_set: str | None) -> RuleBook:
        """The book with another credential set in a rule, or none.

        Raises `CacheRuleNotFound`, or a `Refusal` for ``credentialSet``.
        """
        rule = self.get(name)
        registry = self._registries.find(rule.source.login_server)
        set_name = _credential_set_for(registry, credential_set or None, self._credential_sets)
        return self._with(replace(rule, credential_set=set_name))

    def with_freshness(self, name: str, freshness: str | float | None) -> RuleBook:
        """The book with another tag lifetime in a rule, or that of the settings.

        Raises `CacheRuleNotFound` or `FreshnessInvalid`.
        """
        return self._with(replace(self.get(name), freshness=parse_optional_freshness(freshness)))

    def with_access(self, name: str, access: ReaderAccess) -> RuleBook:
        """The book with other readers of a rule; raises `CacheRuleNotFound`."""
        return self._with(replace(self.get(name), access=access))

    def with_credential_sets(self, credential_sets: CredentialBook) -> RuleBook:
        """The book on other credential sets.

        Raises `CredentialSetInUse` if one that a rule uses is no longer among them.
        """
        for name in {rule.credential_set for rule in self if rule.credential_set is not None}:
            if credential_sets.find(name) is None:
                users = [rule.name for rule in self.using(name)]
                raise CredentialSetInUse(
                    f"The credential set {name} is in use by "
                    f"{_examples(users, 'cache rule', 'cache rules')}.",
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
        rule = self.find(name)
        if rule is None:
            raise CacheRuleNotFound(
                f"There is no cache rule {name}.",
                "Look at the list of cache rules for its name."
                if len(self)
                else "There is none yet.",
            )
        return rule

    def require_free_name(self, name: str) -> None:
        """Raise `CacheRuleNameTaken` if a rule has that name."""
        rule = self.find(name)
        if rule is not None:
            raise CacheRuleNameTaken(
                f"There is a cache rule {rule.name} already.",
                "Choose another name; capitals and small letters count as equal.",
                field="name",
            )

    def route(self, repository: str) -> Route | None:
        """The rule that answers for a target repository, and where it leads.

        None if none does.
        """
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
        """The rule that answers for a target repository; None if none does.

        A static rule wins. No two wildcard targets match one repository, so its prefixes are looked
        up one by one: the cost grows with the number of its parts and not with the number of rules.
        """
        rule = self._static.get(repository)
        end = len(repository)
        while rule is None and (end := repository.rfind("/", 0, end)) > 0:
            rule = self._wildcards.get(repository[:end])
        return rule if rule is not None else self._wildcards.get("")

    def _route(self, rule: CacheRule, path: str) -> Route:
        registry = self._source_registries[rule.source.login_server]
        return Route(rule, registry, registry.repository(path))

    def _add(self, rule: CacheRule) -> None:
        """Add a rule, or change one in place; only for a new book that no one else has."""
        self._items[rule.name.casefold()] = rule
        login_server = rule.source.login_server
        if login_server not in self._source_registries:
            self._source_registries[login_server] = self._registries.find(login_server)
        path = rule.target.path
        if not rule.target.wildcard:
            self._static[path] = rule
            return
        self._wildcards[path] = rule
        for parent in _parents(path):
            self._parents[parent] = rule

    def _with(self, rule: CacheRule) -> RuleBook:
        book = self._copy()
        book._add(rule)
        return book

    def _copy(self) -> RuleBook:
        book = RuleBook(self._registries, self._credential_sets)
        book._items = dict(self._items)
        book._static = dict(self._static)
        book._wildcards = dict(self._wildcards)
        book._parents = dict(self._parents)
        book._source_registries = dict(self._source_registries)
        return book

    def _has_rule_of(self, candidate: RuleCandidate) -> bool:
        """Whether this book has the same rule; its credential set may be another."""
        rule = self.find(candidate.name) if candidate.name else None
        return (
            rule is not None and rule.source == candidate.source and rule.target == candidate.target
        )

    def _overlap(self, target: TargetRepository) -> CacheRuleTargetOverlap | None:
        """Why *target* can't stand beside those of this book."""
        if not target.wildcard:
            rule = self._static.get(target.path)
            return _same_target(target, rule) if rule is not None else None
        rule = self._wildcards.get(target.path)
        if rule is not None:
            return _same_target(target, rule)
        hint = (
            "Two wildcard rules may not overlap. "
            "A rule for one repository may stand inside a wildcard."
        )
        for parent in _parents(target.path):
            rule = self._wildcards.get(parent)
            if rule is not None:
                return _overlap(
                    f"The target {target} lies inside the target {rule.target} of rule "
                    f"{rule.name}.",
                    hint,
                )
        rule = self._parents.get(target.path)
        if rule is not None:
            return _overlap(
                f"The target {target} contains the target {rule.target} of rule {rule.name}.", hint
            )
        return None

    def _proposed_target(
        self, source: SourceRepository, existing_repositories: ExistingRepositories
    ) -> str | None:
        """A target that is free, or None.

        The path as at the source, which lets clients use the cache as a mirror, else with the login
        server in front. For a whole registry the login server comes first, because ``*`` would
        leave no room for another wildcard.
        """
        host = re.sub(r"[^a-z0-9.]+", "-", source.login_server).strip("-")
        paths = [source.path] if source.path else []
        paths.append(_joined(host, source.path) if source.path else host)
        for path in paths:
            target = TargetRepository(path, source.wildcard)
            if (
                len(path) <= REPOSITORY_LENGTH
                and self._overlap(target) is None
                and not target.find_covered(existing_repositories, 1)[1]
            ):
                return str(target)
        return None


class RuleCandidate(Candidate):
    """A rule draft, read against a book. Each part is None where it is refused."""

    def __init__(
        self, draft: RuleDraft, book: RuleBook, *, complete: bool, within_limit: bool = True
    ) -> None:
        super().__init__(complete=complete)
        self.credential_set: str | None = None
        self.freshness: float | None = None
        self.access = OPEN
        self._draft = draft
        self._book = book
        self.name = self._read(draft.name, self._free_name)
        if within_limit and len(book) >= RuleBook.RULES_LIMIT:
            self.refusals.append(_limit_reached(len(book)))
        self.source = self._read(
            draft.source_repository, lambda text: SourceRepository.parse(text, book._registries)
        )
        self.registry = book._registries.find(self.source.login_server) if self.source else None
        self.target = self._read(draft.target_repository, TargetRepository.parse)
        if self.target is not None:
            self._check_target(self.target)
        self._target_refusals = len(self.refusals)
        if self.registry is not None and (complete or draft.credential_set is not None):
            try:
                self.credential_set = _credential_set_for(
                    self.registry, draft.credential_set or None, book._credential_sets
                )
            except Refusal as refusal:
                self.refusals.append(refusal)
        try:
            self.freshness = parse_optional_freshness(draft.freshness)
        except Refusal as refusal:
            self.refusals.append(refusal)
        try:
            self.access = draft.access
        except Refusal as refusal:
            self.refusals.append(refusal)

    def rule(self, created: datetime) -> CacheRule:
        """The rule of a draft without refusals."""
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
            self.access,
        )

    def describes(self, rule: CacheRule) -> bool:
        """Whether the draft has all of a rule but its name and its time of creation."""
        return (
            len(self.refusals) == self._target_refusals
            and self.source == rule.source
            and self.target == rule.target
            and self.credential_set == rule.credential_set
            and self.freshness == rule.freshness
            and self.access == rule.access
        )

    def refuse_existing(self, repositories: ExistingRepositories) -> None:
        """Refuse a target that covers one of *repositories*, which exist already."""
        if self.target is None:
            return
        covered, count = self.target.find_covered(repositories, EXAMPLES_IN_MESSAGE)
        if not count:
            return
        hint = (
            f"Delete the {'repositories' if count > 1 else 'repository'} first, or choose "
            "another target. What a deleted rule had cached stays as a repository."
        )
        refusal: Refusal
        if self.target.wildcard:
            refusal = TargetPrefixPresent(
                "There are one or more target repositories in the registry which match the target "
                f"repository prefix '{self.target}': {_examples(covered, count=count)}.",
                hint,
                field="targetRepository",
            )
        else:
            refusal = TargetRepositoryPresent(
                f"Target repository '{self.target}' is already present in registry. "
                "Cache rules cannot be created for existing repositories in registry.",
                hint,
                field="targetRepository",
            )
        self.refusals.insert(self._target_refusals, refusal)
        self._target_refusals += 1

    def remarks(self) -> Iterator[str]:
        """What a person may want to know about a draft that is right as far as it goes."""
        if self.source is not None and self.source.login_server == DOCKER_HUB:
            login_server, _, path = (self._draft.source_repository or "").strip().partition("/")
            if parse_login_server(login_server) != login_server.lower():
                yield f"{login_server} is written {DOCKER_HUB}."
            if not self.source.wildcard and path != self.source.path:
                yield "library/ was put in front: Docker Hub keeps its official images there."
            if self.source.wildcard and not self.source.path:
                yield (
                    "library/ is put in front of names of one part: alpine means "
                    "docker.io/library/alpine."
                )
        if self.target is not None and not self.target.wildcard:
            wildcards = self._book._wildcards
            around = next(
                (wildcards[parent] for parent in _parents(self.target.path) if parent in wildcards),
                None,
            )
            if around is not None:
                yield (
                    f"It stands inside the target {around.target} of rule {around.name}, and wins "
                    f"there for {self.target}."
                )

    def _free_name(self, text: str) -> str:
        name = parse_name(text, "cache rule")
        self._book.require_free_name(name)
        return name

    def _check_target(self, target: TargetRepository) -> None:
        if self.source is not None and self.source.wildcard != target.wildcard:
            with_wildcard, without_wildcard = (
                ("source", "target") if self.source.wildcard else ("target", "source")
            )
            self.refusals.append(
                WildcardOnOneSide(
                    f"The {with_wildcard} has a wildcard and the {without_wildcard} has none.",
                    "End both with /*, or neither.",
                    field="targetRepository",
                )
            )
        overlap = self._book._overlap(target)
        if overlap is not None:
            self.refusals.append(overlap)


def _credential_set_for(
    registry: SourceRegistry, name: str | None, credential_sets: CredentialBook
) -> str | None:
    """The credential set that a rule for *registry* may use, as it spells itself.

    Raises a `Refusal` for ``credentialSet``.
    """
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
        raise CredentialsNotTaken(
            f"{registry.name} ({registry.login_server}) takes no credentials: all its pulls are "
            "unauthenticated.",
            "Leave the credential set out.",
            field=field,
        )
    credential_set = credential_sets.find(name)
    if credential_set is None:
        usable = [
            usable_set.name
            for usable_set in credential_sets.for_login_server(registry.login_server)
        ]
        hint = (
            f"For {registry.login_server} there is: {_examples(usable)}."
            if usable
            else f"Create one for {registry.login_server} first."
        )
        raise CredentialSetUnknown(f"There is no credential set {name}.", hint, field=field)
    if credential_set.login_server != registry.login_server:
        raise CredentialSetLoginServerMismatch(
            f"The credential set {credential_set.name} is for {credential_set.login_server}, and "
            f"the source is in {registry.login_server}.",
            f"Choose a credential set for {registry.login_server}.",
            field=field,
        )
    return credential_set.name


def _parents(path: str) -> Iterator[str]:
    """All that contains *path*, without itself, nearest first, down to ``""``."""
    while path:
        path = path.rpartition("/")[0]
        yield path


def _joined(path: str, rest: str) -> str:
    return f"{path}/{rest}" if path else rest


def _same_target(target: TargetRepository, rule: CacheRule) -> CacheRuleTargetOverlap:
    return _overlap(
        f"The target {target} is the target of rule {rule.name} already.",
        f"Choose another target, or delete rule {rule.name} first.",
    )


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


def _examples(
    names: Sequence[str], one: str = "", many: str = "", *, count: int | None = None
) -> str:
    """``rule a``, or ``rules a, b, c and 4 more``.

    *count* is the number of all, where *names* are only the first of them.
    """
    more = (len(names) if count is None else count) - EXAMPLES_IN_MESSAGE
    listed = ", ".join(names[:EXAMPLES_IN_MESSAGE]) + (f" and {more:,} more" if more > 0 else "")
    noun = one if len(names) == 1 else many
    return f"{noun} {listed}" if noun else listed
