"""``entrepot repository``, and ``entrepot evict``, which makes room among them."""

from __future__ import annotations

import time

import click

from entrepot.api.models import (
    EvictionSnapshot,
    ImageBlob,
    RepositoryDetail,
    TagDetail,
    TagImage,
    TagSnapshot,
)
from entrepot.cli.completion import cached_images, repositories
from entrepot.cli.session import (
    as_json,
    ask,
    confirm,
    date_and_time,
    dry_run_option,
    fail,
    note,
    print_fields,
    print_json,
    print_plan,
    print_table,
    tell,
    yes_option,
)
from entrepot.core.states import CachedState
from entrepot.errors import EntrepotError
from entrepot.formatting import (
    Column,
    ago,
    counted,
    duration,
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
    Column("Name"),
    Column("Source"),
    Column("Rule"),
    Column("Tags", right=True),
    Column("Size", right=True),
    Column("Pulled", right=True),
    Column("State"),
)
_TAG_COLUMNS = (
    Column("Tag"),
    Column("Platforms"),
    Column("Size", right=True),
    Column("Cached", right=True),
    Column("Pulled", right=True),
    Column("State"),
)


@repository.command("list")
@as_json
def list_repositories(as_json: bool) -> None:
    """List all cached repositories."""
    found = ask(lambda client: client.repositories.list())
    if as_json:
        print_json(found)
        return
    now = time.time()
    rows = [
        (
            each.name,
            each.source_repository,
            each.rule or "-",
            f"{each.tags:,}",
            size(each.size),
            ago(each.last_pull, now),
            "locked" if each.locked else "",
        )
        for each in found
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
    """Show a cached repository and its tags, or what is behind one tag: images, their layers, and
    who shares them."""
    name, tag, digest = _named_thing(image)
    if digest is not None:
        raise click.UsageError(
            f"{image} is named by its digest. Name a repository, or a tag of it."
        )
    if tag is not None:
        _show_tag(name, tag, as_json=as_json)
        return
    detail: RepositoryDetail = ask(lambda client: client.repositories.get(name))
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
            ("Pulled", date_and_time(found.last_pull)),
            ("Locked", "yes: nothing of it is evicted or deleted" if found.locked else None),
        ]
    )
    tell()
    rows = [
        (
            tag.name,
            " ".join(tag.platforms) or "-",
            size(tag.size),
            ago(tag.cached, now),
            ago(tag.last_pull, now),
            _tag_state(tag, now),
        )
        for tag in detail.tags
    ]
    print_table(
        _TAG_COLUMNS, rows, empty="It holds no tags, only images that were pulled by digest."
    )


_IMAGE_COLUMNS = (
    Column("Platform"),
    Column("Digest"),
    Column("Size", right=True),
    Column("Held"),
    Column("Used", right=True),
)
_BLOB_COLUMNS = (
    Column("Digest"),
    Column("Size", right=True),
    Column("Held"),
    Column("What"),
    Column("Shared with"),
)
_HOLDING = {
    CachedState.CACHED: "whole",
    CachedState.PARTLY_CACHED: "in part",
    CachedState.NOT_CACHED: "no",
}


def _show_tag(name: str, tag: str, *, as_json: bool) -> None:
    detail: TagDetail = ask(lambda client: client.repositories.get_tag(name, tag))
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
            ("Cached", date_and_time(found.cached)),
            ("Pulled", date_and_time(found.last_pull)),
            ("State", _tag_state(found, now)),
            ("Also tagged", ", ".join(detail.also_tagged)),
        ]
    )
    tell()
    rows = [
        (
            _image_name(each),
            short_digest(each.digest),
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
            tell(f"\n{printable(_image_name(image))}  {printable(image.digest)}")
            rows = [
                (
                    short_digest(each.digest),
                    "-" if each.size is None else size(each.size),
                    "yes" if each.held else "no",
                    "config" if each is image.config else "layer",
                    _shared(each),
                )
                for each in blobs
            ]
            print_table(_BLOB_COLUMNS, rows, empty="")


def _image_name(image: TagImage) -> str:
    if image.attests is not None:
        return "attestation of " + (short_digest(image.attests) or "nothing that is named")
    return image.platform or "-"


def _shared(blob: ImageBlob) -> str:
    if not blob.shared_images:
        return "-"
    more = blob.shared_images - len(blob.shared_with)
    return ", ".join(blob.shared_with) + (f" and {more:,} more" if more > 0 else "")


@repository.command("delete")
@click.argument("name", shell_complete=repositories)
@dry_run_option
@yes_option
def delete_repository(name: str, dry_run: bool, yes: bool) -> None:
    """Delete a cached repository with all that only it holds. A rule for it stays, and the next
    pull caches it anew."""
    if dry_run:
        print_plan(ask(lambda client: client.repositories.preview_delete(name)))
        return
    confirm(f"Delete the cached repository {name} with all its tags?", yes=yes)
    ask(lambda client: client.repositories.delete(name))
    note(f"The cached repository {name} is deleted.")


@repository.command("lock")
@click.argument("image", metavar="NAME[:TAG]", shell_complete=cached_images)
def lock(image: str) -> None:
    """Keep a cached repository, or one of its tags (NAME@DIGEST: one of its manifests), from
    eviction and deletion."""
    name, tag, digest = _named_thing(image)
    ask(lambda client: client.repositories.lock(name, tag, digest))
    note(f"{image} is locked: it is not evicted and can't be deleted.")


@repository.command("unlock")
@click.argument("image", metavar="NAME[:TAG]", shell_complete=cached_images)
def unlock(image: str) -> None:
    """Take away the lock of a cached repository or tag. Each is locked for itself."""
    name, tag, digest = _named_thing(image)
    ask(lambda client: client.repositories.unlock(name, tag, digest))
    note(f"{image} is unlocked.")


def _named_thing(image: str) -> tuple[str, str | None, str | None]:
    """Repository, tag and digest of what a command is about. A name alone is the repository, and
    not its tag ``latest``."""
    from entrepot.core.reference import ImageReference

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


_EVICTION_COLUMNS = (
    Column("Image"),
    Column("Platform"),
    Column("Digest"),
    Column("Frees", right=True),
    Column("Used", right=True),
)


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@click.option(
    "--to",
    "target",
    callback=_bytes,
    metavar="SIZE",
    help="Go down to this, such as 50GB [default: low_water of settings.toml].",
)
@yes_option
@as_json
def evict(dry_run: bool, target: int | None, yes: bool, as_json: bool) -> None:
    """Evict the images that were used least recently. It happens by itself when more is held than
    the settings allow."""
    if not dry_run and not yes:
        planned = ask(lambda client: client.system.preview_eviction(target=target))
        if planned.images:
            confirm(
                f"Evict {counted(len(planned.images), 'image')} and free {size(planned.freed)}? See them with --dry-run.",
                yes=False,
            )
    done = ask(
        lambda client: (
            client.system.preview_eviction(target=target)
            if dry_run
            else client.system.evict(target=target)
        )
    )
    if as_json:
        print_json(done)
    else:
        _print_eviction(done)


def _print_eviction(done: EvictionSnapshot) -> None:
    now = time.time()
    rows = [
        (
            f"{each.repository}:{each.tags[0]}"
            + (f" and {len(each.tags) - 1} more" if len(each.tags) > 1 else "")
            if each.tags
            else each.repository,
            each.platform or "-",
            short_digest(each.digest),
            size(each.freed),
            since(each.last_used, now),
        )
        for each in done.images
    ]
    print_table(
        _EVICTION_COLUMNS,
        rows,
        empty=f"Nothing goes: {size(done.held)} of {size(done.limit)} are held, and the goal is {size(done.goal)}.",
    )
    if done.images:
        what = counted(len(done.images), "image")
        note(
            f"{what} would go, and free {size(done.freed)}."
            if done.dry_run
            else f"{what} evicted, {size(done.freed)} freed."
        )
    if done.shortfall:
        note(
            f"The goal of {size(done.goal)} is missed by {size(done.shortfall)}: {what_stays(done.locked, done.in_use, done.recent)}."
        )


def _tag_state(tag: TagSnapshot, now: float) -> str:
    if tag.gone:
        state = "gone at its source, kept"
    elif tag.fresh_until is None:
        state = "never checked again"
    else:
        state = (
            f"fresh, {duration(tag.fresh_until - now)} left"
            if tag.fresh_until > now
            else "asks its source at the next pull"
        )
    return f"locked, {state}" if tag.locked else state
