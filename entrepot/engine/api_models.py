"""The API's models of what core, store and cache return."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from entrepot.api.models import (
    CheckedCredentialSet,
    CheckedRule,
    ImportEntry,
    ImportPlan,
    ImportProblem,
    NearRule,
    Problem,
    PullSnapshot,
    TagImage,
)
from entrepot.cache.pull import PullProgress
from entrepot.core.credentials import CredentialSetVerdict
from entrepot.core.rule_import import CredentialSetEntryResult, ImportResult, RuleEntryResult
from entrepot.core.rule_lookup import NearbyRule
from entrepot.core.rules import RuleVerdict
from entrepot.errors import Refusal
from entrepot.store.records import ImageRecord


def problems_model(refusals: Iterable[Refusal]) -> tuple[Problem, ...]:
    """Refusals as the plain values that a screen draws beside its fields."""
    return tuple(
        Problem(code=refusal.code, message=refusal.message, field=refusal.field)
        for refusal in refusals
    )


def checked_rule_model(verdict: RuleVerdict) -> CheckedRule:
    """The verdict on a rule draft."""
    return CheckedRule(
        source_repository=verdict.source_repository,
        login_server=verdict.login_server,
        sign_in=verdict.sign_in,
        proposed_target=verdict.proposed_target,
        problems=problems_model(verdict.problems),
        remarks=verdict.remarks,
    )


def checked_credential_set_model(
    verdict: CredentialSetVerdict, refused_identifiers: Iterable[Refusal] = ()
) -> CheckedCredentialSet:
    """The verdict on a credential set draft, with what forbids its secret identifiers."""
    return CheckedCredentialSet(problems=problems_model((*verdict.problems, *refused_identifiers)))


def near_rule_model(nearby: NearbyRule) -> NearRule:
    """A rule that nearly answers for an image."""
    return NearRule(
        name=nearby.rule.name,
        source_repository=str(nearby.rule.source),
        target_repository=str(nearby.rule.target),
        why=nearby.why,
    )


def import_plan_model(result: ImportResult, *, applied: bool = False) -> ImportPlan:
    """What an import would do, or did (*applied*)."""
    return ImportPlan(
        entries=tuple(_import_entry_model(entry) for entry in result.entries),
        problems=tuple(
            ImportProblem(
                code=problem.refusal.code, message=problem.refusal.message, line=problem.line
            )
            for problem in result.problems
        ),
        applied=applied,
    )


def _import_entry_model(entry: RuleEntryResult | CredentialSetEntryResult) -> ImportEntry:
    problems = problems_model(entry.problems)
    if isinstance(entry, RuleEntryResult):
        return ImportEntry(
            kind="rule",
            name=entry.name,
            outcome=entry.outcome,
            line=entry.line,
            source_repository=entry.source_repository,
            target_repository=entry.target_repository,
            credential_set=entry.credential_set,
            problems=problems,
        )
    return ImportEntry(
        kind="credentialSet",
        name=entry.name,
        outcome=entry.outcome,
        line=entry.line,
        login_server=entry.login_server,
        username_id=str(entry.username) if entry.username is not None else None,
        password_id=str(entry.password) if entry.password is not None else None,
        runs_program=entry.runs_program,
        problems=problems,
    )


def pull_snapshot(progress: PullProgress) -> PullSnapshot:
    """The API's model of a pull's progress: its fields have the same names."""
    return msgspec.convert(progress, PullSnapshot, from_attributes=True)


def tag_image(image: ImageRecord) -> TagImage:
    """The API's model of a manifest behind a tag: its fields have the same names."""
    return msgspec.convert(image, TagImage, from_attributes=True)
