"""Where clients reach the engine."""

from __future__ import annotations

from entrepot.engine.endpoints import Endpoints


def test_the_engine_is_named_by_its_address_and_as_this_machine() -> None:
    assert Endpoints("Cache.example.com:5000").own_hosts == {
        "cache.example.com:5000",
        "localhost:5000",
        "127.0.0.1:5000",
    }
