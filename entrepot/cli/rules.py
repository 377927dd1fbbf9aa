"""``entrepot rule``."""

from __future__ import annotations

import sys
import time
from typing import BinaryIO

import click
from msgspec import UNSET

from entrepot.api.client import CacheClient
from entrepot.api.models import ImportEntry, RuleSnapshot
from entrepot.cli.completion import credential_set_names, images, rule_names, source_repositories
from entrepot.cli.session import (
    REFUSED,
    as_json,
    ask,
    confirm,
    confirm_programs,
    date_and_time,
    dry_run_option,
    name_option,
    note,
    print_fields,
    print_json,
    print_plan,
    print_table,
    run_program_option,
    tell,
    yes_option,
)
from entrepot.core.states import CachedState, ImportOutcome
from entrepot.encoding import NotUtf8, decode_text
from entrepot.formatting import Column, ago, counted, printable


@click.group()
def rule() -> None:
    """Cache rules: which source repository appears here, and where."""


_RULE_COLUMNS = (
    Column("Name"),
    Column("Source"),
    Column("Target"),
    Column("Credential set"),
    Column("Freshness"),
    Column("Pulls", right=True),
    Column("Used", right=True),
)


@rule.command("list")
@as_json
def list_rules(as_json: bool) -> None:
    """List all cache rules."""
    found = ask(lambda client: client.rules.list())
    if as_json:
        print_json(found)
        return
    now = time.time()
    rows = [
        (
            each.name,
            each.source_repository,
            each.target_repository,
            each.credential_set or "-",
            each.freshness_in_force,
            f"{each.pulls:,}",
            ago(each.last_pull, now),
        )
        for each in found
    ]
    print_table(
        _RULE_COLUMNS,
        rows,
        empty="There is no cache rule yet. Make one in the dashboard, or with: entrepot rule create",
    )


_FRESHNESS = "How long its tags are believed before the source is asked again: always (asked each time), never (not again), 30s, 10min, 1h"


_existing = click.option(
    "--name", "-n", required=True, shell_complete=rule_names, help="Name of the cache rule."
)


@rule.command("show")
@_existing
@as_json
def show_rule(name: str, as_json: bool) -> None:
    """Show a cache rule."""
    _print_rule(ask(lambda client: client.rules.get(name)), as_json=as_json)


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
@as_json
def create_rule(
    name: str,
    source_repo: str,
    target_repo: str,
    cred_set: str | None,
    freshness: str | None,
    as_json: bool,
) -> None:
    """Make a cache rule."""

    async def create(client: CacheClient) -> RuleSnapshot:
        await client.rules.create(name, source_repo, target_repo, cred_set, freshness)
        return await client.rules.get(name)

    _print_rule(ask(create), as_json=as_json)


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
@as_json
def update_rule(
    name: str, cred_set: str | None, remove_cred_set: bool, freshness: str | None, as_json: bool
) -> None:
    """Change the credential set or the freshness of a cache rule; nothing else of it can change."""
    if cred_set is not None and remove_cred_set:
        raise click.UsageError("--remove-cred-set can't be used together with --cred-set.")
    if cred_set is None and not remove_cred_set and freshness is None:
        raise click.UsageError(
            "There is nothing to change: give --cred-set, --remove-cred-set or --freshness."
        )

    async def update(client: CacheClient) -> RuleSnapshot:
        await client.rules.update(
            name,
            UNSET if cred_set is None and not remove_cred_set else cred_set,
            freshness=UNSET if freshness is None else freshness,
        )
        return await client.rules.get(name)

    _print_rule(ask(update), as_json=as_json)


@rule.command("delete")
@_existing
@dry_run_option
@yes_option
def delete_rule(name: str, dry_run: bool, yes: bool) -> None:
    """Delete a cache rule. What it cached stays, and stays pullable."""
    if dry_run:
        print_plan(ask(lambda client: client.rules.preview_delete(name)))
        return
    confirm(f"Delete the cache rule {name}? What it cached stays.", yes=yes)
    ask(lambda client: client.rules.delete(name))
    note(f"The cache rule {name} is deleted.")


@rule.command("match")
@click.argument("image", shell_complete=images)
@as_json
def match_rule(image: str, as_json: bool) -> None:
    """Show which cache rule answers for IMAGE, as it is named here or at its source. Exit status 1
    when none does."""
    found = ask(lambda client: client.rules.match(image))
    if as_json:
        print_json(found)
    elif found.rule is None:
        tell(printable(found.why_not or f"No cache rule answers for {image}."))
        for each in found.near:
            tell(
                f"  {printable(f'{each.name}: {each.target_repository} from {each.source_repository}. {each.why}')}"
            )
    else:
        held = {
            CachedState.CACHED: "yes",
            CachedState.PARTLY_CACHED: "in part",
            CachedState.NOT_CACHED: "no",
        }[found.holding]
        print_fields(
            [
                ("Rule", found.rule),
                ("Source", found.source_repository),
                ("Here", found.repository),
                ("Credential set", found.credential_set or "none"),
                ("Held", held),
                ("Pull it as", found.pull),
                ("Also here", ", ".join(found.others)),
            ]
        )
    if found.rule is None:
        sys.exit(REFUSED)


_IMPORT_COLUMNS = (
    Column("Line", right=True),
    Column("What"),
    Column("Name"),
    Column("Source"),
    Column("Target"),
    Column("Becomes"),
)
_SECRET_COLUMNS = (Column("User name"), Column("Password"))
_KINDS = {"rule": "rule", "credentialSet": "credential set"}
_OUTCOMES = {
    ImportOutcome.CREATE: "new",
    ImportOutcome.UNCHANGED: "unchanged",
    ImportOutcome.CONFLICT: "can't be",
}


@rule.command("import")
@click.argument("file", type=click.File("rb"))
@click.option("--dry-run", is_flag=True, help="Only show what would become of each.")
@run_program_option
@as_json
def import_rules(file: BinaryIO, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Make the cache rules and credential sets of FILE (- for standard input), all or none of them.
    It is written as rules.toml is."""
    try:
        text = decode_text(file.read())
    except NotUtf8 as error:
        raise click.UsageError(f"{file.name} {error}: save it as UTF-8.") from None
    planned = ask(lambda client: client.rules.preview_import(text))
    if not dry_run and planned.possible:
        confirm_programs(
            [
                identifier
                for each in planned.runs_programs
                for identifier in (each.username_id, each.password_id)
            ],
            yes=yes,
        )
    done = (
        planned
        if dry_run or not planned.possible
        else ask(lambda client: client.rules.apply_import(text))
    )
    if as_json:
        print_json(done)
    else:
        # Where no credential set is among them, there is nothing to say of secrets.
        signs_in = any(each.kind == "credentialSet" for each in done.entries)
        rows = [
            (*_import_row(each), *(_secrets_of(each) if signs_in else ())) for each in done.entries
        ]
        print_table(
            (*_IMPORT_COLUMNS, *(_SECRET_COLUMNS if signs_in else ())),
            rows,
            empty="There is nothing to import.",
        )
    for each in done.problems:
        note(printable(f"Error: {_at_line(each.line)}{each.message} ({each.code})"))
    for entry in done.entries:
        for problem in entry.problems:
            note(
                printable(
                    f"Error: {_at_line(entry.line)}{entry.name}: {problem.message} ({problem.code})"
                )
            )
    if not done.possible:
        note("Nothing is imported.")
        sys.exit(REFUSED)
    new, same = done.count(ImportOutcome.CREATE), done.count(ImportOutcome.UNCHANGED)
    note(f"{new:,} {'imported' if done.applied else 'would be imported'}, {same:,} unchanged.")


def _import_row(entry: ImportEntry) -> tuple[str, ...]:
    return (
        str(entry.line or "-"),
        _KINDS.get(entry.kind, entry.kind),
        entry.name,
        entry.source_repository or entry.login_server or "-",
        entry.target_repository or "-",
        f"{_OUTCOMES[entry.outcome]}{', runs a program' if entry.runs_program else ''}",
    )


def _secrets_of(entry: ImportEntry) -> tuple[str, str]:
    return entry.username_id or "-", entry.password_id or "-"


def _at_line(line: int | None) -> str:
    return f"line {line}: " if line is not None else ""


def _print_rule(found: RuleSnapshot, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print_fields(
        [
            ("Name", found.name),
            ("Source", found.source_repository),
            ("Target", found.target_repository),
            ("Credential set", found.credential_set or "none"),
            ("Freshness", found.freshness_in_force + ("" if found.freshness else " (the default)")),
            ("Created", date_and_time(found.created)),
            ("Pulls", f"{found.pulls:,}"),
            ("Used", date_and_time(found.last_pull)),
            (
                "Asked for manifests",
                f"{counted(found.requests_made, 'time')}, saved {found.requests_saved:,}",
            ),
        ]
    )
