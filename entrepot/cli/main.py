"""The commands of ``entrepot``.

Without a command, ``entrepot`` opens the dashboard.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
import time
from pathlib import Path

import click

from entrepot import __version__
from entrepot.api.errors import EngineUnreachable
from entrepot.api.labels import check_name
from entrepot.api.models import ActivityCounts, EngineStatus, ReconciliationProgress
from entrepot.cli.certificate import certificate as certificate_command
from entrepot.cli.completion import prepare, rule_names, themes
from entrepot.cli.connection import TOKEN_VARIABLE, Connection
from entrepot.cli.credential_sets import credential_set
from entrepot.cli.events import events
from entrepot.cli.exporting import export, inventory
from entrepot.cli.importing import import_
from entrepot.cli.mirror import mirror
from entrepot.cli.options import as_json
from entrepot.cli.output import (
    REFUSED,
    UNREACHABLE,
    exit_on_broken_pipe,
    fail,
    note,
    print_fields,
    print_json,
    print_text,
)
from entrepot.cli.pulls import pull, refresh
from entrepot.cli.readers import reader, token
from entrepot.cli.repositories import evict, repository
from entrepot.cli.rules import rule
from entrepot.cli.session import call_engine
from entrepot.cli.verify import verify
from entrepot.config.directories import Directories
from entrepot.core.states import Outcome
from entrepot.errors import EntrepotError
from entrepot.formatting import counted, duration, printable, size

_LOCAL = frozenset({"demo", "serve", "paths", "management-token", "certificate", "dial"})
"""Commands that need no engine, or only that of this machine."""

_DASHBOARD_OPTIONS = "entrepot.dashboard"
"""The key of the dashboard's options in click's context."""


class _Commands(click.Group):
    """Commands in the order in which a newcomer needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(super().list_commands(ctx), key=list(self.commands).index)


def _help_width() -> int | None:
    """Columns of a help text on a terminal, as many as click would take.

    None without a terminal, where click reads COLUMNS. On a terminal COLUMNS would win (F76).
    """
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    except (AttributeError, ValueError, OSError):
        return None
    return max(min(columns or 80, 80) - 2, 50)


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "terminal_width": _help_width()},
)
@click.option(
    "--connect",
    metavar="URL",
    envvar="ENTREPOT_CONNECT",
    help="The engine of another machine: ssh://[USER@]HOST[:PORT], or https://HOST:PORT where it "
    "offers its management API. [env: ENTREPOT_CONNECT]",
)
@click.option(
    "--read-only",
    is_flag=True,
    help="Change nothing: the engine refuses all changes that this command or dashboard requests.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The token for https://, in a file that only you can access "
    f"[default: in the environment variable {TOKEN_VARIABLE}].",
)
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Certificate authorities for https:// besides the system's, in PEM format.",
)
@click.version_option(__version__, prog_name="entrepot")
@click.option(
    "--theme",
    metavar="NAME",
    shell_complete=themes,
    help="Colours of the dashboard, such as entrepot-light or ansi-dark.",
)
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
    options = {"theme": theme, "ascii": ascii or None, "mouse": False if no_mouse else None}
    dashboard_options = {name: value for name, value in options.items() if value is not None}
    context.meta[_DASHBOARD_OPTIONS] = dashboard_options
    if context.invoked_subcommand is None:
        from entrepot.cli.dashboard import open_dashboard

        open_dashboard(context.obj, dashboard_options)
    elif (
        context.invoked_subcommand in _LOCAL
        and connect
        and context.get_parameter_source("connect") is not click.core.ParameterSource.ENVIRONMENT
    ):
        raise click.UsageError(
            f"entrepot {context.invoked_subcommand} is about this machine, "
            "and can't be used with --connect."
        )
    elif dashboard_options and context.invoked_subcommand != "demo":
        raise click.UsageError(
            "--theme, --ascii and --no-mouse are for the dashboard, "
            "and no command but demo takes them."
        )


@cli.command()
@click.option(
    "--headless",
    is_flag=True,
    help="Without the dashboard: print how to pull, and run until ctrl+c.",
)
@click.pass_context
def demo(context: click.Context, headless: bool) -> None:
    """Try Entrepot with a simulated source registry, in a temporary directory. It needs no
    internet."""
    from entrepot.cli.dashboard import open_demo

    open_demo(context.meta[_DASHBOARD_OPTIONS], read_only=context.obj.read_only, headless=headless)


@cli.command()
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where container clients find the registry "
    "[default: from settings.toml, else 127.0.0.1:5000].",
)
@click.option(
    "--certificate",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The certificate with which the registry speaks TLS, in PEM format.",
)
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The private key of the certificate, in PEM format.",
)
@click.option(
    "--client-authorities",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Require client certificates of these authorities, in PEM format.",
)
@click.option(
    "--allow-plain-http",
    is_flag=True,
    help="Listen for other machines without TLS. Not needed on loopback.",
)
@click.option(
    "--allow-anonymous",
    is_flag=True,
    help="Let clients pull that do not sign in. Not needed on loopback.",
)
@click.option(
    "--read-only",
    is_flag=True,
    help="Refuse all changes through the management API. Container clients can still pull.",
)
@click.option(
    "--log-format",
    type=click.Choice(["plain", "json"]),
    default="plain",
    show_default=True,
    help="Log lines for people or for programs.",
)
@click.option(
    "--log-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Log to FILE instead of standard error. It may be rotated; at 16 MB it becomes FILE.1.",
)
@click.pass_obj
def serve(
    connection: Connection,
    listen: str | None,
    certificate: Path | None,
    key: Path | None,
    client_authorities: Path | None,
    allow_plain_http: bool,
    allow_anonymous: bool,
    read_only: bool,
    log_format: str,
    log_file: Path | None,
) -> None:
    """Run the engine in the foreground, until SIGTERM or ctrl+c."""
    import asyncio
    import gc

    from entrepot.server.shutdown import Deadline, ignore_harmless_signals

    # Before the rest is read, which takes most of the start.
    ignore_harmless_signals()
    # Modules stay: to collect garbage among them takes a tenth of that time. The engine turns it on
    # again when it has started.
    gc.disable()
    from entrepot.config.network_access import check_network_access
    from entrepot.config.serve_options import ServeOptions
    from entrepot.config.settings import Settings
    from entrepot.server.run import serve as run

    options = ServeOptions(
        listen, certificate, key, client_authorities, allow_plain_http, allow_anonymous
    )
    try:
        directories = Directories.of_user()
        settings = options.applied_to(Settings.load(directories.settings))
        check_network_access(settings, f"entrepot {shlex.join(sys.argv[1:])}")
        asyncio.run(
            run(
                directories,
                settings,
                read_only=read_only or connection.read_only,
                log_format=log_format,
                log_file=log_file.absolute() if log_file is not None else None,
                deadline=Deadline(),
            )
        )
    except EntrepotError as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit(130)


@cli.command()
@as_json
def status(as_json: bool) -> None:
    """Show the status of the engine."""
    status = call_engine(lambda client: client.system.status())
    if as_json:
        print_json(status)
    else:
        _print_status(status)


def _print_status(status: EngineStatus) -> None:
    print_fields(
        [
            (
                "Engine",
                f"entrepot {status.version}, up {duration(time.time() - status.started)}"
                + (" (demo)" if status.demo else "")
                + (", read-only" if status.read_only else ""),
            ),
            ("Registry", status.address + (" (TLS)" if status.has_tls else "")),
            *(("Mirror", f"{mirror.address} of {mirror.namespace}") for mirror in status.mirrors),
            ("Cache rules", f"{status.rules:,} of {status.rules_limit:,}"),
            ("Credential sets", f"{status.credential_sets:,}"),
            ("Readers", _who_reads(status)),
            ("Repositories", f"{status.repositories:,}"),
            (
                "Cached",
                f"{size(status.blobs_size)} of {size(status.space_limit)}, "
                f"{size(status.space_free)} free on the file system",
            ),
            ("Disk comparison", _comparison(status.reconciliation)),
            ("Running pulls", f"{status.pulls_running:,} at {size(status.speed)}/s"),
            (
                "Since the start",
                f"{size(status.served)} served, {size(status.from_source)} from sources",
            ),
            ("Last 24 hours", _last_day(status.last_day)),
        ]
    )
    for notice in status.notices:
        note(f"! {printable(notice)}")


def _who_reads(status: EngineStatus) -> str:
    """Who may pull."""
    if not status.can_sign_in:
        return "everyone" if status.anonymous_may_read else "nobody can sign in"
    return (
        "everyone, and more for those who sign in"
        if status.anonymous_may_read
        else "those who sign in"
    )


def _comparison(progress: ReconciliationProgress | None) -> str | None:
    """How far the comparison of the catalog with the disk is; None where none is under way."""
    if progress is None:
        return None
    return f"{progress.checked:,} of {progress.directories:,} directories checked"


def _last_day(counts: ActivityCounts) -> str:
    share = counts.hit_share
    if share is None:
        return "nothing was pulled"
    answers = counted(counts.hits + counts.misses, "answer")
    saved = counted(counts.requests_saved, "request")
    return (
        f"{share:.0%} of {answers} from the cache, {size(counts.served)} served, "
        f"{size(counts.from_source)} from sources, {saved} to them saved"
    )


for _command in (
    rule,
    credential_set,
    reader,
    token,
    mirror,
    repository,
    evict,
    verify,
    pull,
    refresh,
    export,
    import_,
    inventory,
    events,
):
    cli.add_command(_command)


@cli.command()
@click.option(
    "--rule",
    "-r",
    metavar="NAME",
    shell_complete=rule_names,
    help="Check only what this cache rule needs.",
)
@as_json
@click.pass_context
def doctor(context: click.Context, rule: str | None, as_json: bool) -> None:
    """Check sources, sign-ins and this machine, and say what to do. Exit status 1 when something
    fails."""
    try:
        findings = call_engine(lambda client: client.system.doctor(rule)).findings
    except SystemExit as end:
        # Where no engine runs, what prevents its start can be checked from here.
        if end.code == UNREACHABLE and not context.obj.is_elsewhere:
            _print_start_problem()
        raise
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            text = f"{finding.about}: {check_name(finding)}: {finding.what} {finding.advice}"
            print_text(f"{finding.outcome.value:<4}  {printable(text)}")
    failed = [finding for finding in findings if finding.outcome is Outcome.FAILED]
    if failed:
        note(f"{counted(len(failed), 'check')} of {len(findings)} failed.")
        sys.exit(REFUSED)


def _print_start_problem() -> None:
    import asyncio

    from entrepot.config.documents import Documents
    from entrepot.config.settings import Settings
    from entrepot.core.registries import SourceRegistries
    from entrepot.engine.lock import start_problem
    from entrepot.server.listeners import check_listen

    try:
        directories = Directories.of_user()
        settings = Settings.load(directories.settings)
        asyncio.run(Documents(directories, SourceRegistries(settings.upstreams)).load())
        problem: EntrepotError | None = start_problem(directories)
        if problem is None:
            check_listen(settings)
    except EntrepotError as error:
        problem = error
    if problem is not None:
        note(f"FAIL  {printable(f'this machine: start: {problem.message}')}")


@cli.command()
@click.option("--markdown", is_flag=True, help="As tables of Markdown.")
@click.option(
    "--check",
    is_flag=True,
    help="Print only the problems of keymap.toml. Exit status 1 when there are any.",
)
def keys(markdown: bool, check: bool) -> None:
    """Show all keys of the dashboard, including those of your keymap.toml."""
    from entrepot.cli.dashboard import show_keys

    show_keys(markdown=markdown, check=check)


@cli.command()
@as_json
def paths(as_json: bool) -> None:
    """Show where rules, data and the socket are."""
    try:
        directories = Directories.of_user()
    except EntrepotError as error:
        fail(error)
    paths = {
        "settings": str(directories.settings),
        "rules": str(directories.rules),
        "credentials": str(directories.credentials),
        "data": str(directories.data),
        "socket": str(directories.socket),
        "log": str(directories.log),
    }
    if as_json:
        print_json(paths)
    else:
        print_fields(list(paths.items()))


@cli.command("management-token")
@click.argument("file", type=click.Path(path_type=Path))
def management_token(file: Path) -> None:
    """Create a token for the management API over HTTPS, and write it to FILE, which must not exist
    yet and which only you can access."""
    import secrets

    try:
        with open(
            os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600),
            "w",
            encoding="ascii",
        ) as token_file:
            token_file.write(f"{secrets.token_urlsafe(32)}\n")
    except OSError as error:
        advice_by_error = {
            errno.EEXIST: " Name another file, or remove this one first.",
            errno.ENOENT: " Create its directory first.",
        }
        advice = advice_by_error.get(error.errno or 0, "")
        note(f"Error: The token can't be written to {file}: {error.strerror}.{advice}")
        sys.exit(REFUSED)
    note(
        f"The token is in {file}. Name it as token_file below [management] in settings.toml, "
        "and give it to clients with --token-file."
    )


cli.add_command(certificate_command)


@cli.command(hidden=True)
def dial() -> None:
    """Print the socket of the running engine, and wait until standard input ends: what
    --connect ssh:// runs on the remote machine."""
    import socket

    from entrepot.cli.tunnel import ANNOUNCEMENT

    try:
        directories = Directories.of_user()
        path = directories.socket
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(path))
    except OSError:
        from entrepot.cli.no_engine import why_no_engine

        fail(EngineUnreachable(why_no_engine(directories)))
    except EntrepotError as error:
        fail(error)
    click.echo(f"{ANNOUNCEMENT}{path}")
    sys.stdout.flush()
    while os.read(sys.stdin.fileno(), 4096):
        pass


def main() -> None:
    """Run the command line."""
    _open_standard_descriptors()
    if "_ENTREPOT_COMPLETE" in os.environ:
        prepare()
    try:
        try:
            cli(standalone_mode=True)
        finally:
            # Python would do it later, complain, and end with status 120.
            sys.stdout.flush()
    except BrokenPipeError:
        exit_on_broken_pipe()


def _open_standard_descriptors() -> None:
    """Open closed standard descriptors (``>&-``) on /dev/null.

    These are standard input, output and error. Otherwise the next file that is opened, such as the
    catalog, gets the number, and what is written to standard error ends up in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # This is the lowest free number, so the file gets it.
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
    # Python sets them to None, which click does not expect.
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
