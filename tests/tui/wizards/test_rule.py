"""The wizard for a cache rule, driven by keys against a real engine."""

from __future__ import annotations

import pytest
from textual import events

from entrepot.api.errors import EngineUnreachable
from entrepot.api.session import ApiSession
from entrepot.api.transport import ApiResponse
from entrepot.core.rules import RuleDraft
from entrepot.core.states import PullState
from entrepot.engine.engine import Engine
from tests.conftest import LOGIN_SERVER
from tests.fakes import FakeRegistry
from tests.tui.conftest import Person, dashboard
from tui.options import Options
from tui.wizards.rule import RuleWizard, proposed_name
from tui.wizards.wizard import Wizard
from widgets.step_trail import StepTrail


async def choose_example(person: Person) -> None:
    await person.press("2")
    await person.sees("Cache rules", "example-library")
    await person.press("n")
    await person.sees("Which source registry does it pull from?", "Docker Hub")
    # The declared one is the last of the list but for "another registry".
    await person.press("G", "k")
    await person.press("enter")
    await person.sees("Which repository of Example?", f"{LOGIN_SERVER}/")


async def test_a_rule_is_made_and_its_first_image_pulled(
    person: Person, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("team/app", "1")
    await choose_example(person)
    await person.type("team/*")
    await person.sees(f"Source valid: {LOGIN_SERVER}/team/*", "1 rule uses")
    await person.press("enter")
    await person.sees(
        "Where does it appear here?", "Target available: 127.0.0.1:0/team/* comes from"
    )
    await person.press("enter")
    await person.sees("It need not.", "> no credential set", "+ new credential set")
    await person.press("enter")
    await person.sees(
        "How long is a tag trusted before the source is asked again?",
        "> the default",
        "ask after 5 min",
    )
    await person.press("enter")
    await person.sees(
        "Nothing is created yet.", "Name available", "[[rules]]", "--target-repo 'team/*'"
    )
    assert len(engine.documents.rules) == 1
    await person.press("enter")
    await person.sees("The cache rule registry-example-com-team is created.")
    await person.type(":")
    await person.press("enter", "enter")
    await person.sees("Not possible: '' is not a tag.", "ReferenceInvalid")
    await person.press("backspace")
    assert engine.documents.rules.get("registry-example-com-team").target.path == "team"
    await person.type("app:1")
    await person.press("enter", "enter")
    await person.sees("Pulls", "team/app:1", "completed")
    [pull] = engine.cache.pulls.all()
    assert (pull.state, list(pull.asked_by)) == (PullState.COMPLETED, ["dashboard"])


async def test_keys_that_come_in_one_go_are_taken_in_their_order(person: Person) -> None:
    await person.press("2", "n")
    await person.sees("Which source registry does it pull from?", "> Docker Hub")
    for key in ("down", "down", "down", "enter"):
        person.app.post_message(events.Key(key, None))
    await person.sees("Which repository of Microsoft Artifact Registry?")


async def test_a_refusal_stands_beside_its_field_in_the_engines_words(
    person: Person, engine: Engine
) -> None:
    await choose_example(person)
    await person.type("team/app:1.0")
    await person.sees(
        "Not possible: Repository name 'team/app:1.0' is invalid",
        "carries a tag",
        "GenericRepositoryNameInvalid",
    )
    await person.press("enter")
    await person.sees("Which repository of Example?")
    await person.press("ctrl+u")
    await person.type("more/*")
    await person.sees("Source valid:")
    await person.press("enter")
    await person.sees("Where does it appear here?", "Target available:")
    await person.press("ctrl+u")
    await person.type("library/x/*")
    await person.sees(
        "Not possible: The target library/x/* lies inside the target library/* of rule",
        "example-library",
        "CacheRuleTargetOverlap",
    )
    await person.press("enter")
    await person.sees("Where does it appear here?")
    assert len(engine.documents.rules) == 1


async def test_going_back_loses_nothing(person: Person) -> None:
    await choose_example(person)
    await person.type("team/app")
    await person.sees("Source valid:")
    await person.press("enter")
    await person.sees("Where does it appear here?")
    await person.press("ctrl+u")
    await person.type("mine/app")
    await person.sees("Target available: 127.0.0.1:0/mine/app")
    await person.press("escape")
    await person.sees("Which repository of Example?", "team/app")
    await person.press("enter")
    await person.sees("Where does it appear here?", "Target available: 127.0.0.1:0/mine/app")


async def test_leaving_the_wizard_makes_nothing_and_letters_do_not_leave_it(
    person: Person, engine: Engine
) -> None:
    await choose_example(person)
    await person.press("escape")
    await person.sees("Which source registry")
    await person.press("q", "2", "5")
    await person.sees("Which source registry")
    await person.press("ctrl+c")
    await person.sees("Quit the wizard?", "What you entered here is lost.")
    await person.press("escape")
    await person.sees("Which source registry")
    await person.press("ctrl+c")
    await person.sees("Quit the wizard?")
    await person.press("right", "enter")
    await person.sees("Cache rules", "example-library")
    assert len(engine.documents.rules) == 1


async def test_docker_hub_needs_a_credential_set_which_can_be_made_on_the_way(
    person: Person, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUB_USER", "user")
    monkeypatch.setenv("HUB_TOKEN", "token")
    await person.press("2")
    await person.sees("example-library")
    await person.press("n")
    await person.sees(
        "Which source registry",
        "needs sign-in",
        "without a credential set its rules are refused",
        "1 of at most 1,000 rules exist.",
    )
    await person.press("enter")
    await person.sees("Which repository of Docker Hub?")
    await person.type("redis")
    await person.sees("Source valid: docker.io/library/redis", "library/ was put in front")
    await person.press("enter")
    await person.sees("Where does it appear here?", "Target available:")
    await person.press("enter")
    await person.sees("Without credentials all pulls fail", "> + new credential set")
    await person.press("enter")
    await person.sees("Where are user name and password for docker.io kept?")
    await person.type("env:HUB_USER")
    await person.press("enter")
    await person.type("hunter2")
    await person.sees("Not possible:")
    await person.press("ctrl+u")
    await person.type("env:HUB_TOKEN")
    await person.until(lambda: "Not possible" not in person.seen())
    await person.press("enter")
    await person.sees("Nothing is created yet.", "docker-login", "enter create")
    await person.press("enter")
    await person.sees("How does it sign in to docker.io?", "> docker-login")
    await person.press("enter")
    await person.sees("How long is a tag trusted")
    await person.press("enter")
    await person.sees("Nothing is created yet.", "--cred-set docker-login")
    await person.press("enter")
    await person.sees("The cache rule docker-io-library-redis is created.")
    assert engine.documents.rules.get("docker-io-library-redis").credential_set == "docker-login"
    assert str(engine.documents.credential_sets.get("docker-login").password) == "env:HUB_TOKEN"


async def test_a_credential_set_made_on_the_way_tells_why_it_can_t_sign_in(person: Person) -> None:
    """Newcomer: the reason was shown on another screen, and only on request."""
    await choose_example(person)
    await person.type("team/app")
    await person.sees("Source valid:")
    await person.press("enter")
    await person.sees("Where does it appear here?", "Target available:")
    await person.press("enter")
    await person.sees("+ new credential set")
    await person.press("G", "enter")
    await person.sees("Where are user name and password for registry.example.com kept?")
    await person.type("env:NO_SUCH_USER")
    await person.press("enter")
    await person.type("env:NO_SUCH_PASSWORD")
    await person.press("enter")
    await person.sees("Nothing is created yet.")
    await person.press("enter")
    await person.sees("registry-login is unhealthy:", "NO_SUCH_USER is not set")


async def test_a_registry_that_takes_no_credentials_offers_none(person: Person) -> None:
    await person.press("2")
    await person.sees("example-library")
    await person.press("n")
    await person.sees("Microsoft")
    await person.press("down", "down", "down", "enter")
    await person.sees("Which repository of Microsoft Artifact Registry?")
    await person.type("dotnet/*")
    await person.sees("Source valid:")
    await person.press("enter")
    await person.sees("Where does it appear here?", "Target available:")
    await person.press("enter")
    await person.sees("takes no credentials", "would have no use", "> no credential set")
    assert "new credential set" not in person.seen()


async def test_a_name_that_is_taken_is_refused_in_the_review(
    person: Person, engine: Engine
) -> None:
    await choose_example(person)
    await person.type("team/*")
    await person.sees("Source valid:")
    for text in (
        "Where does it appear here?",
        "It need not.",
        "How long is a tag trusted",
        "Nothing is created yet.",
    ):
        await person.press("enter")
        await person.sees(text)
    await person.sees("Name available")
    await person.press("tab", "ctrl+u")
    await person.type("Example-Library")
    await person.sees("There is a cache rule example-library already.", "CacheRuleAlreadyExists")
    await person.press("enter")
    await person.sees("Nothing is created yet.", "CacheRuleAlreadyExists")
    assert len(engine.documents.rules) == 1


async def test_two_wizards_at_once_meet_at_the_engine(person: Person, engine: Engine) -> None:
    await choose_example(person)
    await person.type("team/*")
    await person.sees("Source valid:")
    for text in (
        "Where does it appear here?",
        "It need not.",
        "How long is a tag trusted",
        "Nothing is created yet.",
    ):
        await person.press("enter")
        await person.sees(text)
    await person.sees("Name available")
    await engine.rules.create(RuleDraft("other-rule", f"{LOGIN_SERVER}/team/*", "team/*"))
    await person.press("enter")
    await person.sees("Not possible: The target team/* is the target of rule other-rule already.")


# What each step teaches, and how it fits


SMALL, DESIGN = (60, 15), (80, 24)


@pytest.mark.parametrize("size", [SMALL, DESIGN])
async def test_each_step_has_its_question_its_rule_and_its_next_key(
    engine: Engine, source: FakeRegistry, size: tuple[int, int]
) -> None:
    async with dashboard(engine, size=size) as person:
        await choose_example(person)
        await person.type("team/*")
        steps = [
            (
                "step 2 of 7",
                "Which repository of Example?",
                "Source valid:",
                "everything below a path",
                "enter next",
                "esc back",
                "ctrl+c quit",
            ),
            (
                "step 3 of 7",
                "Where does it appear here?",
                "Target available:",
                "It ends with /* if the source does",
                "enter next",
                "esc back",
                "ctrl+c quit",
            ),
            (
                "step 4 of 7",
                "It need not.",
                "Private repositories need a credential set",
                "enter next",
                "esc back",
                "ctrl+c quit",
            ),
            (
                "step 5 of 7",
                "How long is a tag trusted",
                "ask each time",
                "never ask again",
                "enter next",
                "esc back",
                "ctrl+c quit",
            ),
            (
                "step 6 of 7",
                "Name available",
                "It pulls without signing in",
                "enter create the rule",
                "esc back",
                "y copy",
                "ctrl+c quit",
            ),
        ]
        # No reader can sign in to this engine.
        steps_without_readers = [step for step in RuleWizard.steps if step != "Readers"]
        for number, texts in enumerate(steps):
            if number:
                await person.press("enter")
            await person.sees(*texts)
            mark = person.seen().split("\n")[2]
            assert (
                person.seen().split("\n")[1][mark.index("-") : len(mark)]
                == steps_without_readers[number + 1]
            )


async def test_the_freshness_is_chosen_and_each_choice_says_what_it_costs_at_docker_hub(
    person: Person, engine: Engine
) -> None:
    await to_freshness(person)
    await person.sees(
        "It follows settings.toml.",
        "the request does not count against its rate limit",
    )
    await person.press("j")
    await person.sees("Each pull waits for the answer.", "it throttles clients that send too many")
    await person.press("j")
    await person.sees("For tags that never move", "never counts against its rate limit")
    await person.press("j")
    await person.sees("Write a number with s, min, h or d")
    await person.press("enter")
    await person.type("soon")
    await person.sees("Not possible: 'soon' is not a tag lifetime (freshness).", "FreshnessInvalid")
    await person.press("enter", "ctrl+u")
    await person.sees("How long is a tag trusted")
    await person.type("90 min")
    await person.press("enter")
    await person.sees(
        "Tag lifetime: 90 min.", "--freshness '90 min'", 'name = "registry-example-com-team"'
    )
    await person.press("enter")
    await person.sees("is created.", "esc no pull now")
    await person.press("escape")
    await person.sees("Cache rules")
    assert engine.documents.rules.get("registry-example-com-team").freshness == 90 * 60


async def test_an_interval_that_is_not_written_yet_is_not_gone_past(person: Person) -> None:
    await to_freshness(person)
    await person.press("G", "enter", "enter")
    await person.sees("step 5 of 7", "After:")
    assert "Not possible" not in person.seen()


async def test_another_registry_is_typed_and_one_that_is_not_declared_is_refused(
    person: Person,
) -> None:
    await person.press("2", "n")
    await person.sees("Which source registry does it pull from?", "> Docker Hub")
    await person.press("G")
    await person.sees("> another registry", "must declare a registry beyond this list")
    await person.press("enter")
    await person.type("registry.example.org")
    await person.sees(
        "Not possible: Unsupported upstream",
        "Did you mean registry.example.com?",
        "UpstreamNotSupported",
    )
    await person.press("enter")
    await person.sees("step 1 of 7")
    await person.press("ctrl+u")
    await person.type(LOGIN_SERVER)
    await person.sees(f"{LOGIN_SERVER}: credentials are optional.")
    await person.press("enter")
    await person.sees(f"Which repository of {LOGIN_SERVER}?")


async def test_a_registry_of_many_is_asked_for_its_own_name(person: Person) -> None:
    await person.press("2", "n")
    await person.sees("> Docker Hub")
    await person.press("j", "j")
    await person.sees(
        "> Azure Container Registry", "type the login server of yours, such as contoso.azurecr.io"
    )
    await person.press("enter")
    await person.type("mine.azurecr.io")
    await person.press("enter")
    await person.sees("Which repository of mine.azurecr.io?", "mine.azurecr.io/")


async def test_what_is_pasted_loses_blanks_line_ends_and_the_registry_in_front(
    person: Person, engine: Engine
) -> None:
    await choose_example(person)
    focused = person.app.screen.focused
    assert focused is not None
    focused.post_message(events.Paste(f"\n   https://{LOGIN_SERVER}/team/app \n\n"))
    await person.sees(f"Source valid: {LOGIN_SERVER}/team/app")
    await person.press("enter")
    await person.sees("Where does it appear here?", "team/app")


async def test_a_click_on_a_step_that_is_done_goes_back_to_it(person: Person) -> None:
    await choose_example(person)
    await person.type("team/app")
    await person.sees("Source valid:")
    await person.press("enter")
    await person.sees("step 3 of 7")
    await person.pilot.click(StepTrail, offset=(12, 1))
    await person.sees("step 2 of 7", "team/app")
    await person.pilot.click(StepTrail, offset=(40, 1))
    await person.sees("step 2 of 7")


async def test_the_review_copies_the_command_and_the_toml(person: Person, engine: Engine) -> None:
    await to_freshness(person)
    await person.press("enter")
    await person.sees("Nothing is created yet.", "y copy")
    await person.press("y")
    assert person.app.clipboard.startswith("entrepot rule create --name registry-example-com-team")
    await person.press("Y")
    plan = await engine.rules.preview_import(person.app.clipboard)
    assert (plan.possible, [each.name for each in plan.entries]) == (
        True,
        ["registry-example-com-team"],
    )


async def test_a_name_that_is_taken_is_not_proposed(person: Person, engine: Engine) -> None:
    await engine.rules.create(
        RuleDraft("Registry-Example-Com-Team", f"{LOGIN_SERVER}/other", "other")
    )
    await to_freshness(person)
    await person.press("enter")
    await person.sees("Nothing is created yet.", "registry-example-com-team-2", "Name available")


async def test_a_book_that_is_full_is_told_before_anything_is_typed(
    person: Person, engine: Engine
) -> None:
    entry = (
        '[[rules]]\nname = "rule-{0}"\nsource_repository = "{1}/many/r{0}"\n'
        'target_repository = "many/r{0}"\n'
    )
    await engine.rules.apply_import(
        "".join(entry.format(number, LOGIN_SERVER) for number in range(999))
    )
    await person.press("2")
    await person.sees("Cache rules", "1,000")
    await person.press("n")
    await person.sees(
        "Not possible: There are 1,000 cache rules, the most there may be.", "CacheRuleLimitReached"
    )
    await person.press("enter")
    await person.sees("step 1 of 7")


async def test_an_engine_that_is_lost_in_the_middle_is_told_and_nothing_is_lost(
    person: Person, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await choose_example(person)
    await person.type("team/")
    await person.sees("Not possible")
    request = ApiSession.request

    async def lost(*_: object, **__: object) -> ApiResponse:
        raise EngineUnreachable("No engine is running. Start one with: entrepot serve")

    monkeypatch.setattr(ApiSession, "request", lost)
    await person.type("app")
    await person.sees("No engine is running.", "Nothing that you entered is lost")
    await person.press("enter")
    await person.sees("step 2 of 7", "team/app")
    monkeypatch.setattr(ApiSession, "request", request)
    await person.press("enter")
    await person.sees("step 3 of 7", "Where does it appear here?")
    await person.until(lambda: "No engine is running" not in person.seen())


async def test_a_dashboard_that_only_reads_opens_no_wizard(engine: Engine) -> None:
    async with dashboard(engine, options=Options(read_only=True)) as person:
        await person.press("2")
        await person.sees("> example-library")
        await person.press("n", "i")
        await person.press("3")
        await person.sees("Credential sets")
        await person.press("n")
        await person.pilot.pause()
        assert not any(isinstance(each, Wizard) for each in person.app.screen_stack)


# Without a screen


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("docker.io/library/*", "docker-io-library"),
        ("a.b/*", "a-b-rule"),
        ("ghcr.io/" + "x" * 80, "ghcr-io-" + "x" * 42),
    ],
)
def test_a_name_is_made_from_the_source(source: str, name: str) -> None:
    assert proposed_name(source) == name
    assert 5 <= len(proposed_name(source, {name})) <= 50


async def to_freshness(person: Person) -> None:
    await choose_example(person)
    await person.type("team/*")
    await person.sees("Source valid:")
    for text in (
        "Where does it appear here?",
        "It need not.",
        "How long is a tag trusted",
    ):
        await person.press("enter")
        await person.sees(text)


@pytest.mark.parametrize(("on", "back"), [("pagedown", "pageup"), ("shift+down", "shift+up")])
async def test_in_a_low_terminal_a_long_step_is_read_by_keys(
    engine: Engine, on: str, back: str
) -> None:
    async with dashboard(engine, size=SMALL) as person:
        await choose_example(person)
        await person.type("team/*")
        await person.sees("Source valid:")
        await person.press("enter")
        await person.sees("Where does it appear here?", "Target available:")
        step = person.app.screen.query_one("#step-2")
        await person.until(lambda: step.max_scroll_y > 0)
        before = person.seen()
        await person.press(on)
        await person.until(
            lambda: step.scroll_offset.y == step.max_scroll_y and person.seen() != before
        )
        await person.press(back)
        await person.until(lambda: step.scroll_offset.y == 0 and person.seen() == before)


async def test_where_readers_sign_in_the_wizard_asks_who_may_read(
    person: Person, engine: Engine
) -> None:
    await engine.readers.create_token("ci", groups=("ops",))
    # The wizard goes by the status of the last poll.
    await person.until(lambda: person.app.status is not None and person.app.status.can_sign_in)
    await choose_example(person)
    await person.type("team/*")
    await person.sees("Source valid:", "step 2 of 8")
    await person.press("enter")
    await person.sees("Target available:")
    await person.press("enter")
    await person.sees("> no credential set")
    await person.press("enter")
    await person.sees("> the default", "ask after 5 min")
    await person.press("enter")
    await person.sees("Who may read what it caches?", "Now everyone may read.", "press r in Rules")
    await person.press("down", "down", "enter")
    await person.type("ci")
    await person.press("comma", "at")
    await person.type("web")
    await person.sees("No reader or group is known yet as @web.")
    await person.press("enter")
    await person.sees("Readers: ci, @web.", "--reader ci --reader @web", 'readers = ["ci", "@web"]')
    await person.press("escape")
    await person.sees("Who may read what it caches?", "ci,@web")
    # The list has the focus again: the first enter goes to the field.
    await person.press("enter", "enter")
    await person.sees("Readers: ci, @web.")
    # Keys that were typed before the review was shown are discarded.
    screen = person.app.screen
    await person.until(lambda: isinstance(screen, RuleWizard) and not screen.queues_keys)
    await person.press("enter")
    await person.sees("The cache rule registry-example-com-team is created.")
    assert engine.documents.rules.get("registry-example-com-team").access.readers == ("ci", "@web")


async def test_the_wizard_does_not_go_on_without_the_names_of_readers(
    person: Person, engine: Engine
) -> None:
    await engine.readers.create_token("ci")
    await person.until(lambda: person.app.status is not None and person.app.status.can_sign_in)
    await choose_example(person)
    await person.type("team/*")
    await person.sees("Source valid:")
    await person.press("enter")
    await person.sees("Target available:")
    await person.press("enter")
    await person.sees("> no credential set")
    await person.press("enter")
    await person.sees("ask after 5 min")
    await person.press("enter")
    await person.sees("Who may read what it caches?")
    await person.press("down", "down", "enter", "enter")
    await person.type("a/b")
    await person.sees("Not possible:", "can't be the name of a reader")
    await person.press("enter")
    await person.sees("Who may read what it caches?")
