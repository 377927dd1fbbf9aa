"""Options that several commands have."""

from __future__ import annotations

import click

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
name_option = click.option(
    "--name", "-n", required=True, help="5 to 50 letters, digits and dashes."
)
dry_run_option = click.option(
    "--dry-run",
    is_flag=True,
    help="Only show what would be deleted and what would stay. "
    "Exit status 1 when it can't be deleted.",
)
run_program_option = click.option(
    "--yes",
    "-y",
    is_flag=True,
    help="Do not ask for confirmation before the engine runs a program (command:, docker-helper:).",
)
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
