"""The API's models of what core returns."""

from __future__ import annotations

from entrepot.api.models import ImportPlan
from entrepot.core.credentials import CredentialBook
from entrepot.core.registries import SourceRegistries
from entrepot.core.rule_import import read_import
from entrepot.core.rules import RuleBook
from entrepot.engine.api_models import import_plan_model

REGISTRIES = SourceRegistries()


def credential_set(name: str, login_server: str) -> str:
    return (
        f'[[credential_sets]]\nname = "{name}"\nlogin_server = "{login_server}"\n'
        'username_id = "env:U"\npassword_id = "env:P"\n'
    )


def plan(text: str) -> ImportPlan:
    credentials = CredentialBook(REGISTRIES)
    rules = RuleBook(REGISTRIES, credentials)
    return import_plan_model(read_import(text, rules, credentials, REGISTRIES))


def test_a_plan_says_where_secrets_are_kept_and_shows_no_secret() -> None:
    """S13: an identifier that is none may be the secret itself."""
    text = credential_set("hub-login", "docker.io") + credential_set("quay-login", "quay.io")
    for identifier, shown_identifier, runs in (
        ("env:U", "env:U", False),
        ("command:/bin/id", "command:/bin/id", True),
        ("docker-helper:ecr-login/username", "docker-helper:ecr-login/username", True),
        ("hunter2", None, False),
    ):
        import_plan = plan(text.replace("env:U", identifier, 1))
        first, second = import_plan.entries
        assert (first.username_id, first.password_id, first.runs_program) == (
            shown_identifier,
            "env:P",
            runs,
        )
        assert (second.username_id, second.runs_program) == ("env:U", False)
        assert [entry.name for entry in import_plan.runs_programs] == (
            ["hub-login"] if runs else []
        )
