"""The wizard for a cache rule."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Input

from entrepot.api.client import EngineRefused
from entrepot.api.models import CheckedRule, CredentialSetSnapshot, Problem, SourceRegistrySnapshot
from entrepot.core.states import SignIn
from entrepot.formatting import counted
from tui.presentation.credentials import credential_set_health
from tui.presentation.drafts import rule_command, rule_toml
from tui.presentation.freshness import DEFAULT, INTERVAL, freshness_choices
from tui.presentation.sources import SIGN_IN
from tui.wizards.credential_set import CredentialSetWizard
from tui.wizards.wizard import Entry, Feedback, ReviewText, Wizard, first_problem, show_all_rows
from widgets.row_list import Cell, Column, Row, RowList
from widgets.text import Plain

SOURCE, REPOSITORY, TARGET, SIGN_IN_STEP, FRESHNESS, REVIEW, FIRST_PULL = range(7)

NO_SET = "-"
NEW_SET = "+"
OTHER = "other"
"""Stands for a source registry whose name is typed."""

SIGNS_IN = {
    SignIn.NONE: "no sign-in",
    SignIn.OPTIONAL: "may sign in",
    SignIn.REQUIRED: "needs sign-in",
}

NAME_LENGTH = 50


@dataclass(frozen=True, slots=True)
class CreatedRule:
    """The rule that was made, and whether its first pull has begun."""

    name: str
    pulling: bool


def proposed_name(source: str, taken: Collection[str] = ()) -> str:
    """A name made from the source: ``docker-io-library`` for ``docker.io/library/*``; at least five
    characters, and none of those *taken* (in one case)."""
    name = (
        re.sub(r"[^A-Za-z0-9]+", "-", source.removesuffix("/*")).strip("-")[:NAME_LENGTH].strip("-")
    )
    name = name if len(name) >= 5 else f"{name}-rule"
    number, proposed = 1, name
    while proposed.casefold() in taken:
        number += 1
        proposed = f"{name[: NAME_LENGTH - len(str(number)) - 1].rstrip('-')}-{number}"
    return proposed


def own_path(typed: str, login_server: str) -> str:
    """A repository without what people paste in front of it: a scheme, and the login server that
    stands before the field already."""
    path = typed.strip()
    for scheme in ("https://", "http://", "docker://", "oci://"):
        path = path.removeprefix(scheme)
    return path.removeprefix(f"{login_server}/").lstrip("/")


class RuleWizard(Wizard[CreatedRule | None]):
    """Source, repository, target, sign-in, freshness, review, first pull."""

    wizard_title = "New cache rule"
    steps = ("Source", "Repository", "Target", "Sign-in", "Freshness", "Review", "First pull")

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "y",
            "copy",
            "copy",
            tooltip="Copy the command that makes the same rule",
            id="wizard.rule.copy",
        ),
        Binding(
            "Y",
            "copy_toml",
            "copy TOML",
            show=False,
            tooltip="Copy the rule as an entry of rules.toml",
            id="wizard.rule.copy-toml",
        ),
    ]
    _TEACH: ClassVar[dict[int, str]] = {
        REPOSITORY: (
            "One repository: library/nginx. Or with /* at the end everything below a path, new repositories too: library/*, or * for all.\n"
            "Leave out tags and digests: a rule covers all of them. Names are in small letters."
        ),
        TARGET: (
            "The path under which clients find it here. It ends with /* if the source does, and only then.\n"
            "A target has one rule: two wildcards may not overlap, for then two sources could answer. One repository inside a wildcard may have "
            "a rule of its own, and that one wins.\n"
            "It must not exist here yet: what is cached would change its source."
        ),
        SIGN_IN_STEP: "The credential set can be changed later.",
        FRESHNESS: "It can be changed later. New tags are never fetched before somebody asks for them.",
    }

    def __init__(self) -> None:
        super().__init__()
        self._upstreams: list[SourceRegistrySnapshot] = []
        self._sets: list[CredentialSetSnapshot] = []
        self._checked_rule: CheckedRule | None = None
        self._proposed_target = ""
        self._proposed_name = ""
        self._said: tuple[str, ...] = ()
        self._made: str | None = None

    def compose_step(self, number: int) -> ComposeResult:
        """The widgets of a step."""
        if number == SOURCE:
            yield Plain("Which source registry does it pull from?", classes="question")
            yield RowList(
                (
                    Column("Registry", weight=1),
                    Column("Login server", 26),
                    Column("Sign-in", 13, needs=64),
                ),
                id="sources",
                header=False,
            )
            with Horizontal(classes="entry", id="own-entry"):
                yield Plain("Its login server:  ")
                yield Entry(id="login-server", placeholder="registry.example.com")
            yield Feedback(id="source-feedback")
        elif number == REPOSITORY:
            yield Plain("Which repository?", classes="question", id="repository-question")
            with Horizontal(classes="entry"):
                yield Plain("", id="server-before")
                yield Entry(id="path", placeholder="library/nginx")
            yield Feedback(id="repository-feedback")
            yield Plain(self._TEACH[REPOSITORY], classes="teach")
        elif number == TARGET:
            yield Plain("Where does it appear here?", classes="question")
            with Horizontal(classes="entry"):
                yield Plain("", id="address")
                yield Entry(id="target")
            yield Feedback(id="target-feedback")
            yield Plain(self._TEACH[TARGET], classes="teach")
        elif number == SIGN_IN_STEP:
            yield Plain("How does it sign in?", classes="question", id="sign-in-question")
            yield RowList((Column("", 24), Column("", weight=1)), id="sets", header=False)
            yield Feedback(id="sign-in-feedback", classes="-close")
            yield Plain("", classes="teach", id="sign-in-teach")
        elif number == FRESHNESS:
            yield Plain(
                "How long is a tag believed before the source is asked again?", classes="question"
            )
            yield RowList((Column("", 22), Column("", weight=1)), id="freshness", header=False)
            with Horizontal(classes="entry", id="interval-entry"):
                yield Plain("After:  ")
                yield Entry(id="interval", placeholder="10 min")
            yield Feedback(id="freshness-feedback", classes="-close")
            yield Plain("", classes="teach", id="freshness-teach")
        elif number == REVIEW:
            yield Plain("Nothing is made yet. Is this what you want?", classes="question roomy")
            with Horizontal(classes="entry"):
                yield Plain("Name (tab)  ")
                yield Entry(id="name", max_length=60)
            yield Feedback(id="name-feedback", classes="-close")
            yield ReviewText(id="review")
        else:
            yield Plain("", classes="question", id="made")
            yield Plain(
                "Nothing is cached before it is pulled once. Which image shall be the first?",
                classes="label",
            )
            with Horizontal(classes="entry"):
                yield Entry(id="image")
            yield Plain("", classes="roomy")
            yield Plain(
                "For which platform? Empty means that of the engine's machine.", classes="label"
            )
            with Horizontal(classes="entry"):
                yield Entry(id="platform", placeholder="linux/amd64")
            yield Feedback(id="pull-feedback")
            yield Plain(
                "esc leaves it to your container clients: their first pull does the same.",
                classes="teach",
            )

    def focus_of(self, number: int) -> str | None:
        """What has the focus in a step."""
        return ("#sources", "#path", "#target", "#sets", "#freshness", "#review", "#image")[number]

    # The keys, in the words of the moment

    def enter_word(self) -> str:
        """What enter does now."""
        if self.current == REVIEW:
            return "make the rule"
        if self.current == FIRST_PULL:
            return "pull it" if self.focused is None or self.focused.id != "image" else "platform"
        return "next"

    def back_word(self) -> str:
        """What escape does now; once the rule is made there is no way back."""
        return "no pull now" if self.current == FIRST_PULL else super().back_word()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The keys for copying work in the review, where no letter is typed."""
        if action in {"copy", "copy_toml"}:
            return self.current == REVIEW and self.focused is not self.query_one("#name")
        return True

    def action_copy(self) -> None:
        """Copy the command."""
        self.app.copy_line(rule_command(*self._review_of()))

    def action_copy_toml(self) -> None:
        """Copy the TOML."""
        self.app.copy_line(rule_toml(*self._review_of()))

    # What was entered

    @property
    def _upstream(self) -> SourceRegistrySnapshot | None:
        """The row that was chosen, unless the name is typed."""
        row = self.query_one("#sources", RowList).current
        return next(
            (each for each in self._upstreams if row is not None and each.login_server == row.key),
            None,
        )

    @property
    def _types_server(self) -> bool:
        row = self.query_one("#sources", RowList).current
        return row is not None and (row.key == OTHER or row.key.startswith("*."))

    @property
    def _login_server(self) -> str:
        upstream = self._upstream
        if self._types_server or upstream is None:
            typed = own_path(self.query_one("#login-server", Input).value, "")
            return typed.partition("/")[0].lower()
        return upstream.login_server

    @property
    def _source(self) -> str:
        return f"{self._login_server}/{own_path(self.query_one('#path', Input).value, self._login_server)}"

    @property
    def _target(self) -> str:
        return own_path(self.query_one("#target", Input).value, self.app.address)

    @property
    def _rule_name(self) -> str:
        return self.query_one("#name", Input).value.strip()

    @property
    def _credential_set(self) -> str:
        """The name of the chosen set; empty for none."""
        row = self.query_one("#sets", RowList).current
        return row.key if row is not None and row.key not in {NO_SET, NEW_SET} else ""

    @property
    def _freshness(self) -> str | None:
        """The chosen freshness; None: as the settings say."""
        row = self.query_one("#freshness", RowList).current
        if row is None or row.key == DEFAULT:
            return None
        # What is not written yet is judged by the engine as what it is: no interval.
        return (self._freshness_typed or "?") if row.key == INTERVAL else row.key

    @property
    def _freshness_typed(self) -> str:
        return self.query_one("#interval", Input).value.strip()

    @property
    def _normal_source(self) -> str:
        return (
            self._checked_rule.source_repository if self._checked_rule else None
        ) or self._source

    @property
    def _server_name(self) -> str:
        """The registry as people call it."""
        upstream = self._upstream
        return (
            upstream.name if upstream is not None and not self._types_server else self._login_server
        )

    def _review_of(self) -> tuple[str, str, str, str | None, str | None]:
        return (
            self._rule_name or "NAME",
            self._normal_source,
            self._target,
            self._credential_set or None,
            self._freshness,
        )

    # Steps

    async def prepare(self, number: int) -> None:
        """Fill a step in with what follows from those before it."""
        if number == SOURCE and not self._upstreams:
            self.query_one("#own-entry").display = False
            self._upstreams = await self.app.client.system.source_registries()
            rows = [
                Row(
                    each.login_server,
                    (
                        Cell(each.name, "accent"),
                        Cell(each.login_server),
                        Cell(SIGNS_IN[each.sign_in], "dim"),
                    ),
                )
                for each in self._upstreams
            ]
            rows.append(
                Row(
                    OTHER,
                    (
                        Cell("another registry", "accent"),
                        Cell("you type its name"),
                        Cell("", "dim"),
                    ),
                )
            )
            self.query_one("#sources", RowList).set_rows(rows)
        elif number == REPOSITORY:
            self.query_one("#repository-question", Plain).update(
                f"Which repository of {self._server_name}?"
            )
            self.query_one("#server-before", Plain).update(f"{self._login_server}/")
            self.query_one("#path", Input).placeholder = (
                "library/nginx or library/*"
                if self._login_server == "docker.io"
                else "app, team/app or team/*"
            )
        elif number == TARGET:
            self.query_one("#address", Plain).update(f"{self.app.address}/")
            proposed = (self._checked_rule.proposed_target if self._checked_rule else None) or ""
            target = self.query_one("#target", Input)
            if target.value.strip() in {"", self._proposed_target}:
                target.value = self._proposed_target = proposed
        elif number == SIGN_IN_STEP:
            await self._offer_sets()
        elif number == FRESHNESS:
            self._offer_freshness()
        elif number == REVIEW:
            name = self.query_one("#name", Input)
            if name.value.strip() in {"", self._proposed_name}:
                taken = {each.name.casefold() for each in await self.app.client.rules.list()}
                name.value = self._proposed_name = proposed_name(self._normal_source, taken)
            self._show_review()
        elif number == FIRST_PULL:
            self.query_one("#made", Plain).update(f"The cache rule {self._made} is made.")
            self.query_one("#image", Input).value = (
                self._target.removesuffix("*")
                if self._target.endswith("*")
                else f"{self._target}:latest"
            )

    async def _offer_sets(self, choose: str | None = None) -> None:
        upstream, checked = self._upstream, self._checked_rule
        sign_in = (
            checked.sign_in
            if checked is not None and checked.sign_in is not None
            else upstream.sign_in
            if upstream is not None
            else SignIn.OPTIONAL
        )
        login_server = (checked.login_server if checked else None) or self._login_server
        question, why = {
            SignIn.NONE: (
                f"{self._server_name} takes no credentials.",
                "All its pulls are unauthenticated, so a credential set could not be made use of.",
            ),
            SignIn.OPTIONAL: (
                f"How does it sign in to {login_server}? It may also do without.",
                "Private repositories need a credential set; for public ones it often means a higher limit.",
            ),
            SignIn.REQUIRED: (
                f"How does it sign in to {login_server}? Without credentials it lets nobody pull.",
                "A rule for this registry needs a credential set. Several rules can share one.",
            ),
        }[sign_in]
        self.query_one("#sign-in-question", Plain).update(question)
        self.query_one("#sign-in-teach", Plain).update(
            f"{why} {self._TEACH[SIGN_IN_STEP]}" if sign_in is not SignIn.NONE else why
        )
        self._sets = (
            [
                each
                for each in await self.app.client.credential_sets.list()
                if each.login_server == login_server
            ]
            if sign_in is not SignIn.NONE
            else []
        )
        rows = []
        if sign_in is not SignIn.REQUIRED:
            rows.append(
                Row(NO_SET, (Cell("no credential set"), Cell("pull without signing in", "dim")))
            )
        for each in self._sets:
            word, tone = credential_set_health(each)
            rows.append(
                Row(
                    each.name,
                    (Cell(each.name, "accent"), Cell(f"{word}   {each.username_id}", tone)),
                )
            )
        if sign_in is not SignIn.NONE:
            rows.append(
                Row(
                    NEW_SET,
                    (Cell("+ new credential set"), Cell("make one now, and come back here", "dim")),
                )
            )
        found = self.query_one("#sets", RowList)
        show_all_rows(rows, found)
        if choose is not None:
            found.move_to(choose)

    def _offer_freshness(self) -> None:
        rows = [
            Row(each.id, (Cell(each.title, "accent"), Cell(each.short, "dim")))
            for each in freshness_choices(self._settings_freshness)
        ]
        show_all_rows(rows, self.query_one("#freshness", RowList))
        self._show_freshness()

    def _show_freshness(self) -> None:
        row = self.query_one("#freshness", RowList).current
        chosen = row.key if row is not None else DEFAULT
        self.query_one("#interval-entry").display = chosen == INTERVAL
        why = next(
            each.why for each in freshness_choices(self._settings_freshness) if each.id == chosen
        )
        self.query_one("#freshness-teach", Plain).update(f"{why}\n{self._TEACH[FRESHNESS]}")

    @property
    def _settings_freshness(self) -> str:
        return self.app.status.freshness if self.app.status is not None else "5 min"

    def _show_review(self) -> None:
        name, source, target, chosen, freshness = self._review_of()
        signs_in = f"It signs in with {chosen}" if chosen else "It pulls without signing in"
        believed = {
            None: f"tags are believed as the settings say, now {self._settings_freshness}",
            "always": "the source is asked each time",
        }.get(
            freshness,
            "a tag that is held is never asked about again"
            if freshness == "never"
            else f"tags are believed for {freshness}",
        )
        told = Text(
            f"{source} appears as {self.app.address}/{target}.\n{signs_in}; {believed}.\n\n"
        )
        told.append("The same as a command (y copies):\n", "dim").append(
            f"{rule_command(name, source, target, chosen, freshness, width=self.text_width)}\n\n"
        )
        told.append("The same in rules.toml (Y copies):\n", "dim").append(
            f"{rule_toml(name, source, target, chosen, freshness)}\n\n"
        )
        told.append(
            "Credential set and freshness can be changed later. Name, source and target can't: delete the rule and make another.",
            "dim",
        )
        self.query_one("#review", ReviewText).show(told)

    # The engine's word

    async def check(self) -> bool:
        """Ask the engine about what has been entered up to this step."""
        step = self.current
        if step == FIRST_PULL:
            return True
        if step == SOURCE:
            return await self._check_source()
        if step == FRESHNESS:
            self._show_freshness()
        checked = await self.app.client.rules.validate(
            name=self._rule_name if step >= REVIEW else None,
            source_repository=self._source,
            target_repository=self._target if step >= TARGET else None,
            credential_set=self._credential_set if step >= SIGN_IN_STEP else None,
            freshness=self._freshness if step >= FRESHNESS else None,
        )
        if step != self.current:
            return False
        self._checked_rule = checked
        if step == REPOSITORY:
            self._said = checked.remarks
            return self._show(
                checked,
                "#repository-feedback",
                ("sourceRepository",),
                self._fine_source(checked),
                needed=self.query_one("#path", Input).value,
            )
        if step == TARGET:
            return self._show(
                checked,
                "#target-feedback",
                ("sourceRepository", "targetRepository"),
                self._fine_target(checked),
                needed=self._target,
            )
        if step == SIGN_IN_STEP:
            row = self.query_one("#sets", RowList).current
            if row is not None and row.key == NEW_SET:
                self.query_one("#sign-in-feedback", Feedback).show(None)
                return True
            return self._show(checked, "#sign-in-feedback", ("credentialSet",), "", remarks=False)
        if step == FRESHNESS:
            return self._show(
                checked,
                "#freshness-feedback",
                ("freshness",),
                "",
                needed=self._freshness_typed,
                remarks=False,
            )
        self._show_review()
        fine = self._show(checked, "#name-feedback", (), "Fine: the name is free.", remarks=False)
        if (
            not fine
            and first_problem(checked.problems, ("name",)) is not None
            and self.focused is self.query_one("#review")
        ):
            self.query_one("#name").focus()
        return fine

    async def _check_source(self) -> bool:
        types, upstream = self._types_server, self._upstream
        self.query_one("#own-entry").display = types
        feedback = self.query_one("#source-feedback", Feedback)
        if not types:
            if upstream is None:
                return False
            # A registry of the list can be pulled from; a book that is full is told before anything
            # is typed.
            checked = await self.app.client.rules.validate(
                source_repository=f"{upstream.login_server}/*"
            )
            if self.current != SOURCE:
                return False
            full = next((each for each in checked.problems if each.field is None), None)
            feedback.show(full, remarks=self._about(upstream))
            return full is None
        if not self._login_server:
            pattern = upstream is not None
            remark = (
                f"{upstream.name} has many registries: tab, then type the login server of yours, such as {upstream.login_server.replace('*', 'contoso')}."
                if upstream is not None and pattern
                else "Registries beyond this list have to be declared by the administrator, in settings.toml: tab, then type the login server of one."
            )
            feedback.show(None, remarks=(remark,))
            return False
        # Everything of a registry is a source that nothing but the registry itself can be wrong
        # with.
        checked = await self.app.client.rules.validate(source_repository=f"{self._login_server}/*")
        if self.current != SOURCE:
            return False
        problem = first_problem(checked.problems, ("sourceRepository", None))
        feedback.show(
            problem,
            f"Fine: {checked.login_server} {SIGN_IN[checked.sign_in or SignIn.OPTIONAL]}."
            if problem is None
            else "",
        )
        return problem is None

    def _about(self, upstream: SourceRegistrySnapshot) -> tuple[str, ...]:
        """What a registry asks for, and how many rules there may be."""
        asks = {
            SignIn.NONE: "It serves unauthenticated pulls only, so its rules have no credential set.",
            SignIn.OPTIONAL: "Public repositories need no credentials; a credential set opens private ones.",
            SignIn.REQUIRED: "It serves authenticated pulls only: without a credential set its rules are refused.",
        }[upstream.sign_in]
        status = self.app.status
        of_all = (
            f" There may be {status.rules_limit:,} rules; {counted(status.rules, 'is', 'are')} made."
            if status is not None
            else ""
        )
        return (f"{asks}{of_all}",)

    def _show(
        self,
        checked: CheckedRule,
        feedback: str,
        fields: tuple[str, ...],
        fine: str,
        *,
        needed: str = "x",
        remarks: bool = True,
    ) -> bool:
        """Show the first problem of *fields* (without any: of all); nothing is held against a field
        that is still empty."""
        problem = (
            first_problem(checked.problems, fields)
            if fields
            else next(iter(checked.problems), None)
        )
        # What belongs to no field, such as a book that is full, stands in the way of every step.
        problem = problem or next((each for each in checked.problems if each.field is None), None)
        # What was said of the repository need not be said of the target again.
        new = (
            ()
            if not remarks
            else checked.remarks
            if self.current == REPOSITORY
            else tuple(each for each in checked.remarks if each not in self._said)
        )
        shown = (
            problem if needed.strip() or (problem is not None and problem.field is None) else None
        )
        self.query_one(feedback, Feedback).show(
            shown, fine if problem is None else "", new if problem is None else ()
        )
        return problem is None

    def _fine_source(self, checked: CheckedRule) -> str:
        upstream = self._upstream
        using = (
            f"   {counted(upstream.rules, 'rule uses', 'rules use')} {upstream.login_server} already."
            if upstream is not None and upstream.rules
            else ""
        )
        return f"Fine: {checked.source_repository}{using}"

    def _fine_target(self, checked: CheckedRule) -> str:
        return f"Fine: {self.app.address}/{self._target} comes from {checked.source_repository}"

    # Going on

    async def advance_within_step(self, number: int) -> bool:
        """Enter on what asks for a text goes to that text first."""
        if number == SOURCE and self._types_server and self.focused is self.query_one("#sources"):
            self.query_one("#own-entry").display = True
            self.query_one("#login-server").focus()
            return True
        if number == FRESHNESS and self.focused is self.query_one("#freshness"):
            row = self.query_one("#freshness", RowList).current
            if row is not None and row.key == INTERVAL:
                self.query_one("#interval-entry").display = True
                self.query_one("#interval").focus()
                return True
        if number == FIRST_PULL and self.focused is self.query_one("#image"):
            self.query_one("#platform").focus()
            return True
        return False

    def is_last(self, number: int) -> bool:
        """The review makes the rule; the first pull ends the wizard."""
        return number >= REVIEW

    async def take(self) -> None:
        """Make the rule, or begin its first pull."""
        if self.current == FIRST_PULL:
            await self._begin_first_pull()
            return
        try:
            await self.app.client.rules.create(
                self._rule_name,
                self._source,
                self._target,
                self._credential_set or None,
                self._freshness,
            )
        except EngineRefused as error:
            self.query_one("#name-feedback", Feedback).show(
                Problem(code=error.code, message=error.message, field=error.field)
            )
            return
        self._made = self._rule_name
        await self.go_to(FIRST_PULL)

    async def _begin_first_pull(self) -> None:
        image = own_path(self.query_one("#image", Input).value, self.app.address)
        platform = self.query_one("#platform", Input).value.strip()
        try:
            await self.app.client.pulls.start(image, platform or None, asked_by="dashboard")
        except EngineRefused as error:
            self.query_one("#pull-feedback", Feedback).show(
                Problem(code=error.code, message=error.message, field=error.field)
            )
            self.query_one("#platform" if error.field == "platform" else "#image").focus()
        else:
            self.dismiss(CreatedRule(self._made or "", pulling=True))

    async def action_back(self) -> None:
        """One step back; once the rule is made, out."""
        if self.current == FIRST_PULL:
            self.action_quit_wizard()
        else:
            await super().action_back()

    def may_return_to(self, number: int) -> bool:
        """What is made is made."""
        return self._made is None

    def has_entries(self) -> bool:
        """Once the rule is made, nothing can be lost."""
        return self._made is None and super().has_entries()

    def outcome(self) -> CreatedRule | None:
        """The rule, if it is made."""
        return CreatedRule(self._made, pulling=False) if self._made is not None else None

    async def go_to(self, number: int) -> None:
        """On the way from sign-in a new credential set may have to be made first."""
        chosen = (
            self.query_one("#sets", RowList).current
            if number == FRESHNESS and self.current == SIGN_IN_STEP
            else None
        )
        if chosen is not None and chosen.key == NEW_SET:
            login_server = self._checked_rule.login_server if self._checked_rule else None
            made = await self.app.push_screen_wait(CredentialSetWizard(login_server=login_server))
            await self._offer_sets(choose=made)
            return
        await super().go_to(number)

    @on(RowList.Opened)
    def _opened(self) -> None:
        self.action_next()
