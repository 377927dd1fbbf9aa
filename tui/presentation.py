"""Pictures of the engine turned into rows and sentences. Pure: no terminal, no clock of its own (*now* is in seconds since the epoch)."""

from __future__ import annotations

import time
from collections.abc import Sequence

from entrepot.snapshots import (
    CredentialSetSnapshot,
    EngineStatus,
    Event,
    EvictedImage,
    EvictionSnapshot,
    HealthStatus,
    LayerSnapshot,
    LayerState,
    PullSnapshot,
    PullState,
    RepositorySnapshot,
    RuleSnapshot,
    SignIn,
    TagSnapshot,
    UpstreamSnapshot,
)
from entrepot.words import ago, bar, counted, duration, size
from widgets.row_list import Cell, Row

SIGN_IN = {SignIn.NONE: "takes no credentials", SignIn.OPTIONAL: "credentials optional", SignIn.REQUIRED: "needs credentials"}
HEALTH = {HealthStatus.HEALTHY: ("healthy", "good"), HealthStatus.UNHEALTHY: ("unhealthy", "bad"), HealthStatus.UNKNOWN: ("not yet tried", "dim")}


def status_parts(status: EngineStatus) -> tuple[str, ...]:
    """What stands at the right of the status line, the most needed first."""
    held = f"{size(status.blobs_size)} of {size(status.space_limit)}" if status.space_limit else f"{size(status.blobs_size)} held"
    return (f"{status.rules:,} of {status.rules_limit:,} rules", held, f"{size(status.space_free)} free")


def rule_row(rule: RuleSnapshot, now: float) -> Row:
    """Name, source, target, sign-in and last use."""
    return Row(
        rule.name,
        (
            Cell(rule.name, "accent"),
            Cell(rule.source_repository),
            Cell(rule.target_repository),
            Cell(rule.credential_set or "-", "" if rule.credential_set else "dim"),
            Cell(ago(rule.last_pull, now), "dim"),
        ),
    )


def rule_lines(rule: RuleSnapshot) -> tuple[str, ...]:
    """A rule in sentences."""
    what = f"answers for {rule.target_repository} with {rule.source_repository}"
    signs_in = f"signs in with {rule.credential_set}" if rule.credential_set else "signs in with no credential set"
    freshness = f"freshness {rule.freshness_in_force}"
    return (f"{rule.name} {what}", f"{counted(rule.pulls, 'pull')}   {signs_in}   {freshness}   created {day(rule.created)}")


def credential_set_health(found: CredentialSetSnapshot) -> tuple[str, str]:
    """The word for its health, and the tone."""
    return ("not known", "warn") if found.health is HealthStatus.UNKNOWN and found.checked else HEALTH[found.health]


def credential_set_row(found: CredentialSetSnapshot) -> Row:
    """Name, login server, identifiers, health and use."""
    word, tone = credential_set_health(found)
    return Row(
        found.name,
        (
            Cell(found.name, "accent"),
            Cell(found.login_server),
            Cell(found.username_id, "dim"),
            Cell(found.password_id, "dim"),
            Cell(word, tone),
            Cell(f"{len(found.used_by):,}"),
        ),
    )


def credential_set_lines(found: CredentialSetSnapshot, now: float) -> tuple[str, ...]:
    """A credential set in sentences."""
    word, _ = credential_set_health(found)
    checked = f", tried {ago(found.checked, now)} ago" if found.checked else ""
    why = f": {found.error_message} ({found.error_code})" if found.error_message else ""
    used = ", ".join(found.used_by) if found.used_by else "no rule"
    return (f"{found.name} is {word}{checked}{why}", f"used by {used}   created {day(found.created)}")


def repository_row(found: RepositorySnapshot, now: float) -> Row:
    """Name, source, tags, size and last pull."""
    return Row(
        found.name,
        (
            Cell(f"{found.name}  locked" if found.locked else found.name, "accent"),
            Cell(found.source_repository, "dim"),
            Cell(f"{found.tags:,}"),
            Cell(size(found.size)),
            Cell(ago(found.last_pull, now), "dim"),
        ),
    )


def repository_lines(found: RepositorySnapshot, address: str) -> tuple[str, ...]:
    """A cached repository in sentences."""
    rule = f"rule {found.rule}" if found.rule else "no rule any more: what is held stays pullable"
    locked = "locked: neither evicted nor deleted   " if found.locked else ""
    return (
        f"from {found.source_repository}   {rule}",
        f"{locked}{counted(found.pulls, 'pull')}   {counted(found.manifests, 'manifest')}   since {day(found.created)}",
    )


def tag_row(tag: TagSnapshot, now: float) -> Row:
    """Tag, platforms, size, age, last pull and state."""
    word, tone = tag_state(tag, now)
    platforms = " ".join(platform.removeprefix("linux/") for platform in tag.platforms)
    return Row(
        tag.name,
        (
            Cell(tag.name, "accent"),
            Cell(platforms or "-"),
            Cell(size(tag.size)),
            Cell(ago(tag.cached, now), "dim"),
            Cell(ago(tag.last_pull, now), "dim"),
            Cell(word, tone),
        ),
    )


def tag_state(tag: TagSnapshot, now: float) -> tuple[str, str]:
    """How much a tag is to be believed, in words, and the tone of them."""
    if tag.locked:
        return ("locked, gone at source", "warn") if tag.gone else ("locked", "good")
    if tag.gone:
        return "gone at its source, kept", "warn"
    if tag.fresh_until is None:
        return "kept, never checked", "good"
    if tag.fresh_until > now:
        return f"fresh, {duration(tag.fresh_until - now)} left", "good"
    return f"checked {ago(tag.checked, now)} ago", "dim"


def eviction_lines(found: EvictionSnapshot, now: float, *, shown: int = 6) -> str:
    """What an eviction takes, the image used least recently first."""
    images = [f"  {evicted_image(each)}   {size(each.freed)}   {ago(each.last_used, now)} ago" for each in found.images[:shown]]
    more = [f"  and {counted(len(found.images) - shown, 'more image')}"] if len(found.images) > shown else []
    missed = [f"\n{size(found.shortfall)} too much stay: what is left is locked or in use."] if found.shortfall else []
    return "\n".join([f"{size(found.held)} are held. {size(found.freed)} go, the images used least recently:", *images, *more, *missed])


def evicted_image(found: EvictedImage) -> str:
    """An image as one would pull it, and its platform."""
    name = f"{found.repository}:{found.tags[0]}" if found.tags else f"{found.repository}@{found.digest[:19]}"
    return f"{name} {(found.platform or '').removeprefix('linux/')}".rstrip()


def pull_row(pull: PullSnapshot) -> Row:
    """The steady columns of a pull: image, platform, source and who asked."""
    return Row(
        pull.id,
        (
            Cell(pull.image, "accent"),
            Cell((pull.platform or "").removeprefix("linux/"), "dim"),
            Cell(pull.login_server, "dim"),
            Cell(asked_by(pull.asked_by), "dim"),
        ),
    )


def pull_progress(pull: PullSnapshot, now: float, *, width: int = 12) -> Row:
    """The volatile columns of a pull: bar, share, speed and time left; for one that ended, how and when."""
    share = pull.received / pull.size if pull.size else 0.0
    if pull.state is PullState.COMPLETED:
        came = size(pull.from_source) if pull.from_source else "held already"
        return Row(pull.id, (Cell("complete", "good"), Cell(""), Cell(came, "dim"), Cell(f"{ago(pull.ended, now)} ago", "dim")))
    if pull.state.ended:
        return Row(
            pull.id,
            (Cell(pull.state.value, "bad" if pull.state is PullState.FAILED else "warn"), Cell(""), Cell(""), Cell(f"{ago(pull.ended, now)} ago", "dim")),
        )
    if not pull.size:
        return Row(pull.id, (Cell("asking", "dim"), Cell(""), Cell(""), Cell("")))
    resuming = any(layer.state is LayerState.RESUMED for layer in pull.layers)
    speed = f"{size(pull.speed)}/s" if pull.speed else ("resuming" if resuming else "waiting")
    left = duration(pull.time_left) if pull.time_left is not None else ""
    return Row(pull.id, (Cell(bar(share, width), "accent"), Cell(f"{int(share * 100)}%"), Cell(speed), Cell(left, "dim")))


def pull_lines(pull: PullSnapshot, now: float) -> tuple[str, ...]:
    """A pull in sentences."""
    if pull.error_message:
        end = f"failed: {pull.error_message} ({pull.error_code})"
    elif pull.state.ended:
        end = f"{pull.state.value} in {duration((pull.ended or now) - pull.started)}"
    else:
        end = f"{size(pull.received)} of {size(pull.size)}"
    done = sum(layer.state in {LayerState.VERIFIED, LayerState.HELD} for layer in pull.layers)
    return (
        f"{pull.image}   {pull.platform or ''}   {end}",
        f"{pull.source_repository}   rule {pull.rule or '-'}   asked by {asked_by(pull.asked_by)}",
        f"{done} of {len(pull.layers)} blobs here   {size(pull.from_source)} from the source   {size(pull.to_clients)} to clients",
    )


def layer_row(layer: LayerSnapshot) -> Row:
    """The steady columns of a blob."""
    kind = "config" if "config" in layer.media_type or layer.media_type.endswith("container.image.v1+json") else "layer"
    return Row(layer.digest, (Cell(layer.digest.partition(":")[2][:12], "accent"), Cell(kind, "dim"), Cell(size(layer.size))))


def layer_progress(layer: LayerSnapshot, *, width: int = 14) -> Row:
    """The volatile columns of a blob."""
    share = layer.received / layer.size if layer.size else 1.0
    words = {
        LayerState.WAITING: Cell("waiting", "dim"),
        LayerState.VERIFIED: Cell("verified", "good"),
        LayerState.HELD: Cell("held already", "good"),
        LayerState.FAILED: Cell("failed", "bad"),
    }
    resumed = f"resumed at {size(layer.resumed_at)}" if layer.resumed_at is not None else ""
    waiting = f"{layer.waiting_clients} reading" if layer.waiting_clients else ""
    remark = Cell("  ".join(part for part in (resumed, waiting) if part), "dim")
    if layer.state in words:
        return Row(layer.digest, (words[layer.state], Cell(""), remark))
    return Row(layer.digest, (Cell(bar(share, width), "accent"), Cell(f"{int(share * 100)}%"), remark))


def upstream_row(found: UpstreamSnapshot) -> Row:
    """A source registry: name, login server, what it asks, rules, and how it is."""
    word, tone = upstream_state(found)
    return Row(
        found.login_server,
        (Cell(found.name, "accent"), Cell(found.login_server), Cell(SIGN_IN[found.sign_in], "dim"), Cell(f"{found.rules:,}"), Cell(word, tone)),
    )


def upstream_state(found: UpstreamSnapshot) -> tuple[str, str]:
    """How a source registry is, in words, and the tone of them."""
    if found.reachable is None:
        return "not asked", "dim"
    if not found.reachable:
        return "down, serving what is held", "bad"
    if found.allowance_remaining is not None:
        limit = f" of {found.allowance_limit:,}" if found.allowance_limit is not None else ""
        return f"well, {found.allowance_remaining:,}{limit} pulls left", "warn" if found.allowance_remaining < 10 else "good"
    return "well", "good"


def upstream_lines(found: UpstreamSnapshot, now: float) -> tuple[str, ...]:
    """A source registry in sentences."""
    declared = "   declared in settings.toml" if found.declared else ""
    parts = []
    if found.unreachable_since is not None:
        left = max(0.0, (found.next_try or now) - now)
        parts.append(f"not asked for {ago(found.unreachable_since, now)}, next try {f'in {duration(left)}' if left else 'under way'}")
    if found.allowance_limit is not None and found.allowance_window is not None:
        parts.append(f"allows {found.allowance_limit:,} pulls in {duration(found.allowance_window)}")
    if found.allowance_resets is not None and found.allowance_resets > now:
        parts.append(f"counts anew in {duration(found.allowance_resets - now)}")
    parts.append(found.problem or "No problem is known.")
    return (f"{found.name} ({found.login_server}) {SIGN_IN[found.sign_in]}{declared}", "   ".join(parts))


def event_row(event: Event, number: int) -> Row:
    """Time and message of an event."""
    tone = "bad" if event.kind.endswith(("refused", "unhealthy", "unreachable")) or " failed: " in event.message else ""
    return Row(str(number), (Cell(time.strftime("%H:%M:%S", time.localtime(event.time)), "dim"), Cell(event.message, tone)))


def asked_by(who: Sequence[str]) -> str:
    """Who asked: the first, and how many more."""
    if not who:
        return "-"
    return who[0] if len(who) == 1 else f"{who[0]} and {len(who) - 1} more"


def day(seconds: float) -> str:
    """A date."""
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def pull_command(address: str, repository: str, reference: str) -> str:
    """A line to pull an image from here."""
    joint = "@" if reference.startswith("sha") and ":" in reference else ":"
    return f"docker pull {address}/{repository}{joint}{reference}"
