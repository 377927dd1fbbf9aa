"""Cache rules."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from entrepot.api.errors import ClientError
from entrepot.api.models import RuleMatch, RuleSnapshot
from entrepot.core.states import SignIn
from tui.key_queue import opens_screen
from tui.presentation.credentials import credential_set_health
from tui.presentation.deletion import rule_plan_text
from tui.presentation.matches import match_lines, rule_to_show
from tui.presentation.rules import rule_command, rule_facts, rule_lines, rule_row, rule_toml
from tui.screens.base import ListScreen
from tui.screens.deletion import Deletion, delete_after_question
from tui.screens.mirror_dialog import show_mirrors
from tui.screens.rule_readers import change_readers
from tui.wizards.first_rule import FirstRuleWizard
from tui.wizards.importing import ImportWizard
from tui.wizards.rule import RuleWizard
from widgets.detail import Detail
from widgets.dialogs.line_prompt import LinePrompt, LineVerdict
from widgets.dialogs.select import Option, SelectDialog
from widgets.row_list import Column, Row, RowList

NO_SET = ""
"""The option for no credential set."""

RULE_MIRROR, MIRROR = "rule-mirror", "mirror"
"""The options for clients that pull unchanged image names."""

_OF_RULE = "Clients go on to pull {}, and ask this engine first. Enter shows the clients."
_OF_ALL = "The same for the images of all rules."


class RulesScreen(ListScreen[RuleSnapshot]):
    """The cache rules: which source repository appears here, and under which name."""

    area = "Rules"
    FOLLOWS_REVISION = True
    thing = "rule"
    FOR_A_ROW = frozenset({"pull", "delete", "sign_in", "freshness", "readers", "copy"})
    CHANGES = frozenset(
        {"new", "import_rules", "pull", "delete", "sign_in", "freshness", "readers"}
    )
    title_text = "Cache rules"
    empty_text = (
        "There is no cache rule yet.\n\n"
        "A rule maps a repository of a source registry, say docker.io/library/*, to one here, say "
        "library/*. The first pull of an image leaves a copy here, which serves every pull after "
        "it.\n\n"
        "Press n to create the first one."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "new", tooltip="Create a cache rule", id="rules.new"),
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
            tooltip="Create several rules from a TOML file, all of them or none",
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
            tooltip="Show which rule applies to an image or a repository",
            id="rules.which",
        ),
        Binding(
            "y",
            "copy",
            "copy",
            tooltip="Copy the rule as a command, as an entry of rules.toml, or the configuration "
            "of clients that pull unchanged image names",
            id="rules.copy",
        ),
        Binding(
            "f",
            "freshness",
            "tag lifetime",
            tooltip="Set the tag lifetime: how long tags are trusted before the source is asked",
            id="rules.freshness",
        ),
        Binding(
            "r",
            "readers",
            "readers",
            tooltip="Say who may read what the rule under the cursor caches",
            id="rules.readers",
        ),
    ]

    def lists(self) -> ComposeResult:
        """Name, source, target, sign-in, readers, pulls, last use."""
        yield RowList(
            (
                Column("Name", 16),
                Column("Source", weight=3),
                Column("Target", weight=2),
                Column("Sign-in", 12, needs=78),
                Column("Readers", 16, needs=92),
                Column("Pulls", 7, right=True, needs=100),
                Column("Used", 6, right=True),
            ),
            id="list",
        )

    async def load(self) -> Sequence[RuleSnapshot]:
        """All rules."""
        return await self.app.client.rules.list()

    def key(self, model: RuleSnapshot) -> str:
        """Its name."""
        return model.name

    def row(self, model: RuleSnapshot) -> Row:
        """Its row."""
        return rule_row(model, time.time)

    def detail(self, model: RuleSnapshot) -> Detail:
        """The rule in sentences and facts."""
        now = time.time()
        return Detail(
            model.name,
            rule_lines(model, now),
            rule_facts(model, now),
            ("enter shows what came through it.",),
        )

    @opens_screen()
    async def action_new(self) -> None:
        """Open the wizard."""
        wizard = RuleWizard() if self.row_list.total else FirstRuleWizard()
        created = await self.app.push_screen_wait(wizard)
        if created is not None:
            self.poll()
            if created.pulling:
                await self.app.show_area("Pulls")

    @opens_screen()
    async def action_import_rules(self) -> None:
        """Open the wizard for a file of rules."""
        if await self.app.push_screen_wait(ImportWizard()):
            self.poll()

    @on(RowList.Opened, "#list")
    async def _open(self, event: RowList.Opened) -> None:
        """Show the repositories that came through the rule."""
        await self.app.show_filtered("Repositories", event.row.key)

    def action_pull(self) -> None:
        """Pull an image through the rule."""
        if (rule := self.current) is not None:
            target = rule.target_repository
            self.app.prompt_pull(
                target.removesuffix("*") if target.endswith("*") else f"{target}:latest"
            )

    @opens_screen()
    async def action_sign_in(self) -> None:
        """Choose another credential set for the rule, or none."""
        if (rule := self.current) is None:
            return
        client = self.app.client
        sets = await self.app.attempt(client.credential_sets.list())
        if sets is None:
            return
        sets = [each for each in sets if each.login_server == rule.login_server]
        checked = await self.app.attempt(
            client.rules.validate(source_repository=rule.source_repository)
        )
        if checked is None:
            return
        options = [Option(each.name, each.name, credential_set_health(each)[0]) for each in sets]
        if checked.sign_in is not SignIn.REQUIRED:
            options.append(Option(NO_SET, "no credential set", "pulls without signing in"))
        if checked.sign_in is SignIn.NONE:
            text = f"{rule.login_server} takes no credentials: all its pulls are unauthenticated."
        elif not sets:
            needed = " Pulls from there need one." if checked.sign_in is SignIn.REQUIRED else ""
            text = (
                f"There is no credential set for {rule.login_server}.{needed} "
                "Create one with n in Credentials."
            )
        else:
            text = f"It is used for {rule.source_repository} from the next request on."
        if not options:
            self.app.notify(text, severity="warning")
            return

        async def submit(name: str) -> str:
            try:
                await client.rules.update(rule.name, name or None)
            except ClientError as error:
                return f"Not possible: {error.message}"
            return ""

        name = await self.app.push_screen_wait(
            SelectDialog(
                f"How does {rule.name} sign in?",
                text,
                options,
                selected=rule.credential_set or NO_SET,
                submit=submit,
            )
        )
        if name is not None:
            self.app.notify(
                f"{rule.name} signs in with {name}."
                if name
                else f"{rule.name} signs in with no credential set."
            )
            self.poll_now()

    @opens_screen()
    async def action_which(self) -> None:
        """Show which rule applies to an image or a repository; enter goes to that rule."""
        matches: dict[str, RuleMatch] = {}

        async def judge(text: str) -> LineVerdict:
            if not text:
                return LineVerdict("")
            try:
                matches[text] = await self.app.client.rules.match(text)
            except ClientError as error:
                return LineVerdict(error.message, refused=True)
            return LineVerdict("\n".join(match_lines(matches[text])))

        image = await self.app.push_screen_wait(
            LinePrompt(
                "Which rule applies to ...?",
                "An image or a repository, by its name here or at its source.",
                judge=judge,
                hint="library/nginx:1.27",
                verb="goes to the rule",
            )
        )
        name = rule_to_show(matches[image]) if image in matches else None
        if name is not None:
            self.action_clear_filter()
            self.row_list.move_to(name)

    @opens_screen()
    async def action_freshness(self) -> None:
        """Set how long the tags of the rule are trusted before the source is asked again."""
        if (rule := self.current) is None:
            return

        async def judge(text: str) -> LineVerdict:
            if not text:
                return LineVerdict("The rule takes the default tag lifetime, from the settings.")
            try:
                checked = await self.app.client.rules.validate(freshness=text)
            except ClientError as error:
                return LineVerdict(error.message, refused=True)
            if checked.problems:
                return LineVerdict(f"Not possible: {checked.problems[0].message}", refused=True)
            return LineVerdict(
                f"A tag that was checked is trusted: {text}. Then the source is asked once, and "
                "what is cached is served if it does not answer."
            )

        async def submit(text: str) -> LineVerdict:
            try:
                await self.app.client.rules.update(rule.name, freshness=text or None)
            except ClientError as error:
                return LineVerdict(f"Not possible: {error.message}", refused=True)
            return LineVerdict("")

        lifetime = await self.app.push_screen_wait(
            LinePrompt(
                f"How long are the tags of {rule.name} trusted?",
                f"Now {rule.freshness_in_force}{'' if rule.freshness else ' (default)'}. "
                "Write always, never, 30 s, 10 min, 1 h, or nothing for the default.",
                judge=judge,
                submit=submit,
                value=rule.freshness or "",
                hint="default",
            )
        )
        if lifetime is not None:
            self.app.notify(f"Tag lifetime of {rule.name}: {lifetime or 'default'}.")
            self.poll_now()

    @opens_screen()
    async def action_readers(self) -> None:
        """Say who may read what the rule caches."""
        if (rule := self.current) is not None and await change_readers(self, rule):
            self.poll_now()

    @opens_screen()
    async def action_copy(self) -> None:
        """Copy the rule for another engine or a script."""
        if (rule := self.current) is None:
            return
        lines = {"command": rule_command(rule), "toml": rule_toml(rule)}
        options = [
            Option("command", "the command that creates it", preview=lines["command"]),
            Option("toml", "its entry of rules.toml", preview=lines["toml"]),
            Option(
                RULE_MIRROR,
                "configuration of clients",
                preview=_OF_RULE.format(rule.source_repository),
            ),
            Option(MIRROR, "configuration of clients, for all rules", preview=_OF_ALL),
        ]
        selected = await self.app.push_screen_wait(
            SelectDialog(f"Copy {rule.name}", "", options, verb="copies it")
        )
        if selected in lines:
            self.app.copy_line(lines[selected])
        elif selected is not None:
            await show_mirrors(self.app, rule.name if selected == RULE_MIRROR else None)

    @opens_screen()
    async def action_delete(self) -> None:
        """Delete the rule, after a question."""
        if (rule := self.current) is None:
            return
        client = self.app.client.rules
        await delete_after_question(
            self,
            Deletion(
                "cache rule",
                rule.name,
                client.preview_delete(rule.name),
                lambda plan: rule_plan_text(plan, rule.source_repository, rule.target_repository),
                lambda: client.delete(rule.name),
            ),
        )
