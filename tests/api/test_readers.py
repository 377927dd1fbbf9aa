"""``client.readers``, and the readers of rules, on a real engine."""

from __future__ import annotations

import pytest

from entrepot.api.client import CacheClient, EngineRefused
from entrepot.engine.engine import Engine
from entrepot.server.run import management_app
from tests.conftest import LOGIN_SERVER


async def test_a_program_creates_tokens_and_gives_rules_readers(engine: Engine) -> None:
    async with CacheClient.of_app(management_app(engine)) as client:
        created = await client.readers.create_token("ci", expires="90d", groups=["ops"])
        assert await client.readers.tokens() == [created.token]
        assert engine.readers.of_bearer(created.secret) is not None
        assert (await client.readers.tokens())[0].last_used is not None
        source, target = f"{LOGIN_SERVER}/acme/*", "acme/*"
        await client.rules.create("acme-private", source, target, freshness="1 h", readers=["@ops"])
        rule = await client.rules.get("acme-private")
        assert (rule.readers, rule.anonymous, rule.freshness) == (("@ops",), None, "1 h")
        await client.rules.update("acme-private", freshness=None, readers=[], anonymous=True)
        rule = await client.rules.get("acme-private")
        assert (rule.readers, rule.anonymous, rule.freshness) == ((), True, None)
        [reader] = (await client.readers.list()).readers
        assert (reader.name, reader.groups) == ("ci", ("ops",))
        assert await client.readers.revoke_token("ci")
        assert not await client.readers.revoke_token("ci")
        with pytest.raises(EngineRefused, match="can't be the name of a reader"):
            await client.rules.create("acme-other", source, "other/*", readers=["a b"])
