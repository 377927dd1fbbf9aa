"""The wizard for a cache rule."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Input, Static

from entrepot.client import EngineRefused
from entrepot.snapshots import CheckedRule, CredentialSetSnapshot, Problem, SignIn, UpstreamSnapshot
from entrepot.words import counted
from tui.presentation import HEALTH, SIGN_IN
from tui.wizards.credential_set import CredentialSetWizard
from tui.wizards.wizard import Feedback, Wizard, first_problem
from widgets.row_list import Cell, Column, Row, RowList

SOURCE, REPOSITORY, TARGET, SIGN_IN_STEP, REVIEW, FIRST_PULL = range(6)

NO_SET = "-"
NEW_SET = "+"

NAME_LENGTH = 50

COMMAND_WIDTH = 70
"""Columns after which a command goes on in a new line."""


@dataclass(frozen=True, slots=True)
class MadeRule:
    """The rule that was made, and whether its first pull has begun."""

    name: str
    pulling: bool


def cli_line(name: str, source: str, target: str, credential_set: str | None) -> str:
    """The same as a command."""
    options = [f"--name {name}", f"--source-repo '{source}'", f"--target-repo '{target}'"]
    if credential_set:
        options.append(f"--cred-set {credential_set}")
    lines = ["entrepot rule create"]
    for option in options:
        if len(lines[-1]) + len(option) + 1 > COMMAND_WIDTH:
            lines.append("   ")
        lines[-1] += f" {option}"
    return " \\\n".join(lines)


def toml(name: str, source: str, target: str, credential_set: str | None) -> str:
    """The same as an entry of rules.toml."""
    lines = ["[[rules]]", f'name = "{name}"', f'source_repository = "{source}"', f'target_repository = "{target}"']
    return "\n".join([*lines, *([f'credential_set = "{credential_set}"'] if credential_set else [])])


def proposed_name(source: str) -> str:
    """A name made from the source: ``docker-io-library`` for ``docker.io/library/*``; at least five characters."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", source.removesuffix("/*")).strip("-")[:NAME_LENGTH].strip("-")
    return name if len(name) >= 5 else f"{name}-rule"


class RuleWizard(Wizard[MadeRule | None]):
    """Source, repository, target, sign-in, review, first pull."""

    wizard_title = "New cache rule"
    steps = ("Source", "Repository", "Target", "Sign-in", "Review", "First pull")

    DEFAULT_CSS = """
    RuleWizard #review-text { margin: 1 0 0 2; height: auto; }
    """
    _TEACH: ClassVar[dict[int, str]] = {
        SOURCE: "Others can be declared in settings.toml by the administrator.",
        REPOSITORY: (
            "One repository, such as library/nginx, or everything below a path with /* at the end: library/*\nLeave out tags: a rule covers all of them."
        ),
        TARGET: (
            "The path under which clients find it here. End it with /* if the source does, and only then.\n"
            "Two wildcard targets may not overlap; a target for one repository may stand inside a wildcard, and wins there."
        ),
        REVIEW: "Source and target can't be changed later, only the credential set can.",
    }

    def __init__(self) -> None:
        super().__init__()
        self._upstreams: list[UpstreamSnapshot] = []
        self._sets: list[CredentialSetSnapshot] = []
        self._checked_rule: CheckedRule | None = None
        self._proposed_target = ""
        self._proposed_name = ""
        self._made: str | None = None

    def compose_step(self, number: int) -> ComposeResult:
        """The widgets of a step."""
        if number == SOURCE:
            yield Static("Which source registry does it pull from?", classes="question")
            yield RowList((Column("Registry", weight=1), Column("Login server", 26), Column("Credentials", 20)), id="sources", header=False)
            yield Static(self._TEACH[SOURCE], classes="teach", markup=False)
        elif number == REPOSITORY:
            yield Static("Which repository?", classes="question", id="repository-question")
            with Horizontal(classes="entry"):
                yield Static("", id="login-server", markup=False)
                yield Input(id="path", compact=True, select_on_focus=False, placeholder="library/nginx")
            yield Feedback(id="repository-feedback")
            yield Static(self._TEACH[REPOSITORY], classes="teach", markup=False)
        elif number == TARGET:
            yield Static("Where does it appear here?", classes="question")
            with Horizontal(classes="entry"):
                yield Static("", id="address", markup=False)
                yield Input(id="target", compact=True, select_on_focus=False)
            yield Feedback(id="target-feedback")
            yield Static(self._TEACH[TARGET], classes="teach", markup=False)
        elif number == SIGN_IN_STEP:
            yield Static("How does it sign in?", classes="question", id="sign-in-question")
            yield RowList((Column("", 22), Column("", weight=1)), id="sets", header=False)
            yield Feedback(id="sign-in-feedback")
        elif number == REVIEW:
            yield Static("What shall the rule be called?", classes="question")
            with Horizontal(classes="entry"):
                yield Input(id="name", compact=True, select_on_focus=False, max_length=60)
            yield Feedback(id="name-feedback")
            yield Static("", id="review-text", markup=False)
            yield Static(self._TEACH[REVIEW], classes="teach", markup=False)
        else:
            yield Static("", classes="question", id="made", markup=False)
            yield Static("Which image shall be pulled first?", classes="label")
            with Horizontal(classes="entry"):
                yield Input(id="image", compact=True, select_on_focus=False)
            yield Static("For which platform? Empty means that of the engine's machine.", classes="label")
            with Horizontal(classes="entry"):
                yield Input(id="platform", compact=True, select_on_focus=False, placeholder="linux/amd64")
            yield Feedback(id="pull-feedback")
            yield Static("enter pulls it, esc leaves it to your container clients.", classes="teach")

    def focus_of(self, number: int) -> str | None:
        """What has the focus in a step."""
        return ("#sources", "#path", "#target", "#sets", "#name", "#image")[number]

    # What was entered

    @property
    def _upstream(self) -> UpstreamSnapshot | None:
        row = self.query_one("#sources", RowList).current
        return next((each for each in self._upstreams if row is not None and each.login_server == row.key), None)

    @property
    def _source(self) -> str:
        path = self.query_one("#path", Input).value.strip()
        upstream = self._upstream
        return path if upstream is None or upstream.login_server.startswith("*.") else f"{upstream.login_server}/{path}"

    @property
    def _target(self) -> str:
        return self.query_one("#target", Input).value.strip()

    @property
    def _rule_name(self) -> str:
        return self.query_one("#name", Input).value.strip()

    @property
    def _credential_set(self) -> str:
        """The name of the chosen set; empty for none."""
        row = self.query_one("#sets", RowList).current
        return row.key if row is not None and row.key not in {NO_SET, NEW_SET} else ""

    @property
    def _normal_source(self) -> str:
        return (self._checked_rule.source_repository if self._checked_rule else None) or self._source

    # Steps

    async def prepare(self, number: int) -> None:
        """Fill a step in with what follows from those before it."""
        if number == SOURCE and not self._upstreams:
            self._upstreams = await self.app.client.upstreams()
            rows = [
                Row(each.login_server, (Cell(each.name, "accent"), Cell(each.login_server), Cell(SIGN_IN[each.sign_in], "dim"))) for each in self._upstreams
            ]
            self.query_one("#sources", RowList).set_rows(rows)
        elif number == REPOSITORY and (upstream := self._upstream) is not None:
            pattern = upstream.login_server.startswith("*.")
            self.query_one("#repository-question", Static).update(f"Which repository of {upstream.name}?")
            self.query_one("#login-server", Static).update("" if pattern else f"{upstream.login_server}/")
            path = self.query_one("#path", Input)
            path.placeholder = f"{upstream.login_server.replace('*', 'contoso')}/app" if pattern else "library/nginx or library/*"
        elif number == TARGET:
            self.query_one("#address", Static).update(f"{self.app.address}/")
            proposed = (self._checked_rule.proposed_target if self._checked_rule else None) or ""
            target = self.query_one("#target", Input)
            if target.value.strip() in {"", self._proposed_target}:
                target.value = self._proposed_target = proposed
        elif number == SIGN_IN_STEP:
            await self._offer_sets()
        elif number == REVIEW:
            name = self.query_one("#name", Input)
            if name.value.strip() in {"", self._proposed_name}:
                name.value = self._proposed_name = proposed_name(self._normal_source)
            self._show_review()
        elif number == FIRST_PULL:
            self.query_one("#made", Static).update(f"The cache rule {self._made} is made.")
            self.query_one("#image", Input).value = self._target.removesuffix("*") if self._target.endswith("*") else f"{self._target}:latest"

    async def _offer_sets(self, choose: str | None = None) -> None:
        upstream, checked = self._upstream, self._checked_rule
        sign_in = checked.sign_in if checked is not None and checked.sign_in is not None else upstream.sign_in if upstream is not None else SignIn.OPTIONAL
        login_server = (checked.login_server if checked else None) or (upstream.login_server if upstream else "")
        name = upstream.name if upstream is not None else login_server
        question = {
            SignIn.NONE: f"{name} takes no credentials: all its pulls are unauthenticated.",
            SignIn.OPTIONAL: f"How does it sign in to {login_server}? It may also do without.",
            SignIn.REQUIRED: f"How does it sign in to {login_server}? Without credentials it lets nobody pull.",
        }
        self.query_one("#sign-in-question", Static).update(question[sign_in])
        self._sets = [each for each in await self.app.client.credential_sets() if each.login_server == login_server] if sign_in is not SignIn.NONE else []
        rows = []
        if sign_in is not SignIn.REQUIRED:
            rows.append(Row(NO_SET, (Cell("no credential set"), Cell("pull without signing in", "dim"))))
        for each in self._sets:
            word, tone = HEALTH[each.health]
            rows.append(Row(each.name, (Cell(each.name, "accent"), Cell(f"{word}   {each.username_id}", tone))))
        if sign_in is not SignIn.NONE:
            rows.append(Row(NEW_SET, (Cell("+ new credential set"), Cell("make one now, and come back here", "dim"))))
        found = self.query_one("#sets", RowList)
        found.set_rows(rows)
        if choose is not None:
            found.move_to(choose)

    def _show_review(self) -> None:
        name, source, target, chosen = self._rule_name or "NAME", self._normal_source, self._target, self._credential_set or None
        told = f"{cli_line(name, source, target, chosen)}\n\n{toml(name, source, target, chosen)}"
        self.query_one("#review-text", Static).update(told)

    # The engine's word

    async def check(self) -> bool:
        """Ask the engine about what has been entered up to this step."""
        step = self.current
        if step == SOURCE:
            return self._upstream is not None
        if step == FIRST_PULL:
            return True
        checked = await self.app.client.check_rule(
            name=self._rule_name if step >= REVIEW else None,
            source_repository=self._source,
            target_repository=self._target if step >= TARGET else None,
            credential_set=self._credential_set if step >= SIGN_IN_STEP else None,
        )
        if step != self.current:
            return False
        self._checked_rule = checked
        if step == REPOSITORY:
            return self._show(checked, "#repository-feedback", ("sourceRepository",), self._fine_source(checked), needed=self.query_one("#path", Input).value)
        if step == TARGET:
            return self._show(checked, "#target-feedback", ("sourceRepository", "targetRepository"), self._fine_target(checked), needed=self._target)
        if step == SIGN_IN_STEP:
            row = self.query_one("#sets", RowList).current
            if row is not None and row.key == NEW_SET:
                self.query_one("#sign-in-feedback", Feedback).show(None)
                return True
            return self._show(checked, "#sign-in-feedback", ("credentialSet",), "")
        self._show_review()
        return self._show(checked, "#name-feedback", ("name", "sourceRepository", "targetRepository", "credentialSet"), "Fine: the name is free.")

    def _show(self, checked: CheckedRule, feedback: str, fields: tuple[str, ...], fine: str, *, needed: str = "x") -> bool:
        """Show the first problem of *fields*; nothing is held against a field that is still empty."""
        problem = first_problem(checked.problems, fields)
        problem = problem or (checked.problems[0] if checked.problems and not fields else None)
        shown = problem if needed.strip() else None
        self.query_one(feedback, Feedback).show(shown, fine if problem is None else "", checked.remarks if problem is None else ())
        return problem is None

    def _fine_source(self, checked: CheckedRule) -> str:
        upstream = self._upstream
        using = f"   {counted(upstream.rules, 'rule uses', 'rules use')} {upstream.login_server} already." if upstream is not None and upstream.rules else ""
        return f"Fine: {checked.source_repository}{using}"

    def _fine_target(self, checked: CheckedRule) -> str:
        return f"Fine: {self.app.address}/{self._target} comes from {checked.source_repository}"

    # Going on

    def is_last(self, number: int) -> bool:
        """The review makes the rule; the first pull ends the wizard."""
        return number >= REVIEW

    async def take(self) -> None:
        """Make the rule, or begin its first pull."""
        if self.current == FIRST_PULL:
            await self._begin_first_pull()
            return
        try:
            await self.app.client.create_rule(self._rule_name, self._source, self._target, self._credential_set or None)
        except EngineRefused as error:
            self.query_one("#name-feedback", Feedback).show(Problem(code=error.code, message=error.message, field=error.field))
            return
        self._made = self._rule_name
        await self.go_to(FIRST_PULL)

    async def _begin_first_pull(self) -> None:
        image = self.query_one("#image", Input).value.strip()
        platform = self.query_one("#platform", Input).value.strip()
        try:
            await self.app.client.start_pull(image, platform or None, asked_by="dashboard")
        except EngineRefused as error:
            self.query_one("#pull-feedback", Feedback).show(Problem(code=error.code, message=error.message, field=error.field))
        else:
            self.dismiss(MadeRule(self._made or "", pulling=True))

    async def action_back(self) -> None:
        """One step back; once the rule is made, out."""
        if self.current == FIRST_PULL:
            self.action_leave_wizard()
        else:
            await super().action_back()

    def action_leave_wizard(self) -> None:
        """Leave, with the rule if it is made."""
        self.dismiss(MadeRule(self._made, pulling=False) if self._made is not None else None)

    async def go_to(self, number: int) -> None:
        """On the way from sign-in a new credential set may have to be made first."""
        chosen = self.query_one("#sets", RowList).current if number == REVIEW and self.current == SIGN_IN_STEP else None
        if chosen is not None and chosen.key == NEW_SET:
            login_server = self._checked_rule.login_server if self._checked_rule else None
            made = await self.app.push_screen_wait(CredentialSetWizard(login_server=login_server))
            await self._offer_sets(choose=made)
            return
        await super().go_to(number)

    @on(RowList.Opened)
    def _opened(self) -> None:
        self.action_next()
