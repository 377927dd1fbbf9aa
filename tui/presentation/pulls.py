"""Pulls and their layers as rows and sentences."""

from __future__ import annotations

from collections.abc import Sequence

from entrepot.api.models import LayerSnapshot, PullSnapshot
from entrepot.core.states import LayerState, PullState
from entrepot.formatting import bar, counted, duration, moment, out_of, rate, short_digest, size
from widgets.detail import Detail
from widgets.row_list import Cell, Column, Row

BAR = 8
"""Cells of a bar between its brackets, in a list of pulls."""

STEADY_COLUMNS = (
    Column("Image", weight=2),
    Column("Arch", 5, needs=40),
    Column("Source", weight=1, needs=40),
    Column("Asked by", 20, needs=80),
)
"""Columns that do not change while a pull runs."""

PROGRESS_COLUMNS = (
    Column("Progress", 10),
    Column("", 4, right=True),
    Column("", 8, right=True),
    Column("", 6, right=True),
)
"""Columns that change: bar, share, speed and time left."""

PROGRESS_WIDTH = (
    sum(column.width or 0 for column in PROGRESS_COLUMNS) + 2 * (len(PROGRESS_COLUMNS) - 1) + 1
)

_ENDED = {
    PullState.COMPLETED: ("completed", "good"),
    PullState.FAILED: ("failed", "bad"),
    PullState.CANCELLED: ("cancelled", "warn"),
}
WHOLE = {LayerState.VERIFIED, LayerState.CACHED}


def under_way_first(pulls: Sequence[PullSnapshot]) -> list[PullSnapshot]:
    """Running pulls, then ended ones, both in the engine's order (newest first)."""
    return sorted(pulls, key=lambda pull: pull.state.ended)


def pull_row(pull: PullSnapshot) -> Row:
    """The steady columns of a pull: image, platform, source and clients."""
    platform = (pull.platform or "").removeprefix("linux/")
    texts = (pull.image, platform, pull.login_server, asked_by(pull.asked_by))
    searched = (
        *texts,
        pull.source_repository,
        pull.rule,
        pull.state.value,
        *pull.asked_by,
        pull.error_code,
        pull.error_cause,
        pull.error_message,
    )
    return Row(
        pull.id,
        (
            Cell(texts[0], "" if pull.state.ended else "accent"),
            *(Cell(text, "dim") for text in texts[1:]),
        ),
        search=" ".join(text for text in searched if text),
    )


def pull_progress(pull: PullSnapshot, now: float) -> Row:
    """The volatile columns of a pull: bar, share, speed and time left.

    All have one tone, because each change of tone costs bytes on a slow line. For an ended pull:
    its outcome, its size, and when it ended.
    """
    if pull.state.ended:
        word, tone = _ENDED[pull.state]
        return Row(
            pull.id,
            (
                Cell(word, tone),
                Cell(""),
                Cell(size(pull.size) if pull.size else "", "dim"),
                Cell(moment(pull.ended or now, now), "dim"),
            ),
        )
    texts = ("starting", "", "", "")
    if pull.size:
        share = pull.received / pull.size
        time_left = duration(pull.time_left) if pull.time_left is not None else ""
        texts = (bar(share, BAR), f"{int(share * 100)}%", pace(pull), time_left)
    return Row(pull.id, tuple(Cell(text, "accent") for text in texts))


def pace(pull: PullSnapshot) -> str:
    """The speed of a pull, or why nothing arrives."""
    if pull.speed:
        return rate(pull.speed)
    return (
        "resuming" if any(layer.state is LayerState.RESUMED for layer in pull.layers) else "waiting"
    )


def running_summary(pulls: Sequence[PullSnapshot]) -> str:
    """The number of running pulls, and their speed together.

    For example ``3 running   84 MB/s``; empty when none runs.
    """
    running = [pull for pull in pulls if not pull.state.ended]
    return (
        f"{len(running):,} running   {rate(sum(pull.speed for pull in running))}" if running else ""
    )


def ended_text(pull: PullSnapshot) -> str:
    """How a pull ended, in a sentence, with the engine's reason and advice."""
    time_taken = duration(max(0.0, (pull.ended or pull.started) - pull.started))
    if pull.error_message:
        return f"Failed after {time_taken}: {pull.error_message}"
    if pull.state is PullState.COMPLETED:
        origin = (
            f"{size(pull.from_source)} from the source"
            if pull.from_source
            else "all of it was cached already"
        )
        return f"Completed in {time_taken}, {origin}."
    return f"Cancelled after {time_taken}. Completed blobs stay cached."


def pull_detail(pull: PullSnapshot, now: float) -> Detail:
    """A pull in a list: only what does not change between two polls.

    The detail is drawn as a whole, which is expensive on a slow line.
    """
    count = len(pull.layers) or pull.layer_count
    blobs = (
        f"{counted(count, 'blob')}, {size(pull.size)}"
        if count
        else "its manifest is not cached yet"
    )
    ending = (
        ended_text(pull) if pull.state.ended else f"{blobs}, started at {moment(pull.started, now)}"
    )
    facts = [
        ("Image", pull.image),
        ("Platform", pull.platform or "unknown yet"),
        ("Source", pull.source_repository),
        ("Rule", pull.rule or "-"),
        ("Asked by", ", ".join(pull.asked_by) or "-"),
        ("Started", moment(pull.started, now)),
    ]
    if pull.state.ended:
        facts += [("Ended", f"{moment(pull.ended or now, now)}, {_ENDED[pull.state][0]}")]
    facts += [
        ("Size", size(pull.size) if pull.size else "unknown yet"),
        ("Blobs", f"{count:,}"),
        ("Digest", pull.digest[:19] if pull.digest else "unknown yet"),
    ]
    if pull.state.ended:
        facts += [("Fetched", size(pull.from_source)), ("Served", size(pull.to_clients))]
    if pull.error_code:
        # The cause is more precise: the source need not be at fault.
        facts += [("Code", pull.error_cause or pull.error_code)]
    lines = (
        f"{pull.image}   from {pull.source_repository}",
        f"{pull.platform or ''}   rule {pull.rule or '-'}   "
        f"asked by {asked_by(pull.asked_by)}".strip(),
    )
    if pull.state.ended:
        # The reason must be visible where there is room for two lines only.
        return Detail(pull.image, (ending, *lines), tuple(facts), (ending,))
    return Detail(pull.image, (*lines, ending), tuple(facts))


def pull_summary(pull: PullSnapshot, width: int) -> str:
    """One line above the layers of a pull: how far it is, or how it ended."""
    if pull.state.ended:
        word = "completed in" if pull.state is PullState.COMPLETED else f"{pull.state.value} after"
        received = f"   {out_of(pull.received, pull.size)}" if pull.size else ""
        return f"{word} {duration(max(0.0, (pull.ended or pull.started) - pull.started))}{received}"
    if not pull.size:
        return "asking the source for the image"
    share = pull.received / pull.size
    time_left = f"   {duration(pull.time_left)} left" if pull.time_left is not None else ""
    progress = f"{int(share * 100):>3} %   {out_of(pull.received, pull.size)}"
    bar_width = max(10, min(40, width - 60))
    return f"{bar(share, bar_width)}  {progress}   {pace(pull)}{time_left}"


def opened_pull_detail(pull: PullSnapshot, now: float) -> Detail:
    """A pull that is opened: what it has moved, who waits, and why it failed."""
    waiting = sum(layer.waiting_clients for layer in pull.layers)
    here = sum(layer.state in WHOLE for layer in pull.layers)
    traffic = (
        f"from the source {size(pull.from_source)}   to clients {size(pull.to_clients)}   "
        f"waiting clients {waiting:,}"
    )
    origin = (
        f"{here} of {counted(len(pull.layers), 'blob')} cached   {pull.source_repository}   "
        f"rule {pull.rule or '-'}"
    )
    ending = (ended_text(pull),) if pull.state.ended else ()
    facts = [*pull_detail(pull, now).facts]
    if not pull.state.ended:
        facts += [
            ("Fetched", size(pull.from_source)),
            ("Served", size(pull.to_clients)),
            ("Waiting", f"{waiting:,}"),
        ]
    return Detail(pull.image, (*ending, traffic, origin), tuple(facts), ending)


def layer_row(layer: LayerSnapshot) -> Row:
    """The steady columns of a blob: digest, kind and size."""
    kind = (
        "config"
        if "config" in layer.media_type or layer.media_type.endswith("container.image.v1+json")
        else "layer"
    )
    return Row(
        layer.digest,
        (Cell(short_digest(layer.digest)), Cell(kind, "dim"), Cell(size(layer.size))),
        search=f"{layer.digest} {kind} {layer.state.value}",
        order=(layer.digest, kind, layer.size),
    )


def layer_progress(layer: LayerSnapshot, *, width: int = 11) -> Row:
    """The volatile columns of a blob.

    Its progress or state, where it resumed, and waiting clients.
    """
    share = layer.received / layer.size if layer.size else 1.0
    words = {
        LayerState.WAITING: Cell("waiting", "dim"),
        LayerState.VERIFIED: Cell("verified", "good"),
        LayerState.CACHED: Cell("cached", "good"),
        LayerState.FAILED: Cell("failed", "bad"),
    }
    resumed = f"resumed at {size(layer.resumed_at)}" if layer.resumed_at is not None else ""
    waiting = f"{layer.waiting_clients:,} waiting" if layer.waiting_clients else ""
    if layer.state in words:
        return Row(
            layer.digest, (words[layer.state], Cell(""), Cell(resumed, "dim"), Cell(waiting, "dim"))
        )
    return Row(
        layer.digest,
        tuple(
            Cell(text, "accent")
            for text in (bar(share, width), f"{int(share * 100)}%", resumed, waiting)
        ),
    )


def asked_by(clients: Sequence[str]) -> str:
    """The first client that asked, and how many more."""
    if not clients:
        return "-"
    return clients[0] if len(clients) == 1 else f"{clients[0]} and {len(clients) - 1} more"
