"""Readers and their personal tokens as rows, sentences and facts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from entrepot.api.models import RuleSnapshot
from entrepot.api.reader_models import ReaderList, ReaderSnapshot, TokenSnapshot
from entrepot.core.readers import Reader, ReaderAccess
from entrepot.formatting import ago, counted, duration, since
from tui.presentation.access import rule_readers
from tui.presentation.status import day, join_names
from widgets.row_list import Cell, Row

EXPIRY_WARNING = 7 * 86_400.0
"""Seconds before its end from which a token is worth a warning."""

MAX_RULES = 12
"""Rules in the details of a reader, named at most."""

NEW_RULES = 5
"""Rules in a sentence, named at most."""

WORST_FIRST = ("can't sign in", "expired", "token expired", "ends in", "active")


@dataclass(frozen=True, slots=True)
class ReaderEntry:
    """A reader and the personal token of that name."""

    reader: ReaderSnapshot
    token: TokenSnapshot | None = None

    @property
    def name(self) -> str:
        """The name with which the reader signs in."""
        return self.reader.name


def reader_entries(readers: ReaderList, tokens: Iterable[TokenSnapshot]) -> tuple[ReaderEntry, ...]:
    """All readers by name; a token that was created between the two requests waits."""
    by_name = {token.name: token for token in tokens}
    return tuple(ReaderEntry(reader, by_name.get(reader.name)) for reader in readers.readers)


def ways(reader: ReaderSnapshot) -> str:
    """What a reader signs in with."""
    known = [
        way
        for way, is_known in (("password", reader.password), ("token", reader.token))
        if is_known
    ]
    return ", ".join(known) or "nothing"


def reader_state(entry: ReaderEntry, now: float) -> tuple[str, str]:
    """Whether a reader can sign in, in words, and its tone."""
    token, has_password = entry.token, entry.reader.password
    if token is not None and token.expired:
        return ("token expired", "warn") if has_password else ("expired", "bad")
    if token is not None and token.expires is not None and token.expires - now < EXPIRY_WARNING:
        return f"ends in {duration(max(0.0, token.expires - now))}", "warn"
    if token is None and not has_password and not entry.reader.token:
        return "can't sign in", "dim"
    return "active", "good"


def groups_text(groups: Iterable[str]) -> str:
    """Groups as rules name them; ``-`` for none."""
    return ", ".join(f"@{group}" for group in groups) or "-"


def expiry_text(token: TokenSnapshot | None) -> str:
    """The day on which a token expires, in this machine's time zone."""
    if token is None:
        return "-"
    return "never" if token.expires is None else day(token.expires)


def reader_row(entry: ReaderEntry, clock: Callable[[], float]) -> Row:
    """The row of a reader: name, ways, groups, rules, expiry, last use and state."""
    reader, token = entry.reader, entry.token
    groups = groups_text(reader.groups)

    def cells() -> tuple[Cell, ...]:
        now = clock()
        return (
            Cell(reader.name, "accent"),
            Cell(ways(reader), "" if reader.password or reader.token else "dim"),
            Cell(groups, "dim"),
            Cell(f"{len(reader.rules):,}"),
            Cell(expiry_text(token), "" if token is not None else "dim"),
            Cell(ago(token.last_used, now) if token is not None else "-", "dim"),
            Cell(*reader_state(entry, now)),
        )

    def order() -> Sequence[object]:
        state, _ = reader_state(entry, clock())
        return (
            reader.name.lower(),
            ways(reader),
            groups,
            len(reader.rules),
            token.expires if token is not None and token.expires is not None else float("inf"),
            token.last_used or 0.0 if token is not None else 0.0,
            next(rank for rank, text in enumerate(WORST_FIRST) if state.startswith(text)),
        )

    state, _ = reader_state(entry, clock())
    return Row(
        reader.name, cells, search=" ".join((reader.name, ways(reader), groups, state)), order=order
    )


def reader_lines(entry: ReaderEntry, now: float) -> tuple[str, ...]:
    """A reader in sentences."""
    reader, token = entry.reader, entry.token
    state, _ = reader_state(entry, now)
    first = (
        f"{reader.name} can't sign in: only a group in settings.toml names this reader"
        if state == "can't sign in"
        else f"{reader.name} signs in with {' and '.join(ways(reader).split(', '))}: {state}"
    )
    rules = join_names(reader.rules, limit=3) or "no rule"
    lines = [first, f"groups {groups_text(reader.groups)}   may read {rules}"]
    if token is not None:
        lines.append(
            f"token created {day(token.created)}   expires {expiry_text(token)}   "
            f"last used {since(token.last_used, now)}"
        )
    return tuple(lines)


def reader_facts(entry: ReaderEntry, now: float) -> tuple[tuple[str, str], ...]:
    """A reader as names and values."""
    reader, token = entry.reader, entry.token
    more = len(reader.rules) - MAX_RULES
    return (
        ("State", reader_state(entry, now)[0]),
        ("Signs in with", ways(reader)),
        ("Groups", groups_text(reader.groups)),
        *(
            (
                ("", ""),
                ("Token created", day(token.created)),
                ("Expires", expiry_text(token)),
                ("Last used", since(token.last_used, now)),
            )
            if token is not None
            else ()
        ),
        ("", ""),
        ("May read", counted(len(reader.rules), "rule")),
        *(("", rule) for rule in reader.rules[:MAX_RULES]),
        *((("", f"and {more:,} more"),) if more > 0 else ()),
    )


def revocation_text(entry: ReaderEntry, readers: ReaderList, now: float) -> str:
    """What stops when the token of a reader is revoked, and what stays."""
    reader, token = entry.reader, entry.token
    last_used = token.last_used if token is not None else None
    used = (
        "It was never used, as far as is known."
        if last_used is None
        else f"It was last used {since(last_used, now)}."
    )
    lost = [rule for rule in reader.rules if rule not in readers.anonymous_rules]
    if reader.password:
        stops = f"{reader.name} can still sign in with a password" + (
            f", but is no longer in {groups_text(token.groups)} through the token."
            if token is not None and token.groups
            else "."
        )
    elif lost:
        stops = (
            f"{reader.name} can no longer read {counted(len(lost), 'rule')}: "
            f"{join_names(lost, limit=NEW_RULES)}."
        )
    else:
        stops = "Everyone may read all rules that it opens, so no rule is lost."
    return (
        "From now on nothing signs in with it: a client that sends it is refused, and its running "
        f"pulls fail at their next request. {used}\n\n{stops}\n\n"
        "What is cached stays. A token can't be restored; create another with n."
    )


def readable_rules(
    rules: Iterable[RuleSnapshot], reader: Reader, *, allow_anonymous: bool
) -> tuple[str, ...]:
    """Names of the rules that a reader may read."""
    return tuple(
        rule.name
        for rule in rules
        if ReaderAccess(rule.readers, rule.anonymous).admits(
            reader, allow_anonymous=allow_anonymous
        )
    )


def readable_lines(rules: Sequence[RuleSnapshot], names: Iterable[str]) -> list[Cell]:
    """The rules of *names*: where each image appears, where it comes from, who may read."""
    by_name = {rule.name: rule for rule in rules}
    lines: list[Cell] = []
    for rule in (by_name[name] for name in names if name in by_name):
        lines.append(Cell(rule.name, "accent"))
        lines.append(Cell(f"  {rule.target_repository} from {rule.source_repository}"))
        lines.append(Cell(f"  read by {rule_readers(rule)}", "dim"))
    return lines or [Cell("No rule. A rule names its readers: press r in Rules.")]
