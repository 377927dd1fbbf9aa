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

from entrepot.api.errors import EngineRefused
from entrepot.api.models import CheckedRule, CredentialSetSnapshot, Problem, SourceRegistrySnapshot
from entrepot.core.readers import ReaderAccess
from entrepot.core.states import SignIn
from entrepot.formatting import counted
from tui.presentation.credentials import credential_set_health
from tui.presentation.drafts import rule_command, rule_toml
from tui.presentation.freshness import DEFAULT, INTERVAL, freshness_choices
from tui.presentation.sources import SIGN_IN
from tui.wizards.credential_set import CredentialSetWizard
from tui.wizards.reader_step import ReaderStep
from tui.wizards.registry_step import RegistryStep, without_prefix
from tui.wizards.wizard import Entry, Feedback, ReviewText, Wizard, first_problem, show_all_rows
from widgets.row_list import Cell, Column, Row, RowList
from widgets.text import Plain

SOURCE, REPOSITORY, TARGET, SIGN_IN_STEP, FRESHNESS, READERS, REVIEW, FIRST_PULL = range(8)

NO_SET = "-"
"""The key of the row for no credential set."""

NEW_SET = "+"
"""The key of the row that opens the wizard for a new credential set."""

NAME_LENGTH = 50
"""Characters of the longest name of a rule."""


@dataclass(frozen=True, slots=True)
class CreatedRule:
    """The rule that was created, and whether its first pull has begun."""

    name: str
    pulling: bool


def proposed_name(source: str, names: Collection[str] = ()) -> str:
    """A name made from the source.

    It is ``docker-io-library`` for ``docker.io/library/*``. It has at least five characters and is
    none of *names*, which are in lower case.
    """
    name = (
        re.sub(r"[^A-Za-z0-9]+", "-", source.removesuffix("/*")).strip("-")[:NAME_LENGTH].strip("-")
    )
    name = name if len(name) >= 5 else f"{name}-rule"
    number, proposed = 1, name
    while proposed.casefold() in names:
        number += 1
        proposed = f"{name[: NAME_LENGTH - len(str(number)) - 1].rstrip('-')}-{number}"
    return proposed


class RuleWizard(Wizard[CreatedRule | None]):
    """Source, repository, target, sign-in, tag lifetime, readers, review, first pull.

    The step for readers is left out where no reader can sign in.
    """

    wizard_title = "New cache rule"
    steps: ClassVar[tuple[str, ...]] = (
        "Source",
        "Repository",
        "Target",
        "Sign-in",
        "Tag lifetime",
        "Readers",
        "Review",
        "First pull",
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "y",
            "copy",
            "copy",
            tooltip="Copy the command that creates the same rule",
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
    _HELP: ClassVar[dict[int, str]] = {
        REPOSITORY: (
            "One repository: library/nginx. Or with /* at the end everything below a path, new "
            "repositories too: library/*, or * for all.\n"
            "Leave out tags and digests: a rule covers all of them. Names are in lower case."
        ),
        TARGET: (
            "The path under which clients find it here. It ends with /* if the source does, and "
            "only then.\n"
            "A target has one rule: two wildcards may not overlap, because then two sources could "
            "answer. One repository inside a wildcard may have a rule of its own, and that one "
            "wins.\n"
            "The target must not exist here yet: what is cached would change its source."
        ),
        SIGN_IN_STEP: "The credential set can be changed later.",
        FRESHNESS: (
            "It can be changed later. New tags are never fetched before a client asks for them."
        ),
    }

    def __init__(self) -> None:
        super().__init__()
        self._registry_step = RegistryStep(self)
        self._reader_step = ReaderStep(self)
        self._sets: list[CredentialSetSnapshot] = []
        self._verdict: CheckedRule | None = None
        self._proposed_target = ""
        self._proposed_name = ""
        self._shown_remarks: tuple[str, ...] = ()
        """The remarks that the step for the repository has shown."""
        self._created: str | None = None

    def compose_step(self, number: int) -> ComposeResult:
        """The widgets of a step."""
        if number == SOURCE:
            yield from self._registry_step.compose("Which source registry does it pull from?")
        elif number == REPOSITORY:
            yield Plain("Which repository?", classes="question", id="repository-question")
            with Horizontal(classes="entry"):
                yield Plain("", id="server-before")
                yield Entry(id="path", placeholder="library/nginx")
            yield Feedback(id="repository-feedback")
            yield Plain(self._HELP[REPOSITORY], classes="teach")
        elif number == TARGET:
            yield Plain("Where does it appear here?", classes="question")
            with Horizontal(classes="entry"):
                yield Plain("", id="address")
                yield Entry(id="target")
            yield Feedback(id="target-feedback")
            yield Plain(self._HELP[TARGET], classes="teach")
        elif number == SIGN_IN_STEP:
            yield Plain("How does it sign in?", classes="question", id="sign-in-question")
            yield RowList((Column("", 24), Column("", weight=1)), id="sets", header=False)
            yield Feedback(id="sign-in-feedback", classes="-close")
            yield Plain("", classes="teach", id="sign-in-teach")
        elif number == FRESHNESS:
            yield Plain(
                "How long is a tag trusted before the source is asked again?", classes="question"
            )
            yield RowList((Column("", 22), Column("", weight=1)), id="freshness", header=False)
            with Horizontal(classes="entry", id="interval-entry"):
                yield Plain("After:  ")
                yield Entry(id="interval", placeholder="10 min")
            yield Feedback(id="freshness-feedback", classes="-close")
            yield Plain("", classes="teach", id="freshness-teach")
        elif number == READERS:
            yield from self._reader_step.compose()
        elif number == REVIEW:
            yield Plain("Nothing is created yet. Is this what you want?", classes="question roomy")
            with Horizontal(classes="entry"):
                yield Plain("Name (tab)  ")
                yield Entry(id="name", max_length=60)
            yield Feedback(id="name-feedback", classes="-close")
            yield ReviewText(id="review")
        else:
            yield Plain("", classes="question", id="created")
            yield Plain(
                "Nothing is cached before it is pulled once. Which image is the first?",
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
                "esc pulls nothing: the first pull of a container client does the same.",
                classes="teach",
            )

    def focus_of(self, number: int) -> str | None:
        """What has the focus in a step."""
        return (
            "#registries",
            "#path",
            "#target",
            "#sets",
            "#freshness",
            "#readers",
            "#review",
            "#image",
        )[number]

    def omits(self, number: int) -> bool:
        """Readers are asked for only where some can sign in."""
        return number == READERS and self._reader_step.is_pointless

    # What the keys do now

    def enter_word(self) -> str:
        """What enter does now."""
        if self.current == REVIEW:
            return "create the rule"
        if self.current == FIRST_PULL:
            return "pull it" if self.focused is None or self.focused.id != "image" else "platform"
        return "next"

    def back_word(self) -> str:
        """What escape does now; once the rule is created there is no way back."""
        return "no pull now" if self.current == FIRST_PULL else super().back_word()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The keys for copying work in the review, where no letter is typed."""
        if action in {"copy", "copy_toml"}:
            return self.current == REVIEW and self.focused is not self.query_one("#name")
        return True

    def action_copy(self) -> None:
        """Copy the command."""
        self.app.copy_line(rule_command(*self._draft()))

    def action_copy_toml(self) -> None:
        """Copy the TOML."""
        self.app.copy_line(rule_toml(*self._draft()))

    # What was entered

    @property
    def _source(self) -> str:
        login_server = self._registry_step.login_server
        path = without_prefix(self.query_one("#path", Input).value, login_server)
        return f"{login_server}/{path}"

    @property
    def _target(self) -> str:
        return without_prefix(self.query_one("#target", Input).value, self.app.address)

    @property
    def _rule_name(self) -> str:
        return self.query_one("#name", Input).value.strip()

    @property
    def _credential_set(self) -> str:
        """The name of the selected set; empty for none."""
        row = self.query_one("#sets", RowList).current
        return row.key if row is not None and row.key not in {NO_SET, NEW_SET} else ""

    @property
    def _freshness(self) -> str | None:
        """The selected tag lifetime; None for the default, from the settings."""
        row = self.query_one("#freshness", RowList).current
        if row is None or row.key == DEFAULT:
            return None
        # For an interval that is not typed yet the engine must see an invalid one.
        return (self._freshness_typed or "?") if row.key == INTERVAL else row.key

    @property
    def _freshness_typed(self) -> str:
        return self.query_one("#interval", Input).value.strip()

    @property
    def _normalized_source(self) -> str:
        return (self._verdict.source_repository if self._verdict else None) or self._source

    def _draft(self) -> tuple[str, str, str, str | None, str | None, ReaderAccess]:
        return (
            self._rule_name or "NAME",
            self._normalized_source,
            self._target,
            self._credential_set or None,
            self._freshness,
            self._reader_step.access,
        )

    # Steps

    async def prepare(self, number: int) -> None:
        """Fill in a step with what follows from those before it."""
        if number == SOURCE:
            await self._registry_step.fill()
        elif number == REPOSITORY:
            login_server = self._registry_step.login_server
            self.query_one("#repository-question", Plain).update(
                f"Which repository of {self._registry_step.name}?"
            )
            self.query_one("#server-before", Plain).update(f"{login_server}/")
            self.query_one("#path", Input).placeholder = (
                "library/nginx or library/*"
                if login_server == "docker.io"
                else "app, team/app or team/*"
            )
        elif number == TARGET:
            self.query_one("#address", Plain).update(f"{self.app.address}/")
            proposed = (self._verdict.proposed_target if self._verdict else None) or ""
            target = self.query_one("#target", Input)
            if target.value.strip() in {"", self._proposed_target}:
                target.value = self._proposed_target = proposed
        elif number == SIGN_IN_STEP:
            await self._show_sets()
        elif number == FRESHNESS:
            self._show_lifetimes()
        elif number == READERS:
            await self._reader_step.fill()
        elif number == REVIEW:
            name = self.query_one("#name", Input)
            if name.value.strip() in {"", self._proposed_name}:
                names = {rule.name.casefold() for rule in await self.app.client.rules.list()}
                name.value = self._proposed_name = proposed_name(self._normalized_source, names)
            self._show_review()
        elif number == FIRST_PULL:
            self.query_one("#created", Plain).update(f"The cache rule {self._created} is created.")
            self.query_one("#image", Input).value = (
                self._target.removesuffix("*")
                if self._target.endswith("*")
                else f"{self._target}:latest"
            )

    async def _show_sets(self, select: str | None = None) -> None:
        registry, verdict = self._registry_step.registry, self._verdict
        sign_in = (
            verdict.sign_in
            if verdict is not None and verdict.sign_in is not None
            else registry.sign_in
            if registry is not None
            else SignIn.OPTIONAL
        )
        login_server = (
            verdict.login_server if verdict else None
        ) or self._registry_step.login_server
        question, why = {
            SignIn.NONE: (
                f"{self._registry_step.name} takes no credentials.",
                "All its pulls are unauthenticated, so a credential set would have no use.",
            ),
            SignIn.OPTIONAL: (
                f"How does it sign in to {login_server}? It need not.",
                "Private repositories need a credential set; for public ones it often means a "
                "higher limit.",
            ),
            SignIn.REQUIRED: (
                f"How does it sign in to {login_server}? Without credentials all pulls fail.",
                "A rule for this registry needs a credential set. Several rules can share one.",
            ),
        }[sign_in]
        self.query_one("#sign-in-question", Plain).update(question)
        self.query_one("#sign-in-teach", Plain).update(
            f"{why} {self._HELP[SIGN_IN_STEP]}" if sign_in is not SignIn.NONE else why
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
        for credential_set in self._sets:
            health, tone = credential_set_health(credential_set)
            rows.append(
                Row(
                    credential_set.name,
                    (
                        Cell(credential_set.name, "accent"),
                        Cell(f"{health}   {credential_set.username_id}", tone),
                    ),
                )
            )
        if sign_in is not SignIn.NONE:
            rows.append(
                Row(
                    NEW_SET,
                    (
                        Cell("+ new credential set"),
                        Cell("create one now, and come back here", "dim"),
                    ),
                )
            )
        row_list = self.query_one("#sets", RowList)
        show_all_rows(rows, row_list)
        if select is not None:
            row_list.move_to(select)

    def _show_lifetimes(self) -> None:
        rows = [
            Row(choice.id, (Cell(choice.title, "accent"), Cell(choice.short, "dim")))
            for choice in freshness_choices(self._default_lifetime)
        ]
        show_all_rows(rows, self.query_one("#freshness", RowList))
        self._show_lifetime_help()

    def _show_lifetime_help(self) -> None:
        row = self.query_one("#freshness", RowList).current
        selected = row.key if row is not None else DEFAULT
        self.query_one("#interval-entry").display = selected == INTERVAL
        why = next(
            choice.why
            for choice in freshness_choices(self._default_lifetime)
            if choice.id == selected
        )
        self.query_one("#freshness-teach", Plain).update(f"{why}\n{self._HELP[FRESHNESS]}")

    @property
    def _default_lifetime(self) -> str:
        return self.app.status.freshness if self.app.status is not None else "5 min"

    def _show_review(self) -> None:
        name, source, target, credential_set, freshness, access = self._draft()
        signs_in = (
            f"It signs in with {credential_set}"
            if credential_set
            else "It pulls without signing in"
        )
        lifetime = {
            None: f"{self._default_lifetime} (default)",
            "always": "none, the source is asked each time",
            "never": "unlimited, the source is never asked again about a cached tag",
        }.get(freshness, freshness)
        text = Text(
            f"{source} appears as {self.app.address}/{target}.\n"
            f"{signs_in}. Tag lifetime: {lifetime}. Readers: {self._reader_step.described()}.\n\n"
        )
        command = rule_command(
            name, source, target, credential_set, freshness, access, width=self.text_width
        )
        text.append("The same as a command (y copies):\n", "dim").append(f"{command}\n\n")
        text.append("The same in rules.toml (Y copies):\n", "dim").append(
            f"{rule_toml(name, source, target, credential_set, freshness, access)}\n\n"
        )
        text.append(
            "Credential set, tag lifetime and readers can be changed later. Name, source and "
            "target can't: delete the rule and create another.",
            "dim",
        )
        self.query_one("#review", ReviewText).show(text)

    # The engine's verdict

    async def validate(self) -> bool:
        """Let the engine validate what was entered up to this step."""
        step = self.current
        if step == FIRST_PULL:
            return True
        if step == SOURCE:
            return await self._validate_source()
        if step == FRESHNESS:
            self._show_lifetime_help()
        if step == READERS:
            self._reader_step.show_help()
        verdict = await self.app.client.rules.validate(
            name=self._rule_name if step >= REVIEW else None,
            source_repository=self._source,
            target_repository=self._target if step >= TARGET else None,
            credential_set=self._credential_set if step >= SIGN_IN_STEP else None,
            freshness=self._freshness if step >= FRESHNESS else None,
            readers=self._reader_step.access.readers if step >= READERS else (),
        )
        if step != self.current:
            return False
        self._verdict = verdict
        if step == REPOSITORY:
            self._shown_remarks = verdict.remarks
            return self._show(
                verdict,
                "#repository-feedback",
                ("sourceRepository",),
                self._source_confirmation(verdict),
                needed=self.query_one("#path", Input).value,
            )
        if step == TARGET:
            return self._show(
                verdict,
                "#target-feedback",
                ("sourceRepository", "targetRepository"),
                f"Target available: {self.app.address}/{self._target} comes from "
                f"{verdict.source_repository}",
                needed=self._target,
            )
        if step == SIGN_IN_STEP:
            row = self.query_one("#sets", RowList).current
            if row is not None and row.key == NEW_SET:
                self.query_one("#sign-in-feedback", Feedback).show(None)
                return True
            return self._show(verdict, "#sign-in-feedback", ("credentialSet",), "", remarks=False)
        if step == FRESHNESS:
            return self._show(
                verdict,
                "#freshness-feedback",
                ("freshness",),
                "",
                needed=self._freshness_typed,
                remarks=False,
            )
        if step == READERS:
            return self._reader_step.show_verdict(verdict)
        self._show_review()
        is_valid = self._show(verdict, "#name-feedback", (), "Name available", remarks=False)
        if (
            not is_valid
            and first_problem(verdict.problems, ("name",)) is not None
            and self.focused is self.query_one("#review")
        ):
            self.query_one("#name").focus()
        return is_valid

    async def _validate_source(self) -> bool:
        is_typed, registry = self._registry_step.is_typed, self._registry_step.registry
        self._registry_step.show_field(visible=is_typed)
        feedback = self.query_one("#registry-feedback", Feedback)
        if not is_typed:
            if registry is None:
                return False
            # Rules may pull from each registry of the list. A full rule book is shown before
            # anything is typed.
            verdict = await self.app.client.rules.validate(
                source_repository=f"{registry.login_server}/*"
            )
            if self.current != SOURCE:
                return False
            full = next((problem for problem in verdict.problems if problem.field is None), None)
            feedback.show(full, remarks=self._registry_remarks(registry))
            return full is None
        if not self._registry_step.login_server:
            feedback.show(None, remarks=(_typed_registry_remark(registry),))
            return False
        # With everything of a registry as its source, only the registry itself can be wrong.
        verdict = await self.app.client.rules.validate(
            source_repository=f"{self._registry_step.login_server}/*"
        )
        if self.current != SOURCE:
            return False
        problem = first_problem(verdict.problems, ("sourceRepository", None))
        feedback.show(
            problem,
            f"{verdict.login_server}: {SIGN_IN[verdict.sign_in or SignIn.OPTIONAL]}."
            if problem is None
            else "",
        )
        return problem is None

    def _registry_remarks(self, registry: SourceRegistrySnapshot) -> tuple[str, ...]:
        """What a registry needs of credentials, and how many rules there may be."""
        credentials = {
            SignIn.NONE: (
                "It serves unauthenticated pulls only, so its rules have no credential set."
            ),
            SignIn.OPTIONAL: (
                "Public repositories need no credentials; a credential set opens private ones."
            ),
            SignIn.REQUIRED: (
                "It serves authenticated pulls only: without a credential set its rules are "
                "refused."
            ),
        }[registry.sign_in]
        status = self.app.status
        limit = (
            f" {status.rules:,} of at most {status.rules_limit:,} rules exist."
            if status is not None
            else ""
        )
        return (f"{credentials}{limit}",)

    def _show(
        self,
        verdict: CheckedRule,
        feedback: str,
        fields: tuple[str, ...],
        ok: str,
        *,
        needed: str = "x",
        remarks: bool = True,
    ) -> bool:
        """Show the first problem of *fields* (empty: of all); returns if there is none.

        A problem of a field is not shown while that field is still empty (*needed*).
        """
        problem = (
            first_problem(verdict.problems, fields)
            if fields
            else next(iter(verdict.problems), None)
        )
        # A problem of no field, such as a full rule book, concerns every step.
        problem = problem or next((each for each in verdict.problems if each.field is None), None)
        # Remarks that the step for the repository has shown are not repeated.
        new_remarks = tuple(
            remark
            for remark in verdict.remarks
            if remarks and (self.current == REPOSITORY or remark not in self._shown_remarks)
        )
        is_shown = needed.strip() or (problem is not None and problem.field is None)
        self.query_one(feedback, Feedback).show(
            problem if is_shown else None,
            ok if problem is None else "",
            new_remarks if problem is None else (),
        )
        return problem is None

    def _source_confirmation(self, verdict: CheckedRule) -> str:
        registry = self._registry_step.registry
        using = (
            f"   {counted(registry.rules, 'rule uses', 'rules use')} "
            f"{registry.login_server} already."
            if registry is not None and registry.rules
            else ""
        )
        return f"Source valid: {verdict.source_repository}{using}"

    # Going on

    async def advance_within_step(self, number: int) -> bool:
        """On what needs a text, go to its field first."""
        if number == SOURCE:
            return self._registry_step.advance_to_field()
        if number == READERS:
            return self._reader_step.advance_to_field()
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
        """The review creates the rule; the first pull ends the wizard."""
        return number >= REVIEW

    async def submit(self) -> None:
        """Create the rule, or start its first pull."""
        if self.current == FIRST_PULL:
            await self._start_first_pull()
            return
        access = self._reader_step.access
        try:
            await self.app.client.rules.create(
                self._rule_name,
                self._source,
                self._target,
                self._credential_set or None,
                self._freshness,
                readers=access.readers,
                anonymous=access.anonymous,
            )
        except EngineRefused as error:
            self.query_one("#name-feedback", Feedback).show(
                Problem(code=error.code, message=error.message, field=error.field)
            )
            return
        self._created = self._rule_name
        await self.go_to(FIRST_PULL)

    async def _start_first_pull(self) -> None:
        image = without_prefix(self.query_one("#image", Input).value, self.app.address)
        platform = self.query_one("#platform", Input).value.strip()
        try:
            await self.app.client.pulls.start(image, platform or None, asked_by="dashboard")
        except EngineRefused as error:
            self.query_one("#pull-feedback", Feedback).show(
                Problem(code=error.code, message=error.message, field=error.field)
            )
            self.query_one("#platform" if error.field == "platform" else "#image").focus()
        else:
            await self.end(CreatedRule(self._created or "", pulling=True))

    async def end(self, created: CreatedRule) -> None:
        """Close the wizard: its last question is answered."""
        self.dismiss(created)

    async def action_back(self) -> None:
        """One step back; once the rule is created, close."""
        if self.current == FIRST_PULL:
            self.action_quit_wizard()
        else:
            await super().action_back()

    def may_return_to(self, number: int) -> bool:
        """Not once the rule is created."""
        return self._created is None

    def has_entries(self) -> bool:
        """Nothing can be lost once the rule is created."""
        return self._created is None and super().has_entries()

    def outcome(self) -> CreatedRule | None:
        """The rule, if it was created."""
        return CreatedRule(self._created, pulling=False) if self._created is not None else None

    async def go_to(self, number: int) -> None:
        """Show a step; on the way from the sign-in perhaps create a credential set first."""
        row = (
            self.query_one("#sets", RowList).current
            if number == FRESHNESS and self.current == SIGN_IN_STEP
            else None
        )
        if row is not None and row.key == NEW_SET:
            login_server = self._verdict.login_server if self._verdict else None
            name = await self.app.push_screen_wait(CredentialSetWizard(login_server=login_server))
            await self._show_sets(select=name)
            return
        await super().go_to(number)

    @on(RowList.Opened)
    def _opened(self) -> None:
        self.action_next()


def _typed_registry_remark(registry: SourceRegistrySnapshot | None) -> str:
    """What to type as the login server; without *registry* for another one."""
    if registry is None:
        return (
            "The administrator must declare a registry beyond this list in settings.toml: "
            "press tab, then type its login server."
        )
    example = registry.login_server.replace("*", "contoso")
    return (
        f"{registry.name} has many registries: press tab, then type the login server of yours, "
        f"such as {example}."
    )
