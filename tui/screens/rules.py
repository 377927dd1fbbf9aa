"""Cache rules."""

from __future__ import annotations

import time
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from entrepot.api.client import ClientError
from entrepot.api.models import RuleMatch, RuleSnapshot
from entrepot.core.states import SignIn
from tui.key_queue import opens_screen
from tui.presentation.credentials import credential_set_health
from tui.presentation.deletion import rule_plan_text
from tui.presentation.matches import match_lines, rule_to_show
from tui.presentation.rules import rule_command, rule_facts, rule_lines, rule_row, rule_toml
from tui.screens.base import ListScreen
from tui.wizards.importing import ImportWizard
from tui.wizards.rule import RuleWizard
from widgets.detail import Detail
from widgets.dialogs.line_prompt import LinePrompt, LineVerdict
from widgets.dialogs.question import Choice, Question
from widgets.dialogs.select import Option, SelectDialog
from widgets.row_list import Column, Row, RowList

NO_SET = ""
"""Stands for no credential set where one is chosen."""


class RulesScreen(ListScreen):
    """Which source repository appears here, and where."""

    area = 1
    FOLLOWS_REVISION = True
    thing = "rule"
    FOR_A_ROW = frozenset({"pull", "delete", "sign_in", "freshness", "copy"})
    CHANGES = frozenset({"new", "import_rules", "pull", "delete", "sign_in", "freshness"})
    title_text = "Cache rules"
    empty_text = (
        "There is no cache rule yet.\n\n"
        "A rule maps a repository of a source registry, say docker.io/library/*, onto one of yours, say library/*. "
        "The first pull of an image leaves a copy here, which serves every pull after it.\n\n"
        "Press n to make the first one."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "new", tooltip="Make a cache rule", id="rules.new"),
        Binding(
            "p",
            "pull",
            "pull",
            tooltip="Pull an image through the rule under the cursor",
            id="rules.pull",
        ),
        Binding(
            "s",
            "sign_in",
            "sign-in",
            tooltip="Give the rule another credential set, or none",
            id="rules.sign-in",
        ),
        Binding(
            "i",
            "import_rules",
            "import",
            tooltip="Make several rules from a TOML file, all of them or none",
            id="rules.import",
        ),
        Binding(
            "d",
            "delete",
            "delete",
            tooltip="Delete the rule under the cursor; what it cached stays",
            id="rules.delete",
        ),
        Binding(
            "w",
            "which",
            "which",
            tooltip="Ask which rule answers for an image or a repository",
            id="rules.which",
        ),
        Binding(
            "y",
            "copy",
            "copy",
            tooltip="Copy the rule as a command, or as an entry of rules.toml",
            id="rules.copy",
        ),
        Binding(
            "f",
            "freshness",
            "freshness",
            tooltip="Say how long tags that come through the rule are believed",
            id="rules.freshness",
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._rules: dict[str, RuleSnapshot] = {}
        self._seen: list[RuleSnapshot] | None = None

    def lists(self) -> ComposeResult:
        """Name, source, target, sign-in, pulls, last use."""
        yield RowList(
            (
                Column("Name", 16),
                Column("Source", weight=3),
                Column("Target", weight=2),
                Column("Sign-in", 12, needs=78),
                Column("Pulls", 7, right=True, needs=100),
                Column("Used", 6, right=True),
            ),
            id="list",
        )

    async def fetch(self) -> None:
        """All rules."""
        found = await self.app.client.rules.list()
        if found == self._seen:
            self.show_again()
            return
        self._seen = found
        self._rules = {rule.name: rule for rule in found}
        self.show_rows([rule_row(rule, time.time) for rule in found])

    def detail(self, row: Row) -> Detail:
        """The rule in sentences and facts."""
        rule, now = self._rules[row.key], time.time()
        return Detail(
            rule.name,
            rule_lines(rule, now),
            rule_facts(rule, now),
            ("enter shows what came through it.",),
        )

    @property
    def _current(self) -> RuleSnapshot | None:
        row = self.row_list.current
        return self._rules[row.key] if row is not None else None

    @opens_screen()
    async def action_new(self) -> None:
        """Open the wizard."""
        made = await self.app.push_screen_wait(RuleWizard())
        if made is not None:
            self.poll()
            if made.pulling:
                await self.app.show_area("Pulls")

    @opens_screen()
    async def action_import_rules(self) -> None:
        """Open the wizard for a file of rules."""
        if await self.app.push_screen_wait(ImportWizard()):
            self.poll()

    @on(RowList.Opened, "#list")
    async def _open(self, event: RowList.Opened) -> None:
        """Show what came through the rule."""
        await self.app.show_filtered("Repositories", event.row.key)

    def action_pull(self) -> None:
        """Pull an image through the rule."""
        if (rule := self._current) is not None:
            target = rule.target_repository
            self.app.prompt_pull(
                target.removesuffix("*") if target.endswith("*") else f"{target}:latest"
            )

    @opens_screen()
    async def action_sign_in(self) -> None:
        """Choose another credential set for the rule, or none."""
        rule = self._current
        if rule is None:
            return
        try:
            sets = [
                each
                for each in await self.app.client.credential_sets.list()
                if each.login_server == rule.login_server
            ]
            checked = await self.app.client.rules.validate(source_repository=rule.source_repository)
        except ClientError as error:
            self.app.notify(error.message, severity="error")
            return
        options = [Option(each.name, each.name, credential_set_health(each)[0]) for each in sets]
        if checked.sign_in is not SignIn.REQUIRED:
            options.append(Option(NO_SET, "no credential set", "pulls without signing in"))
        if checked.sign_in is SignIn.NONE:
            text = f"{rule.login_server} takes no credentials: all its pulls are unauthenticated."
        elif not sets:
            needed = " Pulls from there need one." if checked.sign_in is SignIn.REQUIRED else ""
            text = f"There is no credential set for {rule.login_server}.{needed} Make one with n in Credentials."
        else:
            text = f"It is used for {rule.source_repository} from the next request on."
        if not options:
            self.app.notify(text, severity="warning")
            return

        async def submit(name: str) -> str:
            try:
                await self.app.client.rules.update(rule.name, name or None)
            except ClientError as error:
                return f"Not possible: {error.message}"
            return ""

        asked = SelectDialog(
            f"How does {rule.name} sign in?",
            text,
            options,
            selected=rule.credential_set or NO_SET,
            submit=submit,
        )
        taken = await self.app.push_screen_wait(asked)
        if taken is not None:
            self.app.notify(
                f"{rule.name} signs in with {taken}."
                if taken
                else f"{rule.name} signs in with no credential set."
            )
            self.poll_now()

    @opens_screen()
    async def action_which(self) -> None:
        """Which rule answers for an image or a repository? Enter goes to that rule."""
        answers: dict[str, RuleMatch] = {}

        async def judge(text: str) -> LineVerdict:
            if not text:
                return LineVerdict("")
            try:
                answers[text] = await self.app.client.rules.match(text)
            except ClientError as error:
                return LineVerdict(error.message, refused=True)
            return LineVerdict("\n".join(match_lines(answers[text])))

        asked = LinePrompt(
            "Which rule answers for ...?",
            "An image or a repository, by its name here or at its source.",
            judge=judge,
            hint="library/nginx:1.27",
            verb="goes to the rule",
        )
        taken = await self.app.push_screen_wait(asked)
        name = rule_to_show(answers[taken]) if taken in answers else None
        if name is not None:
            self.action_clear_filter()
            self.row_list.move_to(name)

    @opens_screen()
    async def action_freshness(self) -> None:
        """Say how long tags are believed before the source is asked again."""
        rule = self._current
        if rule is None:
            return

        async def judge(text: str) -> LineVerdict:
            if not text:
                return LineVerdict("The rule takes the freshness of the settings.")
            try:
                checked = await self.app.client.rules.validate(freshness=text)
            except ClientError as error:
                return LineVerdict(error.message, refused=True)
            if checked.problems:
                return LineVerdict(f"Not possible: {checked.problems[0].message}", refused=True)
            return LineVerdict(
                f"A tag that was checked is believed: {text}. Then the source is asked once, and what is held is served if it does not answer."
            )

        async def submit(text: str) -> LineVerdict:
            try:
                await self.app.client.rules.update(rule.name, freshness=text or None)
            except ClientError as error:
                return LineVerdict(f"Not possible: {error.message}", refused=True)
            return LineVerdict("")

        asked = LinePrompt(
            f"How long are the tags of {rule.name} believed?",
            f"Now {rule.freshness_in_force}{'' if rule.freshness else ', as the settings say'}. "
            "Write always, never, 30 s, 10 min, 1 h, or nothing to leave it to the settings.",
            judge=judge,
            submit=submit,
            value=rule.freshness or "",
            hint="as the settings say",
        )
        taken = await self.app.push_screen_wait(asked)
        if taken is not None:
            self.app.notify(f"{rule.name} has the freshness {taken or 'of the settings'}.")
            self.poll_now()

    @opens_screen()
    async def action_copy(self) -> None:
        """Copy the rule for another engine or a script."""
        if (rule := self._current) is not None:
            lines = {"command": rule_command(rule), "toml": rule_toml(rule)}
            options = [
                Option("command", "the command that makes it", preview=lines["command"]),
                Option("toml", "its entry of rules.toml", preview=lines["toml"]),
            ]
            chosen = await self.app.push_screen_wait(
                SelectDialog(f"Copy {rule.name}", "", options, verb="copies it")
            )
            if chosen is not None:
                self.app.copy_line(lines[chosen])

    @opens_screen()
    async def action_delete(self) -> None:
        """Delete the rule, after a question."""
        rule = self._current
        if rule is None:
            return
        try:
            plan = await self.app.client.rules.preview_delete(rule.name)
        except ClientError as error:
            self.app.notify(error.message, severity="error")
            return
        text = rule_plan_text(plan, rule.source_repository, rule.target_repository)
        answer = await self.app.push_screen_wait(
            Question(
                f"Delete the cache rule {rule.name}?",
                text,
                (Choice("keep", "Keep it"), Choice("delete", "Delete", danger=True)),
            )
        )
        if answer == "delete":
            try:
                await self.app.client.rules.delete(rule.name)
                self.app.notify(f"The cache rule {rule.name} is deleted.")
            except ClientError as error:
                self.app.notify(error.message, severity="error")
            self.poll_now()
