"""The commands of ``entrepot``, and the one without a name that opens the dashboard."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import BinaryIO

import click
from msgspec import UNSET

from entrepot import __version__
from entrepot.cli.connection import TOKEN_VARIABLE, Connection
from entrepot.cli.session import REFUSED, as_json, ask, broken_pipe, confirm, fail, print_fields, print_json, print_table, tell
from entrepot.client import NO_ENGINE, CacheClient, EngineUnreachable
from entrepot.directories import Directories
from entrepot.errors import EntrepotError
from entrepot.snapshots import (
    ActivityCounts,
    CredentialSetSnapshot,
    DeletionPlan,
    EvictionSnapshot,
    HealthStatus,
    Holding,
    ImageBlob,
    ImportOutcome,
    Outcome,
    PullSnapshot,
    PullState,
    RefreshedTag,
    RepositoryDetail,
    RuleSnapshot,
    TagDetail,
    TagImage,
    TagSnapshot,
)
from entrepot.words import Column, ago, bar, counted, duration, parse_size, since, size

PLAIN_PROGRESS = 2.0
"""Seconds between two lines of progress where there is no terminal to draw a bar in."""

BAR = 24
"""Cells of the bar of a pull where there is room for all of it."""

SHORTEST_BAR = 6
"""With fewer cells a bar says nothing that the per cent beside it does not say."""


_LOCAL = frozenset({"demo", "serve", "paths", "management-token", "dial"})
"""Commands that speak to no engine, or to that of this machine only."""


_LOOKS = "entrepot.dashboard"
"""Where the options of the dashboard are in click's context."""


class _Commands(click.Group):
    """Commands in the order in which a newcomer needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--connect",
    metavar="URL",
    envvar="ENTREPOT_CONNECT",
    help="The engine of another machine: ssh://[USER@]HOST[:PORT], or https://HOST:PORT where it offers its management. [env: ENTREPOT_CONNECT]",
)
@click.option("--read-only", is_flag=True, help="Change nothing: the engine refuses all changes that this command or dashboard asks for.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"The token for https://, in a file that only you may use [default: in the environment variable {TOKEN_VARIABLE}].",
)
@click.option("--ca-file", type=click.Path(path_type=Path), metavar="FILE", help="Certificate authorities for https:// besides the system's, in PEM format.")
@click.version_option(__version__, prog_name="entrepot")
@click.option("--theme", metavar="NAME", help="Colours of the dashboard, such as entrepot-light or ansi-dark.")
@click.option("--ascii", is_flag=True, help="Draw the dashboard with ASCII characters only.")
@click.option("--no-mouse", is_flag=True, help="Leave the mouse to the terminal.")
@click.pass_context
def cli(
    context: click.Context,
    connect: str | None,
    read_only: bool,
    token_file: Path | None,
    ca_file: Path | None,
    theme: str | None,
    ascii: bool,
    no_mouse: bool,
) -> None:
    """A self-hosted artifact cache for container registries.

    Without a command it opens the dashboard, and starts an engine if none is running.
    """
    context.obj = Connection(connect or None, read_only, token_file, ca_file)
    looks = {"theme": theme, "ascii": ascii or None, "mouse": False if no_mouse else None}
    context.meta[_LOOKS] = chosen = {name: value for name, value in looks.items() if value is not None}
    if context.invoked_subcommand is None:
        from entrepot.cli.dashboard import open_dashboard

        open_dashboard(context.obj, chosen)
    elif context.invoked_subcommand in _LOCAL and connect and context.get_parameter_source("connect") is not click.core.ParameterSource.ENVIRONMENT:
        raise click.UsageError(f"entrepot {context.invoked_subcommand} is about this machine, and can't be used with --connect.")
    elif chosen and context.invoked_subcommand != "demo":
        raise click.UsageError("--theme, --ascii and --no-mouse are for the dashboard, and no command takes them but demo.")


@cli.command()
@click.option("--headless", is_flag=True, help="Without the dashboard: print how to pull, and run until ctrl+c.")
@click.pass_context
def demo(context: click.Context, headless: bool) -> None:
    """Show Entrepot with a make-believe source registry, in a temporary directory. It needs no internet."""
    from entrepot.cli.dashboard import open_demo

    open_demo(context.meta[_LOOKS], read_only=context.obj.read_only, headless=headless)


@cli.command()
@click.option("--listen", metavar="HOST:PORT", help="Where container clients find the registry [default: from settings.toml, else 127.0.0.1:5000].")
@click.option("--read-only", is_flag=True, help="Refuse all changes through the management API, whoever asks. Container clients pull as ever.")
@click.option("--log-format", type=click.Choice(["plain", "json"]), default="plain", show_default=True, help="Lines for people or for programs.")
@click.pass_obj
def serve(connection: Connection, listen: str | None, read_only: bool, log_format: str) -> None:
    """Run the engine in the foreground, until SIGTERM or ctrl+c."""
    import asyncio

    from entrepot.server.run import serve as run
    from entrepot.settings import Settings, parse_listen

    try:
        directories = Directories.of_user()
        settings = Settings.load(directories.settings)
        if listen is not None:
            parse_listen(listen)
        asyncio.run(run(directories, settings, listen=listen, read_only=read_only or connection.read_only, log_format=log_format))
    except EntrepotError as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit(130)


@cli.command()
@as_json
def status(as_json: bool) -> None:
    """Show the engine in one look."""
    found = ask(CacheClient.status)
    if as_json:
        print_json(found)
        return
    print_fields(
        [
            (
                "Engine",
                f"entrepot {found.version}, up {duration(time.time() - found.started)}"
                + (" (demo)" if found.demo else "")
                + (", read-only" if found.read_only else ""),
            ),
            ("Registry", found.address),
            ("Cache rules", f"{found.rules:,} of {found.rules_limit:,}"),
            ("Credential sets", f"{found.credential_sets:,}"),
            ("Repositories", f"{found.repositories:,}"),
            ("Held", f"{size(found.blobs_size)} of {size(found.space_limit)}, {size(found.space_free)} free on the file system"),
            ("Pulling", f"{found.pulls_running:,} at {size(found.speed)}/s"),
            ("Since the start", f"{size(found.served)} served, {size(found.from_source)} from sources"),
            ("Last 24 hours", _last_day(found.last_day)),
        ]
    )
    for notice in found.notices:
        click.echo(f"! {notice}", err=True)


def _last_day(counts: ActivityCounts) -> str:
    share = counts.hit_share
    if share is None:
        return "nothing was pulled"
    answers, saved = counted(counts.hits + counts.misses, "answer"), counted(counts.requests_saved, "request")
    return f"{share:.0%} of {answers} from the cache, {size(counts.served)} served, {size(counts.from_source)} from sources, {saved} to them saved"


@cli.group()
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
    found = ask(CacheClient.rules)
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
    print_table(_RULE_COLUMNS, rows, empty="There is no cache rule yet. Make one in the dashboard, or with: entrepot rule create")


_FRESHNESS = "How long its tags are believed before the source is asked again: always (asked each time), never (not again), 30s, 10min, 1h"
_name = click.option("--name", "-n", required=True, help="5 to 50 letters, digits and dashes.")


@rule.command("show")
@_name
@as_json
def show_rule(name: str, as_json: bool) -> None:
    """Show a cache rule."""
    _print_rule(ask(lambda client: client.rule(name)), as_json=as_json)


@rule.command("create")
@_name
@click.option("--source-repo", "-s", required=True, help="Login server and repository: docker.io/library/nginx, or docker.io/library/*")
@click.option("--target-repo", "-t", required=True, help="Where it appears here: library/nginx, or library/*")
@click.option("--cred-set", "-c", help="Name of a credential set for the source registry.")
@click.option("--freshness", metavar="TIME", help=f"{_FRESHNESS} [default: that of settings.toml].")
@as_json
def create_rule(name: str, source_repo: str, target_repo: str, cred_set: str | None, freshness: str | None, as_json: bool) -> None:
    """Make a cache rule."""

    async def create(client: CacheClient) -> RuleSnapshot:
        await client.create_rule(name, source_repo, target_repo, cred_set, freshness)
        return await client.rule(name)

    _print_rule(ask(create), as_json=as_json)


@rule.command("update")
@_name
@click.option("--cred-set", "-c", help="Name of another credential set for the source registry.")
@click.option("--remove-cred-set", is_flag=True, help="Use no credential set any more.")
@click.option("--freshness", metavar="TIME", help=f"{_FRESHNESS}; default for that of settings.toml.")
@as_json
def update_rule(name: str, cred_set: str | None, remove_cred_set: bool, freshness: str | None, as_json: bool) -> None:
    """Change the credential set or the freshness of a cache rule; nothing else of it can change."""
    if cred_set is not None and remove_cred_set:
        raise click.UsageError("--remove-cred-set can't be used together with --cred-set.")
    if cred_set is None and not remove_cred_set and freshness is None:
        raise click.UsageError("There is nothing to change: give --cred-set, --remove-cred-set or --freshness.")

    async def update(client: CacheClient) -> RuleSnapshot:
        await client.update_rule(name, UNSET if cred_set is None and not remove_cred_set else cred_set, freshness=UNSET if freshness is None else freshness)
        return await client.rule(name)

    _print_rule(ask(update), as_json=as_json)


_dry_run = click.option("--dry-run", is_flag=True, help="Only show what goes and what stays. Exit status 1 when it can't be deleted.")
_yes = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def _print_plan(plan: DeletionPlan) -> None:
    stay = ", ".join(plan.repositories[:3]) + (f" and {plan.repository_count - 3:,} more" if plan.repository_count > 3 else "")
    goes = f"{counted(plan.tag_count, 'tag')}, {counted(plan.manifest_count, 'manifest')}, {size(plan.freed)}"
    print_fields(
        [
            ("Would be deleted", plan.name),
            ("Goes", goes if plan.kind in {"repository", "tag"} else None),
            ("Stays", f"{size(plan.shared)} that others need too" if plan.shared else None),
            ("Left without a tag", size(plan.untagged) if plan.untagged else None),
            ("Pulls that end", plan.pulls or None),
            ("Fetched again by", plan.fetched_again_by),
            ("Left without a rule", stay),
            ("Used by", ", ".join(plan.used_by)),
            ("Refused", plan.refused),
        ]
    )
    if not plan.possible:
        sys.exit(REFUSED)


@rule.command("delete")
@_name
@_dry_run
@_yes
def delete_rule(name: str, dry_run: bool, yes: bool) -> None:
    """Delete a cache rule. What it cached stays, and stays pullable."""
    if dry_run:
        _print_plan(ask(lambda client: client.plan_delete_rule(name)))
        return
    confirm(f"Delete the cache rule {name}? What it cached stays.", yes=yes)
    ask(lambda client: client.delete_rule(name))
    click.echo(f"The cache rule {name} is deleted.", err=True)


@rule.command("match")
@click.argument("image")
@as_json
def match_rule(image: str, as_json: bool) -> None:
    """Show which cache rule answers for IMAGE, as it is named here or at its source. Exit status 1 when none does."""
    found = ask(lambda client: client.match(image))
    if as_json:
        print_json(found)
    elif found.rule is None:
        tell(found.why_not or f"No cache rule answers for {image}.")
        for each in found.near:
            tell(f"  {each.name}: {each.target_repository} from {each.source_repository}. {each.why}")
    else:
        held = {Holding.WHOLE: "yes", Holding.PART: "in part", Holding.NOTHING: "no"}[found.holding]
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


_IMPORT_COLUMNS = (Column("Line", right=True), Column("What"), Column("Name"), Column("Source"), Column("Target"), Column("Becomes"))
_KINDS = {"rule": "rule", "credentialSet": "credential set"}
_OUTCOMES = {ImportOutcome.CREATE: "new", ImportOutcome.UNCHANGED: "unchanged", ImportOutcome.CONFLICT: "can't be"}


@rule.command("import")
@click.argument("file", type=click.File("rb"))
@click.option("--dry-run", is_flag=True, help="Only show what would become of each.")
@as_json
def import_rules(file: BinaryIO, dry_run: bool, as_json: bool) -> None:
    """Make the cache rules and credential sets of FILE (- for standard input), all or none of them. It is written as rules.toml is."""
    try:
        text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise click.UsageError(f"{file.name} is not UTF-8 text.") from None
    planned = ask(lambda client: client.plan_import(text))
    done = planned if dry_run or not planned.possible else ask(lambda client: client.apply_import(text))
    if as_json:
        print_json(done)
    else:
        rows = [
            (
                str(each.line or "-"),
                _KINDS.get(each.kind, each.kind),
                each.name,
                each.source_repository or each.login_server or "-",
                each.target_repository or "-",
                _OUTCOMES[each.outcome],
            )
            for each in done.entries
        ]
        print_table(_IMPORT_COLUMNS, rows, empty="There is nothing to import.")
    for each in done.problems:
        click.echo(f"Error: {_at_line(each.line)}{each.message} ({each.code})", err=True)
    for entry in done.entries:
        for problem in entry.problems:
            click.echo(f"Error: {_at_line(entry.line)}{entry.name}: {problem.message} ({problem.code})", err=True)
    if not done.possible:
        click.echo("Nothing is imported.", err=True)
        sys.exit(REFUSED)
    new, same = done.count(ImportOutcome.CREATE), done.count(ImportOutcome.UNCHANGED)
    click.echo(f"{new:,} {'imported' if done.applied else 'would be imported'}, {same:,} unchanged.", err=True)


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
            ("Created", _moment(found.created)),
            ("Pulls", f"{found.pulls:,}"),
            ("Used", _moment(found.last_pull)),
            ("Asked for manifests", f"{counted(found.requests_made, 'time')}, saved {found.requests_saved:,}"),
        ]
    )


@cli.group("credential-set")
def credential_set() -> None:
    """Credential sets: how to sign in to a source registry."""


_SECRET = (
    "Where it is kept, never the secret itself: env:NAME, file:/path, keyring:SERVICE/USER, https://VAULT.vault.azure.net/secrets/NAME, "
    "docker-config:{0}, docker-helper:HELPER/{0} or 'command:/path arguments'."
)
_SET_COLUMNS = (Column("Name"), Column("Login server"), Column("User name"), Column("Password"), Column("Health"), Column("Used by", right=True))


@credential_set.command("list")
@as_json
def list_sets(as_json: bool) -> None:
    """List all credential sets."""
    found = ask(CacheClient.credential_sets)
    if as_json:
        print_json(found)
        return
    rows = [(each.name, each.login_server, each.username_id, each.password_id, each.health.value, _rules(len(each.used_by))) for each in found]
    print_table(_SET_COLUMNS, rows, empty="There is no credential set yet. Make one in the dashboard, or with: entrepot credential-set create")


@credential_set.command("show")
@_name
@as_json
def show_set(name: str, as_json: bool) -> None:
    """Show a credential set and its health."""
    _print_set(ask(lambda client: client.credential_set(name)), as_json=as_json)


@credential_set.command("create")
@_name
@click.option("--login-server", "-l", required=True, help="The source registry: docker.io")
@click.option("--username-id", "-u", required=True, help="The user name. " + _SECRET.format("username"))
@click.option("--password-id", "-p", required=True, help="The password or token. " + _SECRET.format("password"))
@as_json
def create_set(name: str, login_server: str, username_id: str, password_id: str, as_json: bool) -> None:
    """Make a credential set."""

    async def create(client: CacheClient) -> CredentialSetSnapshot:
        await client.create_credential_set(name, login_server, username_id, password_id)
        return await client.credential_set(name)

    _print_set(ask(create), as_json=as_json)


@credential_set.command("update")
@_name
@click.option("--username-id", "-u", help="The user name. " + _SECRET.format("username"))
@click.option("--password-id", "-p", help="The password or token. " + _SECRET.format("password"))
@as_json
def update_set(name: str, username_id: str | None, password_id: str | None, as_json: bool) -> None:
    """Change where the secrets of a credential set are kept."""
    if username_id is None and password_id is None:
        raise click.UsageError("There is nothing to change: give --username-id, --password-id or both.")

    async def update(client: CacheClient) -> CredentialSetSnapshot:
        await client.update_credential_set(name, username_id, password_id)
        return await client.credential_set(name)

    _print_set(ask(update), as_json=as_json)


@credential_set.command("check")
@_name
@as_json
def check_set(name: str, as_json: bool) -> None:
    """Try to sign in with a credential set. Exit status 1 when that fails."""
    found = ask(lambda client: client.check_sign_in(name))
    _print_set(found, as_json=as_json)
    if found.health is not HealthStatus.HEALTHY:
        sys.exit(REFUSED)


@credential_set.command("delete")
@_name
@_dry_run
@_yes
def delete_set(name: str, dry_run: bool, yes: bool) -> None:
    """Delete a credential set that no cache rule uses. The secrets themselves stay where they are."""
    if dry_run:
        _print_plan(ask(lambda client: client.plan_delete_credential_set(name)))
        return
    confirm(f"Delete the credential set {name}?", yes=yes)
    ask(lambda client: client.delete_credential_set(name))
    click.echo(f"The credential set {name} is deleted.", err=True)


def _print_set(found: CredentialSetSnapshot, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print_fields(
        [
            ("Name", found.name),
            ("Login server", found.login_server),
            ("User name", found.username_id),
            ("Password", found.password_id),
            ("Health", found.health.value),
            ("Why", found.error_message),
            ("Checked", _moment(found.checked) if found.checked else None),
            ("Created", _moment(found.created)),
            ("Used by", ", ".join(found.used_by) or "no rule"),
        ]
    )


@cli.group()
def repository() -> None:
    """Cached repositories."""


_REPOSITORY_COLUMNS = (
    Column("Name"),
    Column("Source"),
    Column("Rule"),
    Column("Tags", right=True),
    Column("Size", right=True),
    Column("Pulled", right=True),
    Column("State"),
)
_TAG_COLUMNS = (Column("Tag"), Column("Platforms"), Column("Size", right=True), Column("Cached", right=True), Column("Pulled", right=True), Column("State"))


@repository.command("list")
@as_json
def list_repositories(as_json: bool) -> None:
    """List all cached repositories."""
    found = ask(CacheClient.repositories)
    if as_json:
        print_json(found)
        return
    now = time.time()
    rows = [
        (each.name, each.source_repository, each.rule or "-", f"{each.tags:,}", size(each.size), ago(each.last_pull, now), "locked" if each.locked else "")
        for each in found
    ]
    print_table(_REPOSITORY_COLUMNS, rows, empty="Nothing is cached yet. Pull an image through a cache rule, or with: entrepot pull")


@repository.command("show")
@click.argument("image", metavar="NAME[:TAG]")
@as_json
def show_repository(image: str, as_json: bool) -> None:
    """Show a cached repository and its tags, or what is behind one tag: images, their layers, and who shares them."""
    name, tag, digest = _named_thing(image)
    if digest is not None:
        raise click.UsageError(f"{image} is named by its digest. Name a repository, or a tag of it.")
    if tag is not None:
        _show_tag(name, tag, as_json=as_json)
        return
    detail: RepositoryDetail = ask(lambda client: client.repository(name))
    if as_json:
        print_json(detail)
        return
    found, now = detail.repository, time.time()
    print_fields(
        [
            ("Name", found.name),
            ("Source", found.source_repository),
            ("Rule", found.rule or "none any more"),
            ("Size", size(found.size)),
            ("Pulls", f"{found.pulls:,}"),
            ("Pulled", _moment(found.last_pull)),
            ("Locked", "yes: nothing of it is evicted or deleted" if found.locked else None),
        ]
    )
    tell()
    rows = [
        (tag.name, " ".join(tag.platforms) or "-", size(tag.size), ago(tag.cached, now), ago(tag.last_pull, now), _tag_state(tag, now)) for tag in detail.tags
    ]
    print_table(_TAG_COLUMNS, rows, empty="It holds no tags, only images that were pulled by digest.")


_IMAGE_COLUMNS = (Column("Platform"), Column("Digest"), Column("Size", right=True), Column("Held"), Column("Used", right=True))
_BLOB_COLUMNS = (Column("Digest"), Column("Size", right=True), Column("Held"), Column("What"), Column("Shared with"))
_HOLDING = {Holding.WHOLE: "whole", Holding.PART: "in part", Holding.NOTHING: "no"}


def _show_tag(name: str, tag: str, *, as_json: bool) -> None:
    detail: TagDetail = ask(lambda client: client.tag(name, tag))
    if as_json:
        print_json(detail)
        return
    found, now = detail.tag, time.time()
    print_fields(
        [
            ("Tag", f"{detail.repository}:{found.name}"),
            ("Digest", found.digest),
            ("Type", detail.media_type),
            ("Held", f"{size(found.size)}, {size(detail.own_size)} of it for this tag alone"),
            ("Cached", _moment(found.cached)),
            ("Pulled", _moment(found.last_pull)),
            ("State", _tag_state(found, now)),
            ("Also tagged", ", ".join(detail.also_tagged)),
        ]
    )
    tell()
    rows = [
        (
            _image_name(each),
            _short(each.digest),
            "-" if each.size is None else size(each.size),
            _HOLDING[each.holding],
            ago(each.last_used, now),
        )
        for each in detail.images
    ]
    print_table(_IMAGE_COLUMNS, rows, empty="It leads to no image.")
    for image in detail.images:
        blobs = [*([image.config] if image.config is not None else []), *image.layers]
        if blobs:
            tell(f"\n{_image_name(image)}  {image.digest}")
            rows = [
                (_short(each.digest), size(each.size), "yes" if each.held else "no", "config" if each is image.config else "layer", _shared(each))
                for each in blobs
            ]
            print_table(_BLOB_COLUMNS, rows, empty="")


def _image_name(image: TagImage) -> str:
    if image.attests is not None:
        return "attestation of " + (_short(image.attests) or "nothing that is named")
    return image.platform or "-"


def _shared(blob: ImageBlob) -> str:
    if not blob.shared_images:
        return "-"
    more = blob.shared_images - len(blob.shared_with)
    return ", ".join(blob.shared_with) + (f" and {more:,} more" if more > 0 else "")


def _short(digest: str) -> str:
    return digest.partition(":")[2][:12]


@repository.command("delete")
@click.argument("name")
@_dry_run
@_yes
def delete_repository(name: str, dry_run: bool, yes: bool) -> None:
    """Delete a cached repository with all that only it holds. A rule for it stays, and the next pull caches it anew."""
    if dry_run:
        _print_plan(ask(lambda client: client.plan_delete_repository(name)))
        return
    confirm(f"Delete the cached repository {name} with all its tags?", yes=yes)
    ask(lambda client: client.delete_repository(name))
    click.echo(f"The cached repository {name} is deleted.", err=True)


@repository.command("lock")
@click.argument("image", metavar="NAME[:TAG]")
def lock(image: str) -> None:
    """Keep a cached repository, or one of its tags (NAME@DIGEST: one of its manifests), from eviction and deletion."""
    name, tag, digest = _named_thing(image)
    ask(lambda client: client.lock(name, tag, digest))
    click.echo(f"{image} is locked: it is not evicted and can't be deleted.", err=True)


@repository.command("unlock")
@click.argument("image", metavar="NAME[:TAG]")
def unlock(image: str) -> None:
    """Take away the lock of a cached repository or tag. Each is locked for itself."""
    name, tag, digest = _named_thing(image)
    ask(lambda client: client.unlock(name, tag, digest))
    click.echo(f"{image} is unlocked.", err=True)


def _named_thing(image: str) -> tuple[str, str | None, str | None]:
    """Repository, tag and digest of what a command is about. A name alone is the repository, and not its tag ``latest``."""
    from entrepot.reference import ImageReference

    try:
        found = ImageReference.parse(image)
    except EntrepotError as error:
        fail(error)
    if found.digest is not None:
        return found.repository, None, str(found.digest)
    return found.repository, None if found.repository == image else found.tag, None


def _bytes(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_size(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}. Write 50GB, 50GiB, or a number of bytes.") from None


_EVICTION_COLUMNS = (Column("Image"), Column("Platform"), Column("Digest"), Column("Frees", right=True), Column("Used", right=True))


@cli.command()
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@click.option("--to", "target", callback=_bytes, metavar="SIZE", help="Go down to this, such as 50GB [default: low_water of settings.toml].")
@_yes
@as_json
def evict(dry_run: bool, target: int | None, yes: bool, as_json: bool) -> None:
    """Evict the images that were used least recently. It happens by itself when more is held than the settings allow."""
    if not dry_run and not yes:
        planned = ask(lambda client: client.evict(dry_run=True, target=target))
        if planned.images:
            confirm(f"Evict {counted(len(planned.images), 'image')} and free {size(planned.freed)}? See them with --dry-run.", yes=False)
    done = ask(lambda client: client.evict(dry_run=dry_run, target=target))
    if as_json:
        print_json(done)
    else:
        _print_eviction(done)


def _print_eviction(done: EvictionSnapshot) -> None:
    now = time.time()
    rows = [
        (
            f"{each.repository}:{each.tags[0]}" + (f" and {len(each.tags) - 1} more" if len(each.tags) > 1 else "") if each.tags else each.repository,
            each.platform or "-",
            each.digest.partition(":")[2][:12],
            size(each.freed),
            since(each.last_used, now),
        )
        for each in done.images
    ]
    print_table(_EVICTION_COLUMNS, rows, empty=f"Nothing goes: {size(done.held)} of {size(done.limit)} are held, and the goal is {size(done.goal)}.")
    if done.images:
        what = counted(len(done.images), "image")
        click.echo(f"{what} would go, and free {size(done.freed)}." if done.dry_run else f"{what} evicted, {size(done.freed)} freed.", err=True)
    if done.shortfall:
        click.echo(f"The goal of {size(done.goal)} is missed by {size(done.shortfall)}: what is left is locked or in use.", err=True)


@cli.command()
@click.argument("image")
@click.option("--platform", help="Such as linux/arm64 [default: that of the engine's machine].")
@as_json
def pull(image: str, platform: str | None, as_json: bool) -> None:
    """Pull IMAGE (library/nginx:1.27) into the cache, without a container client."""
    ended = ask(lambda client: _pull(client, image, platform), waits=True)
    if as_json:
        print_json(ended)
    if ended.state is not PullState.COMPLETED:
        why = f": {ended.error_message} ({ended.error_code})" if ended.error_message else "."
        click.echo(f"Error: the pull of {ended.image} {'was cancelled' if ended.state is PullState.CANCELLED else 'failed'}{why}", err=True)
        sys.exit(REFUSED)


async def _pull(client: CacheClient, image: str, platform: str | None) -> PullSnapshot:
    import asyncio

    started = await client.start_pull(image, platform)
    in_terminal = sys.stderr.isatty()
    told = time.monotonic()
    latest = started
    try:
        async for latest in client.watch_pull(started.id):
            if in_terminal:
                click.echo(f"\r{_progress(latest, _columns())}\x1b[K", err=True, nl=False)
            elif time.monotonic() - told >= PLAIN_PROGRESS and not latest.state.ended:
                click.echo(_progress(latest), err=True)
                told = time.monotonic()
    except asyncio.CancelledError:
        click.echo(f"\nThe pull goes on in the engine. The dashboard shows it under Pulls, where x cancels it. (pull {started.id})", err=True)
        raise
    if latest.state is PullState.COMPLETED:
        took = (latest.ended or latest.started) - latest.started
        came = f"{size(latest.from_source)} from {latest.login_server} in {took:.1f} s" if latest.from_source else "all of it was held already"
        start_of_line, to_its_end = ("\r", "\x1b[K") if in_terminal else ("", "")
        click.echo(f"{start_of_line}{latest.image} {latest.platform or ''}: {size(latest.size)}, {came}.{to_its_end}", err=True)
    elif in_terminal:
        click.echo(err=True)
    return latest


@cli.command()
@click.argument("image")
@as_json
def refresh(image: str, as_json: bool) -> None:
    """Ask the source of IMAGE (library/nginx:1.27) where its tag points now, however fresh it is. No layers are fetched."""
    found = ask(lambda client: client.refresh(image))
    if as_json:
        print_json(found)
    else:
        click.echo(_refreshed(found))
    if found.problem is not None:
        sys.exit(REFUSED)


def _refreshed(found: RefreshedTag) -> str:
    name = f"{found.repository}:{found.tag}"
    if found.problem is not None:
        return f"{name} stays at {found.digest}, as it is held: {found.problem}"
    if found.gone:
        return f"{name} is gone at {found.source_repository}; {found.digest} is held and stays."
    if found.before is None:
        return f"{name} is new here: {found.digest}."
    return f"{name} moved from {found.before} to {found.digest}." if found.moved else f"{name} is unchanged: {found.digest}."


def _columns() -> int:
    """Characters that a line may have: one that reaches the last column makes some terminals go to the next, where a carriage return can't go back from."""
    try:
        found = os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        found = 0
    return (found or 80) - 1


def _progress(pull: PullSnapshot, columns: int | None = None) -> str:
    """One line of at most *columns* characters: the bar gives way first, then the beginning of the image's name. None: as many as it takes."""
    share = pull.received / pull.size if pull.size else 0.0
    left = f"  {duration(pull.time_left)} left" if pull.time_left is not None else ""
    numbers = f"{share:4.0%}  {size(pull.received)} of {size(pull.size)}  {size(pull.speed)}/s{left}"
    cells = BAR if columns is None else min(BAR, columns - len(pull.image) - len(numbers) - len(" [] "))
    if cells >= SHORTEST_BAR:
        return f"{pull.image} {bar(share, cells)} {numbers}"
    line = f"{pull.image} {numbers}"
    return line if columns is None or len(line) <= columns else f"...{line[len(line) - columns + 3 :]}"


@cli.command()
@click.option("--rule", "-r", metavar="NAME", help="Look at what this cache rule needs only.")
@as_json
def doctor(rule: str | None, as_json: bool) -> None:
    """Check sources, sign-ins and this machine, and say what to do. Exit status 1 when something fails."""
    found = ask(lambda client: client.examine(rule)).findings
    if as_json:
        print_json(found)
    else:
        for each in found:
            tell(f"{each.outcome.value:<4}  {each.about}: {each.check}: {each.what}" + (f" {each.advice}" if each.advice else ""))
    failed = [each for each in found if each.outcome is Outcome.FAILED]
    if failed:
        click.echo(f"{counted(len(failed), 'check')} of {len(found)} failed.", err=True)
        sys.exit(REFUSED)


@cli.command()
@click.option("--markdown", is_flag=True, help="As tables of Markdown.")
@click.option("--check", is_flag=True, help="Print only what is wrong with keymap.toml. Exit status 1 when something is.")
def keys(markdown: bool, check: bool) -> None:
    """Show all keys of the dashboard, with your own of keymap.toml."""
    from entrepot.cli.dashboard import show_keys

    show_keys(markdown=markdown, check=check)


@cli.command()
@as_json
def paths(as_json: bool) -> None:
    """Show where rules, data and the socket live."""
    try:
        directories = Directories.of_user()
    except EntrepotError as error:
        fail(error)
    found = {
        "settings": str(directories.settings),
        "rules": str(directories.rules),
        "credentials": str(directories.credentials),
        "data": str(directories.data),
        "socket": str(directories.socket),
        "log": str(directories.log),
    }
    if as_json:
        print_json(found)
    else:
        print_fields(list(found.items()))


@cli.command("management-token")
@click.argument("file", type=click.Path(path_type=Path))
def management_token(file: Path) -> None:
    """Make a token for the management API over HTTPS, and write it into FILE, which must not be there yet and which only you may use."""
    import secrets

    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w", encoding="ascii") as written:
            written.write(f"{secrets.token_urlsafe(32)}\n")
    except OSError as error:
        click.echo(f"Error: The token can't be written to {file}: {error.strerror}.", err=True)
        sys.exit(REFUSED)
    click.echo(f"The token is in {file}. Name it as token_file below [management] in settings.toml, and give it to clients with --token-file.", err=True)


@cli.command(hidden=True)
def dial() -> None:
    """Tell where the socket of the running engine is, and stay until standard input ends: what --connect ssh:// runs at the far side."""
    import socket

    from entrepot.cli.tunnel import ANNOUNCEMENT

    try:
        path = Directories.of_user().socket
        with socket.socket(socket.AF_UNIX) as tried:
            tried.settimeout(5)
            tried.connect(str(path))
    except OSError:
        fail(EngineUnreachable(NO_ENGINE))
    except EntrepotError as error:
        fail(error)
    click.echo(f"{ANNOUNCEMENT}{path}")
    sys.stdout.flush()
    while os.read(sys.stdin.fileno(), 4096):
        pass


def _moment(seconds: float | None) -> str:
    return "never" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _rules(count: int) -> str:
    return f"{count} rule" if count == 1 else f"{count} rules"


def _tag_state(tag: TagSnapshot, now: float) -> str:
    if tag.gone:
        state = "gone at its source, kept"
    elif tag.fresh_until is None:
        state = "never checked again"
    else:
        state = f"fresh, {duration(tag.fresh_until - now)} left" if tag.fresh_until > now else "asks its source at the next pull"
    return f"locked, {state}" if tag.locked else state


def main() -> None:
    """Run the command line."""
    try:
        cli(standalone_mode=True)
    except BrokenPipeError:
        broken_pipe()
