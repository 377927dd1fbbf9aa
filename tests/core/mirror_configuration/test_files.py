"""What a configuration does to the files that are there already, and its removal."""

from __future__ import annotations

import json
import tomllib

import pytest
import yaml

from entrepot.core.mirror_configuration.files import (
    BEGIN,
    ClientFile,
    ClientFileConflict,
    HostsFile,
    JsonFile,
    OwnFile,
    TomlFile,
    YamlFile,
    has_block,
    masked,
    without_block,
    without_elements,
)

HOSTS = HostsFile(
    "hosts.toml",
    '[host."http://127.0.0.1:5000"]\ncapabilities = ["pull", "resolve"]\n',
    server="https://registry-1.docker.io",
)
BUILDKIT = TomlFile("buildkitd.toml", '[registry."docker.io"]\nmirrors = ["127.0.0.1:5000"]\n')
K3S = YamlFile(
    "registries.yaml",
    "",
    maps={
        "mirrors": '"docker.io":\n  endpoint:\n    - "http://127.0.0.1:5000"\n',
        "configs": '"127.0.0.1:5000":\n  tls:\n    insecure_skip_verify: true\n',
    },
)
DOCKER = JsonFile("daemon.json", "", lists={"registry-mirrors": ("http://127.0.0.1:5002",)})
OWN = OwnFile("50-entrepot-mirror.conf", '[[registry]]\nprefix = "docker.io"\n')

EXISTING_HOSTS = """\
# The mirror of the building.
server = "https://docker.example"

[host."https://building.example"]  # first floor
capabilities = ["pull"]
"""
EXISTING_BUILDKIT = 'debug = true  # for now\n\n[registry."quay.io"]\nmirrors = ["a.example"]\n'
EXISTING_K3S = """\
# Mirrors of this cluster
mirrors:
    # those of the building
    quay.io:
        endpoint:
            - https://building.example
configs: # and how to reach them
  building.example:
    tls:
      insecure_skip_verify: true
"""


@pytest.mark.parametrize(
    ("file", "existing"),
    [
        (HOSTS, EXISTING_HOSTS),
        (HOSTS, ""),
        (BUILDKIT, EXISTING_BUILDKIT),
        (K3S, EXISTING_K3S),
        (K3S, "mirrors:\n"),
        (K3S, "disabled: true\n"),
        (OWN, ""),
    ],
)
def test_what_is_written_can_be_taken_away_exactly(file: ClientFile, existing: str) -> None:
    merged = file.merged(existing)
    assert has_block(merged)
    assert without_block(merged) == existing
    # Once more changes nothing.
    assert file.merged(merged) == merged


def test_hosts_of_others_come_after_ours_and_their_server_stays() -> None:
    document = tomllib.loads(HOSTS.merged(EXISTING_HOSTS))
    assert list(document["host"]) == ["http://127.0.0.1:5000", "https://building.example"]
    assert document["server"] == "https://docker.example"


def test_tables_of_others_stay() -> None:
    document = tomllib.loads(BUILDKIT.merged(EXISTING_BUILDKIT))
    assert document["debug"] is True
    assert document["registry"] == {
        "quay.io": {"mirrors": ["a.example"]},
        "docker.io": {"mirrors": ["127.0.0.1:5000"]},
    }


def test_entries_of_yaml_join_maps_that_are_there() -> None:
    document = yaml.safe_load(K3S.merged(EXISTING_K3S))
    assert set(document["mirrors"]) == {"quay.io", "docker.io"}
    assert set(document["configs"]) == {"building.example", "127.0.0.1:5000"}
    assert document["mirrors"]["docker.io"] == {"endpoint": ["http://127.0.0.1:5000"]}


def test_elements_of_json_come_first_and_others_stay() -> None:
    existing = '{\n    "debug": true,\n    "registry-mirrors": ["https://a.example"]\n}\n'
    merged = DOCKER.merged(existing)
    assert json.loads(merged) == {
        "debug": True,
        "registry-mirrors": ["http://127.0.0.1:5002", "https://a.example"],
    }
    assert '\n    "debug"' in merged
    assert DOCKER.merged(merged) == merged
    added = DOCKER.added_to(existing)
    assert added == {"registry-mirrors": ["http://127.0.0.1:5002"]}
    assert json.loads(without_elements(merged, added)) == json.loads(existing)
    assert without_elements(DOCKER.merged(""), added) == ""


def test_what_was_there_before_is_not_ours() -> None:
    existing = DOCKER.merged("")
    assert DOCKER.merged(existing) == existing
    assert DOCKER.added_to(existing) == {}


@pytest.mark.parametrize(
    ("file", "existing", "message"),
    [
        (OWN, "[[registry]]\n", "did not write it"),
        (HOSTS, '[host."http://127.0.0.1:5000"]\n', r"names http://127\.0\.0\.1:5000 already"),
        (HOSTS, "server = \n", "not valid TOML"),
        (BUILDKIT, '[registry."docker.io"]\n', r'has \[registry\."docker\.io"\] already'),
        (BUILDKIT, 'registry = {"quay.io" = {}}\n', "not valid TOML"),
        (K3S, "mirrors: {}\n", "has mirrors on one line"),
        (K3S, "mirrors:\n  'docker.io':\n    endpoint: []\n", r"an entry for docker\.io"),
        (DOCKER, "{", "not valid JSON"),
        (DOCKER, "[]", "no JSON object"),
        (DOCKER, '{"registry-mirrors": "a"}', "no list"),
    ],
)
def test_what_can_not_be_joined_is_refused(file: ClientFile, existing: str, message: str) -> None:
    with pytest.raises(ClientFileConflict, match=message):
        file.merged(existing)


def test_only_our_block_goes() -> None:
    text = OWN.text + '[[registry]]\nprefix = "quay.io"\n'
    assert without_block(text) == '[[registry]]\nprefix = "quay.io"\n'
    assert without_block(f"{BEGIN}\nthe end is missing\n").startswith(BEGIN)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('Authorization = "Basic YTpi"', 'Authorization = "Basic ***"'),
        ('authorization = ["Bearer abc"]', 'authorization = ["Bearer ***"]'),
        ('  password: "b c"', "  password: ***"),
        ("  password: secret", "  password: ***"),
    ],
)
def test_passwords_are_not_shown(text: str, shown: str) -> None:
    assert masked(text) == shown
