"""``entrepot import``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from entrepot.api.client import CacheClient
from entrepot.cli.completion import repositories, rule_names
from entrepot.cli.options import as_json
from entrepot.cli.output import REFUSED, print_json
from entrepot.cli.session import call_engine

if TYPE_CHECKING:
    from entrepot.cli.import_run import ImportSummary


@click.command("import")
@click.argument("source", metavar="SOURCE", type=click.Path())
@click.option(
    "--repository",
    metavar="NAME",
    shell_complete=repositories,
    help="Import all images into this repository, under their tags [default: the one that the "
    "archive names, or where a cache rule has their source].",
)
@click.option(
    "--rule",
    "-r",
    metavar="NAME",
    shell_complete=rule_names,
    help="The cache rule to which the images belong, also where it pulls from another source than "
    "they came from.",
)
@as_json
def import_(source: str, repository: str | None, rule: str | None, as_json: bool) -> None:
    """Add the images of SOURCE to the cache, without asking their source registries: a directory or
    tar file with an OCI layout, of entrepot export, skopeo or docker save, or an older tar file of
    docker. All bytes are verified. An import that was interrupted goes on when it is run again.
    Exit status 1 when an image could not be imported."""

    async def work(client: CacheClient) -> ImportSummary:
        from entrepot.cli.import_run import import_archive

        return await import_archive(client, source, repository=repository, rule=rule)

    summary = call_engine(work, waits=True)
    if as_json:
        print_json(summary)
    if summary.failed:
        sys.exit(REFUSED)
