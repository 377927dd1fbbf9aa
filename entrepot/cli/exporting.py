"""``entrepot export`` and ``entrepot inventory``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click
import msgspec

from entrepot.api.client import CacheClient
from entrepot.cli.completion import cached_images, platforms, repositories, rule_names
from entrepot.cli.options import as_json
from entrepot.cli.output import REFUSED, note, print_json
from entrepot.cli.session import call_engine
from entrepot.formatting import counted

if TYPE_CHECKING:
    from entrepot.cli.export_run import ExportSummary


@click.command("export")
@click.argument(
    "names", nargs=-1, required=True, metavar="[IMAGE]... TARGET", shell_complete=cached_images
)
@click.option(
    "--rule",
    "-r",
    "rules",
    multiple=True,
    metavar="NAME",
    shell_complete=rule_names,
    help="All cached tags of this cache rule. Repeatable.",
)
@click.option(
    "--repository",
    "repositories_",
    multiple=True,
    metavar="NAME",
    shell_complete=repositories,
    help="All cached tags of this repository. Repeatable.",
)
@click.option(
    "--platform",
    "platforms_",
    multiple=True,
    metavar="PLATFORM",
    shell_complete=platforms,
    help="Such as linux/arm64. Repeatable [default: the platforms that are cached].",
)
@click.option(
    "--cached-only",
    is_flag=True,
    help="Ask no source: leave out what is not cached.",
)
@click.option(
    "--missing-from",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Leave out the blobs in this inventory, which entrepot inventory wrote at the other site.",
)
@as_json
def export(
    names: Sequence[str],
    rules: Sequence[str],
    repositories_: Sequence[str],
    platforms_: Sequence[str],
    cached_only: bool,
    missing_from: Path | None,
    as_json: bool,
) -> None:
    """Write cached images to TARGET, for a site without a network: a directory (oci:DIR, or a path
    that ends in /) or a tar file (FILE.tar, oci-archive:FILE) with an OCI layout, or a tar file for
    docker load (docker-archive:FILE). An export that was interrupted goes on when it is run again.
    Exit status 1 when an image could not be exported."""
    *images, target = names
    if not images and not rules and not repositories_:
        raise click.UsageError("Name an image before TARGET, or --rule or --repository.")

    async def work(client: CacheClient) -> ExportSummary:
        from entrepot.cli.export_run import export_images

        return await export_images(
            client,
            target,
            images,
            rules=rules,
            repositories=repositories_,
            platforms=platforms_,
            cached_only=cached_only,
            missing_from=missing_from,
        )

    summary = call_engine(work, waits=True)
    if as_json:
        print_json(summary)
    if summary.failed:
        sys.exit(REFUSED)


@click.command()
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write to FILE instead of standard output.",
)
def inventory(output: Path | None) -> None:
    """Print which blobs are cached, a line of JSON for each. At another site, entrepot export
    --missing-from leaves these out."""
    if output is None:
        call_engine(lambda client: _write_inventory(client, None), waits=True)
        return
    from entrepot.archive.writing import disk_errors

    part = output.with_name(f"{output.name}.part")

    async def work(client: CacheClient) -> None:
        with disk_errors(output):
            with part.open("wb") as file:
                await _write_inventory(client, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, output)

    call_engine(work, waits=True)


async def _write_inventory(client: CacheClient, file: IO[bytes] | None) -> None:
    encoder = msgspec.json.Encoder()
    count = 0
    async with aclosing(client.transfer.inventory()) as blobs:
        async for blob in blobs:
            if file is None:
                click.echo(encoder.encode(blob))
            else:
                file.write(encoder.encode(blob) + b"\n")
            count += 1
    note(f"{counted(count, 'blob')}.")
