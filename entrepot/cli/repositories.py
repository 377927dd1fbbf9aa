"""``entrepot repository``, and ``entrepot evict``."""

from __future__ import annotations

import sys
import time
from contextlib import suppress

import click

from entrepot.api.client import CacheClient
from entrepot.api.errors import EngineRefused
from entrepot.api.labels import (
    CACHED_LABELS,
    LOCKED,
    blob_cached,
    evicted_image_name,
    image_name,
    sharers,
    tag_platforms,
    tag_state,
)
from entrepot.api.models import EvictionProgress, EvictionSnapshot, RepositoryDetail, TagDetail
from entrepot.cli.completion import cached_images, repositories
from entrepot.cli.confirmations import confirm
from entrepot.cli.options import as_json, dry_run_option, yes_option
from entrepot.cli.output import (
    date_and_time,
    fail,
    note,
    print_fields,
    print_json,
    print_plan,
    print_table,
    print_text,
)
from entrepot.cli.session import call_engine
from entrepot.errors import EntrepotError
from entrepot.formatting import (
    TableColumn,
    ago,
    counted,
    parse_size,
    printable,
    short_digest,
    since,
    size,
    what_stays,
)


@click.group()
def repository() -> None:
    """Cached repositories."""


_REPOSITORY_COLUMNS = (
    TableColumn("Name"),
    TableColumn("Source"),
    TableColumn("Rule"),
    TableColumn("Tags", right=True),
    TableColumn("Size", right=True),
    TableColumn("Last pull", right=True),
    TableColumn("State"),
)
_TAG_COLUMNS = (
    TableColumn("Tag"),
    TableColumn("Platforms"),
    TableColumn("Size", right=True),
    TableColumn("Cached", right=True),
    TableColumn("Last pull", right=True),
    TableColumn("State"),
)


@repository.command("list")
@as_json
def list_repositories(as_json: bool) -> None:
    """List all cached repositories."""
    repositories = call_engine(lambda client: client.repositories.list())
    if as_json:
        print_json(repositories)
        return
    now = time.time()
    rows = [
        (
            repository.name,
            repository.source_repository,
            repository.rule or "-",
            f"{repository.tags:,}",
            size(repository.size),
            ago(repository.last_pull, now),
            "locked" if repository.locked else "",
        )
        for repository in repositories
    ]
    print_table(
        _REPOSITORY_COLUMNS,
        rows,
        empty="Nothing is cached yet. Pull an image through a cache rule, or with: entrepot pull",
    )


@repository.command("show")
@click.argument("image", metavar="NAME[:TAG]", shell_complete=cached_images)
@as_json
def show_repository(image: str, as_json: bool) -> None:
    """Show a cached repository and its tags, or the images behind one tag, their layers, and which
    other images share them."""
    name, tag, digest = _parse_image(image)
    if digest is not None:
        raise click.UsageError(
            f"{image} is named by its digest. Name a repository, or a tag of it."
        )
    if tag is not None:
        _show_tag(name, tag, as_json=as_json)
        return
    detail: RepositoryDetail = call_engine(lambda client: client.repositories.get(name))
    if as_json:
        print_json(detail)
        return
    repository, now = detail.repository, time.time()
    print_fields(
        [
            ("Name", repository.name),
            ("Source", repository.source_repository),
            ("Rule", repository.rule or "none any more"),
            ("Size", size(repository.size)),
            ("Pulls", f"{repository.pulls:,}"),
            ("Last pull", date_and_time(repository.last_pull)),
            ("Locked", LOCKED if repository.locked else None),
        ]
    )
    print_text()
    rows = [
        (
            tag.name,
            tag_platforms(tag.platforms, tag.kind) or "-",
            size(tag.size),
            ago(tag.cached, now),
            ago(tag.last_pull, now),
            tag_state(tag, now),
        )
        for tag in detail.tags
    ]
    print_table(_TAG_COLUMNS, rows, empty="It has no tags, only images that were pulled by digest.")


_IMAGE_COLUMNS = (
    TableColumn("Platform"),
    TableColumn("Digest"),
    TableColumn("Size", right=True),
    TableColumn("State"),
    TableColumn("Used", right=True),
)
_BLOB_COLUMNS = (
    TableColumn("Digest"),
    TableColumn("Size", right=True),
    TableColumn("State"),
    TableColumn("Kind"),
    TableColumn("Shared with"),
)


def _show_tag(name: str, tag: str, *, as_json: bool) -> None:
    detail: TagDetail = call_engine(lambda client: client.repositories.get_tag(name, tag))
    if as_json:
        print_json(detail)
        return
    tag_snapshot, now = detail.tag, time.time()
    print_fields(
        [
            ("Tag", f"{detail.repository}:{tag_snapshot.name}"),
            ("Digest", tag_snapshot.digest),
            ("Kind", tag_snapshot.kind),
            ("Artifact type", tag_snapshot.artifact_type),
            ("Media type", detail.media_type),
            (
                "Size",
                f"{size(tag_snapshot.size)} cached, {size(detail.own_size)} only for this tag",
            ),
            ("Cached", date_and_time(tag_snapshot.cached)),
            ("Last pull", date_and_time(tag_snapshot.last_pull)),
            ("State", tag_state(tag_snapshot, now)),
            ("Also tagged", ", ".join(detail.also_tagged)),
        ]
    )
    print_text()
    rows = [
        (
            image_name(image, detail),
            short_digest(image.digest),
            "-" if image.size is None else size(image.size),
            CACHED_LABELS[image.cached_state],
            ago(image.last_used, now),
        )
        for image in detail.images
    ]
    print_table(_IMAGE_COLUMNS, rows, empty="There is no image behind it.")
    for image in detail.images:
        blobs = [*([image.config] if image.config is not None else []), *image.layers]
        if blobs:
            print_text(f"\n{printable(image_name(image, detail))}  {printable(image.digest)}")
            rows = [
                (
                    short_digest(blob.digest),
                    "-" if blob.size is None else size(blob.size),
                    blob_cached(blob),
                    "config" if blob is image.config else "layer",
                    sharers(blob),
                )
                for blob in blobs
            ]
            print_table(_BLOB_COLUMNS, rows, empty="")


@repository.command("delete")
@click.argument("name", shell_complete=repositories)
@dry_run_option
@yes_option
def delete_repository(name: str, dry_run: bool, yes: bool) -> None:
    """Delete a cached repository with everything that only it needs. Its cache rule stays, and the
    next pull caches it again."""
    if dry_run:
        print_plan(call_engine(lambda client: client.repositories.preview_delete(name)))
        return
    confirm(f"Delete the cached repository {name} with all its tags?", yes=yes)
    call_engine(lambda client: client.repositories.delete(name))
    note(f"The cached repository {name} is deleted.")


@repository.command("lock")
@click.argument("image", metavar="NAME[:TAG]", shell_complete=cached_images)
def lock(image: str) -> None:
    """Protect a cached repository, or one of its tags (NAME@DIGEST: one of its manifests), from
    eviction and deletion."""
    name, tag, digest = _parse_image(image)
    call_engine(lambda client: client.repositories.lock(name, tag, digest))
    note(f"{image} is locked: it is not evicted and can't be deleted.")


@repository.command("unlock")
@click.argument("image", metavar="NAME[:TAG]", shell_complete=cached_images)
def unlock(image: str) -> None:
    """Remove the lock of a cached repository or tag. Each has its own lock."""
    name, tag, digest = _parse_image(image)
    call_engine(lambda client: client.repositories.unlock(name, tag, digest))
    note(f"{image} is unlocked.")


def _parse_image(image: str) -> tuple[str, str | None, str | None]:
    """Repository, tag and digest of an argument.

    A name alone is the repository, and not its tag ``latest``.
    """
    from entrepot.core.reference import ImageReference

    try:
        reference = ImageReference.parse(image)
    except EntrepotError as error:
        fail(error)
    if reference.digest is not None:
        return reference.repository, None, str(reference.digest)
    is_repository = reference.repository == image
    return reference.repository, None if is_repository else reference.tag, None


def _bytes(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_size(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}. Write 50GB, 50GiB, or a number of bytes.") from None


POLL_INTERVAL = 0.5
"""Seconds between two requests for the progress of an eviction."""

_EVICTION_COLUMNS = (
    TableColumn("Image"),
    TableColumn("Platform"),
    TableColumn("Digest"),
    TableColumn("Frees", right=True),
    TableColumn("Used", right=True),
)


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be evicted.")
@click.option(
    "--to",
    "target",
    callback=_bytes,
    metavar="SIZE",
    help="Go down to this size, such as 50GB [default: low_water of settings.toml].",
)
@yes_option
@as_json
def evict(dry_run: bool, target: int | None, yes: bool, as_json: bool) -> None:
    """Evict the least recently used images. It happens automatically when more is cached than the
    settings allow. Ctrl+c ends it after its present step."""
    if not dry_run and not yes:
        plan = call_engine(lambda client: client.system.preview_eviction(target=target))
        if plan.images:
            images = counted(len(plan.images), "image")
            confirm(
                f"Evict {images} and free {size(plan.freed)}? See them with --dry-run.", yes=False
            )
    eviction = (
        call_engine(lambda client: client.system.preview_eviction(target=target))
        if dry_run
        else call_engine(lambda client: _evict(client, target), waits=True)
    )
    if as_json:
        print_json(eviction)
    else:
        _print_eviction(eviction)


async def _evict(client: CacheClient, target: int | None) -> EvictionSnapshot:
    """Evict, with the progress in a terminal; ctrl+c ends it after its present step."""
    import asyncio

    in_terminal = sys.stderr.isatty()
    evicting = asyncio.ensure_future(client.system.evict(target=target))
    try:
        while not (await asyncio.wait({evicting}, timeout=POLL_INTERVAL))[0]:
            if in_terminal:
                # Before its plan is made there is no eviction yet, or only an earlier one.
                with suppress(EngineRefused):
                    progress = await client.system.eviction()
                    if not progress.state.ended:
                        click.echo(f"\r{_progress(progress)}\x1b[K", err=True, nl=False)
    except asyncio.CancelledError:
        with suppress(EngineRefused):
            await client.system.cancel_eviction()
        eviction = await evicting
        note(
            f"The eviction was cancelled. Until then: {counted(len(eviction.images), 'image')} "
            f"evicted, {size(eviction.freed)} freed."
        )
        raise
    if in_terminal:
        click.echo("\r\x1b[K", err=True, nl=False)
    return evicting.result()


def _progress(progress: EvictionProgress) -> str:
    share = progress.evicted / progress.total if progress.total else 0.0
    return (
        f"{share:4.0%}  {progress.evicted:,} of {counted(progress.total, 'image')}  "
        f"{size(progress.freed)} freed"
    )


def _print_eviction(eviction: EvictionSnapshot) -> None:
    now = time.time()
    rows = [
        (
            evicted_image_name(image),
            image.platform or "-",
            short_digest(image.digest),
            size(image.freed),
            since(image.last_used, now),
        )
        for image in eviction.images
    ]
    print_table(
        _EVICTION_COLUMNS,
        rows,
        empty=f"Nothing to evict: {size(eviction.cached)} of {size(eviction.limit)} are cached, "
        f"and the goal is {size(eviction.goal)}.",
    )
    if eviction.images:
        images = counted(len(eviction.images), "image")
        note(
            f"{images} would be evicted, which frees {size(eviction.freed)}."
            if eviction.dry_run
            else f"{images} evicted, {size(eviction.freed)} freed."
        )
    if eviction.shortfall:
        reason = what_stays(eviction.locked, eviction.in_use, eviction.recent)
        note(
            f"The goal of {size(eviction.goal)} is missed by {size(eviction.shortfall)}: {reason}."
        )
