"""``docs/management-api.md`` has every path below ``/entrepot/v1``."""

from __future__ import annotations

import re

from starlette.routing import Route

from entrepot.engine.engine import Engine
from entrepot.server.run import management_app
from tests.documents import CHECKOUT

PREFIX = "/entrepot/v1/"


async def test_the_page_has_each_path_with_each_method_and_no_other(engine: Engine) -> None:
    page = (CHECKOUT / "docs/management-api.md").read_text()
    rows = re.findall(r"^\| (GET|POST|PUT|PATCH|DELETE) \| `([^`]+)` \|", page, re.MULTILINE)
    assert set(rows) == {
        (method, re.sub(r":\w+}", "}", route.path.removeprefix(PREFIX)))
        for route in management_app(engine).routes
        if isinstance(route, Route) and route.path.startswith(PREFIX)
        for method in (route.methods or ())
        if method != "HEAD"
    }
