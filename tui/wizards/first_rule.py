"""The wizard for the first cache rule, which ends with the clients that use it."""

from __future__ import annotations

from textual.app import ComposeResult

from tui.client_view import ClientView, copy_configuration
from tui.wizards.rule import CreatedRule, RuleWizard
from widgets.text import Plain

CLIENTS = len(RuleWizard.steps)
"""The number of the last step."""


class FirstRuleWizard(RuleWizard):
    """The steps of every rule, and then the configuration of clients."""

    steps = (*RuleWizard.steps, "Clients")

    def __init__(self) -> None:
        super().__init__()
        self._created_rule: CreatedRule | None = None

    def compose_step(self, number: int) -> ComposeResult:
        """The widgets of a step."""
        if number != CLIENTS:
            yield from super().compose_step(number)
            return
        yield Plain("Let your clients use it without changing image names?", classes="question")
        yield ClientView(id="view")

    def focus_of(self, number: int) -> str | None:
        """What has the focus in a step."""
        return "#clients" if number == CLIENTS else super().focus_of(number)

    async def prepare(self, number: int) -> None:
        """Show the configurations in the last step."""
        if number != CLIENTS:
            await super().prepare(number)
            return
        status = await self.app.client.system.status()
        rules = await self.app.client.rules.list()
        self.query_one("#view", ClientView).show(status, rules, None)

    async def validate(self) -> bool:
        """Nothing is entered in the last step."""
        return True if self.current == CLIENTS else await super().validate()

    # What the keys do now

    def enter_word(self) -> str:
        """What enter does now."""
        return "done" if self.current == CLIENTS else super().enter_word()

    def back_word(self) -> str:
        """What escape does now."""
        return "later" if self.current == CLIENTS else super().back_word()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The keys for copying work in the last step too."""
        if action in {"copy", "copy_toml"} and self.current == CLIENTS:
            return True
        return super().check_action(action, parameters)

    def action_copy(self) -> None:
        """Copy the command in the review, the configuration in the last step."""
        if self.current == CLIENTS:
            copy_configuration(self.app, self.query_one("#view", ClientView))
        else:
            super().action_copy()

    def action_copy_toml(self) -> None:
        """Copy the TOML in the review, the command that installs in the last step."""
        if self.current != CLIENTS:
            super().action_copy_toml()
        elif (current := self.query_one("#view", ClientView).current) is not None:
            self.app.copy_line(current.command)

    # Going on

    async def submit(self) -> None:
        """Create the rule, start its first pull, or end."""
        if self.current == CLIENTS:
            self.dismiss(self.outcome())
        else:
            await super().submit()

    async def end(self, created: CreatedRule) -> None:
        """Go on to the clients."""
        self._created_rule = created
        await self.go_to(CLIENTS)

    def outcome(self) -> CreatedRule | None:
        """The rule, if it was created, and whether its first pull has begun."""
        return self._created_rule or super().outcome()

    async def action_back(self) -> None:
        """Without a first pull, go on to the clients; from there, end."""
        if self.current == CLIENTS:
            self.dismiss(self.outcome())
        elif self.current == CLIENTS - 1:
            await self.go_to(CLIENTS)
        else:
            await super().action_back()
