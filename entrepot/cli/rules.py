"""``entrepot rule``."""

from __future__ import annotations

import sys
import time
from typing import BinaryIO

import click
from msgspec import UNSET, UnsetType

from entrepot.api.client import CacheClient
from entrepot.api.labels import IMPORT_LABELS, match_state, tag_lifetime
from entrepot.api.models import ImportEntry, ImportPlan, RuleMatch, RuleSnapshot
from entrepot.cli.completion import (
    credential_set_names,
    images,
    reader_names,
    rule_names,
    source_repositories,
)
from entrepot.cli.confirmations import confirm, confirm_programs
from entrepot.cli.options import (
    as_json,
    dry_run_option,
    name_option,
    run_program_option,
    yes_option,
)
from entrepot.cli.output import (
    REFUSED,
    date_and_time,
    note,
    print_fields,
    print_json,
    print_plan,
    print_table,
    print_text,
)
from entrepot.cli.session import call_engine
from entrepot.core.states import ImportOutcome
from entrepot.encoding import NotUtf8, decode_text
from entrepot.formatting import TableColumn, ago, counted, printable


@click.group()
def rule() -> None:
    """Cache rules: which source repository appears here, and where."""


_RULE_COLUMNS = (
    TableColumn("Name"),
    TableColumn("Source"),
    TableColumn("Target"),
    TableColumn("Credential set"),
    TableColumn("Tag lifetime"),
)
_USE_COLUMNS = (TableColumn("Pulls", right=True), TableColumn("Last pull", right=True))


@rule.command("list")
@as_json
def list_rules(as_json: bool) -> None:
    """List all cache rules."""
    rules = call_engine(lambda client: client.rules.list())
    if as_json:
        print_json(rules)
        return
    now = time.time()
    # Where everyone may read everything, there are no readers to list.
    has_readers = any(rule.readable_by != "everyone" for rule in rules)
    rows = [
        (
            rule.name,
            rule.source_repository,
            rule.target_repository,
            rule.credential_set or "-",
            rule.freshness_in_force,
            *([rule.readable_by] if has_readers else []),
            f"{rule.pulls:,}",
            ago(rule.last_pull, now),
        )
        for rule in rules
    ]
    print_table(
        (*_RULE_COLUMNS, *([TableColumn("Readers")] if has_readers else []), *_USE_COLUMNS),
        rows,
        empty="There is no cache rule yet. Create one in the dashboard, "
        "or with: entrepot rule create",
    )


_FRESHNESS = (
    "Tag lifetime: how long a tag's digest is trusted before the source is asked again. "
    "always (ask each time), never (do not ask again), 30s, 10min, 1h"
)


_readers = click.option(
    "--reader",
    "readers",
    metavar="NAME",
    multiple=True,
    shell_complete=reader_names,
    help="Who may read what the rule caches: a reader, or @GROUP; may be given several times "
    "[default: all who sign in].",
)
_anonymous = click.option(
    "--anonymous/--no-anonymous",
    default=None,
    help="Whether everyone may read, also without signing in [default: as settings.toml says for "
    "a rule without readers].",
)


_existing = click.option(
    "--name", "-n", required=True, shell_complete=rule_names, help="Name of the cache rule."
)


@rule.command("show")
@_existing
@as_json
def show_rule(name: str, as_json: bool) -> None:
    """Show a cache rule."""
    _print_rule(call_engine(lambda client: client.rules.get(name)), as_json=as_json)


@rule.command("create")
@name_option
@click.option(
    "--source-repo",
    "-s",
    required=True,
    shell_complete=source_repositories,
    help="Login server and repository: docker.io/library/nginx, or docker.io/library/*",
)
@click.option(
    "--target-repo", "-t", required=True, help="Where it appears here: library/nginx, or library/*"
)
@click.option(
    "--cred-set",
    "-c",
    shell_complete=credential_set_names,
    help="Name of a credential set for the source registry.",
)
@click.option("--freshness", metavar="TIME", help=f"{_FRESHNESS} [default: that of settings.toml].")
@_readers
@_anonymous
@as_json
def create_rule(
    name: str,
    source_repo: str,
    target_repo: str,
    cred_set: str | None,
    freshness: str | None,
    readers: tuple[str, ...],
    anonymous: bool | None,
    as_json: bool,
) -> None:
    """Create a cache rule."""

    async def create(client: CacheClient) -> RuleSnapshot:
        await client.rules.create(
            name,
            source_repo,
            target_repo,
            cred_set,
            freshness,
            readers=readers,
            anonymous=anonymous,
        )
        await _warn_of_unknown(client, readers)
        return await client.rules.get(name)

    _print_rule(call_engine(create), as_json=as_json)


@rule.command("update")
@_existing
@click.option(
    "--cred-set",
    "-c",
    shell_complete=credential_set_names,
    help="Name of another credential set for the source registry.",
)
@click.option("--remove-cred-set", is_flag=True, help="Use no credential set any more.")
@click.option(
    "--freshness", metavar="TIME", help=f"{_FRESHNESS}; default for that of settings.toml."
)
@_readers
@click.option(
    "--remove-readers",
    is_flag=True,
    help="Say nothing about readers any more: neither names nor --anonymous.",
)
@_anonymous
@as_json
def update_rule(
    name: str,
    cred_set: str | None,
    remove_cred_set: bool,
    freshness: str | None,
    readers: tuple[str, ...],
    remove_readers: bool,
    anonymous: bool | None,
    as_json: bool,
) -> None:
    """Change the credential set, the tag lifetime or the readers of a cache rule; nothing else can
    change. The readers that are given replace those that the rule had."""
    if cred_set is not None and remove_cred_set:
        raise click.UsageError("--remove-cred-set can't be used together with --cred-set.")
    if readers and remove_readers:
        raise click.UsageError("--remove-readers can't be used together with --reader.")
    changes = (cred_set, remove_cred_set or None, freshness, readers or None)
    if all(each is None for each in (*changes, remove_readers or None, anonymous)):
        raise click.UsageError(
            "There is nothing to change: give --cred-set, --remove-cred-set, --freshness, "
            "--reader, --remove-readers, --anonymous or --no-anonymous."
        )

    async def update(client: CacheClient) -> RuleSnapshot:
        await client.rules.update(
            name,
            UNSET if cred_set is None and not remove_cred_set else cred_set,
            freshness=UNSET if freshness is None else freshness,
            readers=readers if readers or remove_readers else UNSET,
            anonymous=None if remove_readers and anonymous is None else _given(anonymous),
        )
        await _warn_of_unknown(client, readers)
        return await client.rules.get(name)

    _print_rule(call_engine(update), as_json=as_json)


async def _warn_of_unknown(client: CacheClient, readers: tuple[str, ...]) -> None:
    """Say which names of a rule no reader can sign in as: they may be misspelt."""
    if not readers:
        return
    known: set[str] = set()
    for reader in (await client.readers.list()).readers:
        if reader.password or reader.token:
            known |= {reader.name, *(f"@{group}" for group in reader.groups)}
    unknown = [name for name in readers if name.strip() not in known]
    if unknown:
        note(
            f"Warning: no reader can sign in as {', '.join(unknown)}. Add the name to the password "
            "file or to a group, or create a token. See: entrepot reader list"
        )


def _given(anonymous: bool | None) -> bool | UnsetType:
    return UNSET if anonymous is None else anonymous


@rule.command("delete")
@_existing
@dry_run_option
@yes_option
def delete_rule(name: str, dry_run: bool, yes: bool) -> None:
    """Delete a cache rule. What it cached stays, and can still be pulled."""
    if dry_run:
        print_plan(call_engine(lambda client: client.rules.preview_delete(name)))
        return
    confirm(f"Delete the cache rule {name}? What it cached stays.", yes=yes)
    call_engine(lambda client: client.rules.delete(name))
    note(f"The cache rule {name} is deleted.")


@rule.command("match")
@click.argument("image", shell_complete=images)
@as_json
def match_rule(image: str, as_json: bool) -> None:
    """Show which cache rule answers for IMAGE, as it is named here or at its source. Exit status 1
    when none does."""
    match = call_engine(lambda client: client.rules.match(image))
    if as_json:
        print_json(match)
    else:
        _print_match(match, image)
    if match.rule is None:
        sys.exit(REFUSED)


def _print_match(match: RuleMatch, image: str) -> None:
    if match.rule is None:
        print_text(printable(match.why_not or f"No cache rule answers for {image}."))
        for near_rule in match.near:
            description = (
                f"{near_rule.name}: {near_rule.target_repository} "
                f"from {near_rule.source_repository}. {near_rule.why}"
            )
            print_text(f"  {printable(description)}")
        return
    print_fields(
        [
            ("Rule", match.rule),
            ("Source", match.source_repository),
            ("Here", match.repository),
            ("Credential set", match.credential_set or "none"),
            ("State", match_state(match)),
            ("Pull it as", match.pull),
            ("Also here", ", ".join(match.others)),
        ]
    )


_IMPORT_COLUMNS = (
    TableColumn("Line", right=True),
    TableColumn("Kind"),
    TableColumn("Name"),
    TableColumn("Source"),
    TableColumn("Target"),
    TableColumn("Outcome"),
)
_SECRET_COLUMNS = (TableColumn("User name"), TableColumn("Password"))
_KINDS = {"rule": "rule", "credentialSet": "credential set"}


@rule.command("import")
@click.argument("file", type=click.File("rb"))
@click.option("--dry-run", is_flag=True, help="Only show what would become of each entry.")
@run_program_option
@as_json
def import_rules(file: BinaryIO, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Create the cache rules and credential sets of FILE (- for standard input), all or none of
    them. The file is written as rules.toml is."""
    try:
        text = decode_text(file.read())
    except NotUtf8 as error:
        raise click.UsageError(f"{file.name} {error}: save it as UTF-8.") from None
    plan = call_engine(lambda client: client.rules.preview_import(text))
    if not dry_run and plan.possible:
        confirm_programs(
            [
                identifier
                for entry in plan.runs_programs
                for identifier in (entry.username_id, entry.password_id)
            ],
            yes=yes,
        )
        plan = call_engine(lambda client: client.rules.apply_import(text))
    if as_json:
        print_json(plan)
    else:
        _print_import(plan)
    for text_problem in plan.problems:
        message = f"{_at_line(text_problem.line)}{text_problem.message} ({text_problem.code})"
        note(printable(f"Error: {message}"))
    for entry in plan.entries:
        for problem in entry.problems:
            message = f"{_at_line(entry.line)}{entry.name}: {problem.message} ({problem.code})"
            note(printable(f"Error: {message}"))
    if not plan.possible:
        note("Nothing is imported.")
        sys.exit(REFUSED)
    created, unchanged = plan.count(ImportOutcome.CREATE), plan.count(ImportOutcome.UNCHANGED)
    is_done = "imported" if plan.applied else "would be imported"
    note(f"{created:,} {is_done}, {unchanged:,} unchanged.")


def _print_import(plan: ImportPlan) -> None:
    # Without a credential set there are no secrets to list.
    has_secrets = any(entry.kind == "credentialSet" for entry in plan.entries)
    rows = [
        (*_import_row(entry), *(_secret_cells(entry) if has_secrets else ()))
        for entry in plan.entries
    ]
    print_table(
        (*_IMPORT_COLUMNS, *(_SECRET_COLUMNS if has_secrets else ())),
        rows,
        empty="There is nothing to import.",
    )


def _import_row(entry: ImportEntry) -> tuple[str, ...]:
    return (
        str(entry.line or "-"),
        _KINDS.get(entry.kind, entry.kind),
        entry.name,
        entry.source_repository or entry.login_server or "-",
        entry.target_repository or "-",
        f"{IMPORT_LABELS[entry.outcome]}{', runs a program' if entry.runs_program else ''}",
    )


def _secret_cells(entry: ImportEntry) -> tuple[str, str]:
    return entry.username_id or "-", entry.password_id or "-"


def _at_line(line: int | None) -> str:
    return f"line {line}: " if line is not None else ""


def _print_rule(rule: RuleSnapshot, *, as_json: bool) -> None:
    if as_json:
        print_json(rule)
        return
    print_fields(
        [
            ("Name", rule.name),
            ("Source", rule.source_repository),
            ("Target", rule.target_repository),
            ("Credential set", rule.credential_set or "none"),
            ("Tag lifetime", tag_lifetime(rule)),
            ("Readers", rule.readable_by),
            ("Created", date_and_time(rule.created)),
            ("Pulls", f"{rule.pulls:,}"),
            ("Last pull", date_and_time(rule.last_pull)),
            (
                "Manifest requests",
                f"{counted(rule.requests_made, 'request')} to the source, "
                f"{rule.requests_saved:,} saved",
            ),
        ]
    )
