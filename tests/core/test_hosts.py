"""What the host of an address is."""

from __future__ import annotations

import pytest

from entrepot.core.hosts import is_loopback, looks_like_host


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.255.0.9",
        "127.0.0.1.",
        "0x7f.1",
        "2130706433",
        "::1",
        "::ffff:127.0.0.1",
        "localhost",
        "LOCALHOST.",
        "registry.localhost",
    ],
)
def test_this_machine_is_named_in_many_ways(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "127.example.com",
        "localhost.example.com",
        "10.0.0.1",
        "0.0.0.0",
        "::",
        "::ffff:10.0.0.1",
        # A gateway turns these into 127.0.0.1 on its own machine.
        "64:ff9b::127.0.0.1",
        "2002:7f00:1::",
        "",
    ],
)
def test_another_machine_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "part", ["docker.io", "cache:5000", "localhost", "[::1]:5000", "LocalHost"]
)
def test_a_dot_or_a_port_makes_a_host_as_in_docker(part: str) -> None:
    assert looks_like_host(part)


@pytest.mark.parametrize("part", ["library", "nginx:latest", ""])
def test_a_part_without_dot_or_port_is_a_path(part: str) -> None:
    assert not looks_like_host(part)


def test_a_number_behind_a_name_without_a_path_is_a_tag() -> None:
    assert not looks_like_host("nginx:1", has_path=False)
