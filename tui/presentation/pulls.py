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
"""What does not change while a pull goes on."""

PROGRESS_COLUMNS = (
    Column("Progress", 10),
    Column("", 4, right=True),
    Column("", 8, right=True),
    Column("", 6, right=True),
)
"""What does: bar, share, speed and time left."""

PROGRESS_WIDTH = (
    sum(column.width or 0 for column in PROGRESS_COLUMNS) + 2 * (len(PROGRESS_COLUMNS) - 1) + 1
)

ENDED = {
    PullState.COMPLETED: ("complete", "good"),
    PullState.FAILED: ("failed", "bad"),
    PullState.CANCELLED: ("cancelled", "warn"),
}
WHOLE = {LayerState.VERIFIED, LayerState.HELD}


def under_way_first(pulls: Sequence[PullSnapshot]) -> list[PullSnapshot]:
    """Those that go on, then those that ended, each in the engine's order (newest first)."""
    return sorted(pulls, key=lambda pull: pull.state.ended)


def pull_row(pull: PullSnapshot) -> Row:
    """The steady columns of a pull: image, platform, source and who asked. What goes on has the
    accent."""
    platform = (pull.platform or "").removeprefix("linux/")
    texts = (pull.image, platform, pull.login_server, asked_by(pull.asked_by))
    told = (
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
        search=" ".join(each for each in told if each),
    )


def pull_progress(pull: PullSnapshot, now: float) -> Row:
    """The volatile columns of a pull: bar, share, speed and time left, all in one tone, because
    each change of it costs bytes on the wire.

    For a pull that ended: how, how large it is, and when.
    """
    if pull.state.ended:
        word, tone = ENDED[pull.state]
        return Row(
            pull.id,
            (
                Cell(word, tone),
                Cell(""),
                Cell(size(pull.size) if pull.size else "", "dim"),
                Cell(moment(pull.ended or now, now), "dim"),
            ),
        )
    texts = ("asking", "", "", "")
    if pull.size:
        share = pull.received / pull.size
        left = duration(pull.time_left) if pull.time_left is not None else ""
        texts = (bar(share, BAR), f"{int(share * 100)}%", pace(pull), left)
    return Row(pull.id, tuple(Cell(text, "accent") for text in texts))


def pace(pull: PullSnapshot) -> str:
    """How fast a pull comes in, or why nothing comes."""
    if pull.speed:
        return rate(pull.speed)
    return (
        "resuming" if any(layer.state is LayerState.RESUMED for layer in pull.layers) else "waiting"
    )


def running_summary(pulls: Sequence[PullSnapshot]) -> str:
    """How many pulls go on, and how fast all of them are: ``3 running   84 MB/s``; empty: none
    does."""
    running = [pull for pull in pulls if not pull.state.ended]
    return (
        f"{len(running):,} running   {rate(sum(pull.speed for pull in running))}" if running else ""
    )


def ended_text(pull: PullSnapshot) -> str:
    """How a pull ended, in a sentence with the reason and the advice of the engine."""
    took = duration(max(0.0, (pull.ended or pull.started) - pull.started))
    if pull.error_message:
        return f"Failed after {took}: {pull.error_message}"
    if pull.state is PullState.COMPLETED:
        return f"Completed in {took}, {f'{size(pull.from_source)} of it from the source' if pull.from_source else 'all of it was held already'}."
    return f"Cancelled after {took}. Blobs that were whole are kept."


def pull_detail(pull: PullSnapshot, now: float) -> Detail:
    """A pull in a list: only what does not change from one look to the next, because it is painted
    as a whole."""
    count = len(pull.layers) or pull.layer_count
    blobs = (
        f"{counted(count, 'blob')}, {size(pull.size)}" if count else "its manifest is not here yet"
    )
    ending = (
        ended_text(pull) if pull.state.ended else f"{blobs}, began at {moment(pull.started, now)}"
    )
    facts = [
        ("Image", pull.image),
        ("Platform", pull.platform or "not known yet"),
        ("Source", pull.source_repository),
        ("Rule", pull.rule or "-"),
        ("Asked by", ", ".join(pull.asked_by) or "-"),
        ("Began", moment(pull.started, now)),
    ]
    if pull.state.ended:
        facts += [("Ended", f"{moment(pull.ended or now, now)}, {ENDED[pull.state][0]}")]
    facts += [
        ("Size", size(pull.size) if pull.size else "not known yet"),
        ("Blobs", f"{count:,}"),
        ("Digest", pull.digest[:19] if pull.digest else "not known yet"),
    ]
    if pull.state.ended:
        facts += [("Fetched", size(pull.from_source)), ("Served", size(pull.to_clients))]
    if pull.error_code:
        # The code speaks of the source, which need not be at fault.
        facts += [("Code", pull.error_cause or pull.error_code)]
    lines = (
        f"{pull.image}   from {pull.source_repository}",
        f"{pull.platform or ''}   rule {pull.rule or '-'}   asked by {asked_by(pull.asked_by)}".strip(),
    )
    if pull.state.ended:
        # Why it failed must be seen where there is room for two lines only.
        return Detail(pull.image, (ending, *lines), tuple(facts), (ending,))
    return Detail(pull.image, (*lines, ending), tuple(facts))


def pull_summary(pull: PullSnapshot, width: int) -> str:
    """One line above the layers of a pull: how far it is, or how it ended."""
    if pull.state.ended:
        word = "completed in" if pull.state is PullState.COMPLETED else f"{pull.state.value} after"
        came = f"   {out_of(pull.received, pull.size)}" if pull.size else ""
        return f"{word} {duration(max(0.0, (pull.ended or pull.started) - pull.started))}{came}"
    if not pull.size:
        return "asking the source for the image"
    share = pull.received / pull.size
    left = f"   {duration(pull.time_left)} left" if pull.time_left is not None else ""
    words = f"  {int(share * 100):>3} %   {out_of(pull.received, pull.size)}   {pace(pull)}{left}"
    return f"{bar(share, max(10, min(40, width - 60)))}{words}"


def opened_pull_detail(pull: PullSnapshot, now: float) -> Detail:
    """A pull that is opened: what it has moved, who waits, and why it failed."""
    waiting = sum(layer.waiting_clients for layer in pull.layers)
    here = sum(layer.state in WHOLE for layer in pull.layers)
    traffic = f"from the source {size(pull.from_source)}   to clients {size(pull.to_clients)}   waiting for it: {waiting:,}"
    origin = f"{here} of {counted(len(pull.layers), 'blob')} here   {pull.source_repository}   rule {pull.rule or '-'}"
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
    """The steady columns of a blob."""
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
    """The volatile columns of a blob: bar and share or a word, whether it was resumed, and how many
    clients wait for it."""
    share = layer.received / layer.size if layer.size else 1.0
    words = {
        LayerState.WAITING: Cell("waiting", "dim"),
        LayerState.VERIFIED: Cell("verified", "good"),
        LayerState.HELD: Cell("held already", "good"),
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


def asked_by(who: Sequence[str]) -> str:
    """Who asked: the first, and how many more."""
    if not who:
        return "-"
    return who[0] if len(who) == 1 else f"{who[0]} and {len(who) - 1} more"
