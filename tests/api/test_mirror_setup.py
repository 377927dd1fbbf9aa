"""The addresses that a client's configuration has, from the status of the engine."""

from __future__ import annotations

import msgspec
import pytest

from entrepot.api.mirror_setup import mirror_setup
from entrepot.api.models import EngineStatus, MirrorSnapshot, RuleSnapshot
from entrepot.core.mirror_configuration.setup import Endpoint, MirrorConfigurationImpossible
from entrepot.core.rules import CacheRuleNotFound

RULES = [
    RuleSnapshot(
        name="hub-library",
        source_repository="docker.io/library/*",
        target_repository="hub/*",
        credential_set=None,
        created=0.0,
        login_server="docker.io",
    ),
    RuleSnapshot(
        name="quay-alpine",
        source_repository="quay.io/forks/alpine",
        target_repository="alpine",
        credential_set=None,
        created=0.0,
        login_server="quay.io",
    ),
]


def status(address: str, *mirrors: MirrorSnapshot, has_tls: bool = False) -> EngineStatus:
    return EngineStatus(
        version="1",
        address=address,
        has_tls=has_tls,
        mirrors=mirrors,
        started=0.0,
        rules=2,
        rules_limit=1000,
        credential_sets=0,
        repositories=0,
        blobs_size=0,
        space_free=0,
        pulls_running=0,
        speed=0.0,
    )


HUB_AT_PORT = MirrorSnapshot(namespace="docker.io", address="127.0.0.1:5002")
HUB_AT_HOST = MirrorSnapshot(namespace="docker.io", address="hub.cache.example:5000", has_tls=True)
HUB_EVERYWHERE = MirrorSnapshot(namespace="docker.io", address="0.0.0.0:5002")


@pytest.mark.parametrize(
    ("registry", "mirror", "address", "expected"),
    [
        ("127.0.0.1:5000", HUB_AT_PORT, None, ("127.0.0.1:5000", "127.0.0.1:5002")),
        ("127.0.0.1:5000", HUB_AT_PORT, "cache", ("cache:5000", "cache:5002")),
        ("127.0.0.1:5000", HUB_AT_PORT, "cache:443", ("cache:443", "cache:5002")),
        ("0.0.0.0:5000", HUB_AT_HOST, "cache:443", ("cache:443", "hub.cache.example:443")),
        ("10.0.0.5:5000", HUB_EVERYWHERE, None, ("10.0.0.5:5000", "10.0.0.5:5002")),
        ("[::]:5000", HUB_EVERYWHERE, "[fd00::1]", ("[fd00::1]:5000", "[fd00::1]:5002")),
    ],
)
def test_addresses(
    registry: str, mirror: MirrorSnapshot, address: str | None, expected: tuple[str, str]
) -> None:
    setup = mirror_setup(status(registry, mirror), RULES, address=address)
    assert (setup.registry.address, setup.mirrors["docker.io"].address) == expected
    assert setup.mirrors["docker.io"].has_tls is mirror.has_tls


def test_tls_of_the_registry() -> None:
    setup = mirror_setup(status("cache:5000", has_tls=True), RULES)
    assert setup.registry == Endpoint("cache:5000", has_tls=True)
    assert setup.registry.url == "https://cache:5000"


def test_the_first_of_two_mirrors_is_used() -> None:
    setup = mirror_setup(status("127.0.0.1:5000", HUB_AT_PORT, HUB_AT_HOST), RULES)
    assert setup.mirrors["docker.io"].address == "127.0.0.1:5002"


def test_an_engine_that_listens_everywhere_needs_an_address() -> None:
    with pytest.raises(MirrorConfigurationImpossible, match="--address HOST:5000"):
        mirror_setup(status("0.0.0.0:5000"), RULES)


def test_all_rules_or_one() -> None:
    assert len(mirror_setup(status("127.0.0.1:5000"), RULES).chosen) == 2
    one = mirror_setup(status("127.0.0.1:5000"), RULES, rule="Quay-Alpine")
    assert [rule.source_prefix for rule in one.chosen] == ["quay.io/forks/alpine"]
    assert one.chosen[0].wildcard is False
    with pytest.raises(CacheRuleNotFound):
        mirror_setup(status("127.0.0.1:5000"), RULES, rule="other")


def test_sign_in_is_required_where_a_rule_is_not_for_everyone() -> None:
    open_rule, closed_rule = RULES[0], msgspec.structs.replace(RULES[1], readable_by="ci, @ops")
    rules = [open_rule, closed_rule]
    assert mirror_setup(status("127.0.0.1:5000"), rules).sign_in_required
    assert mirror_setup(status("127.0.0.1:5000"), rules, rule="quay-alpine").sign_in_required
    assert not mirror_setup(status("127.0.0.1:5000"), rules, rule="hub-library").sign_in_required
