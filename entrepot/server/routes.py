"""Routes of the management API, and the mark of those that only read.

What changes nothing is known here, at the route: everything asked with a reading method (RFC 9110,
9.2.1), and each `QuestionRoute`. Everything else is taken to change something, also what no route
answers (`entrepot.server.access.ReadOnly`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

Endpoint = Callable[[Request], Awaitable[Response]]

READING_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""RFC 9110, 9.2.1: what is asked with them changes nothing."""


class QuestionRoute(Route):
    """A query by POST, because it has a body or takes long.

    It changes nothing but what the engine knows.
    """

    def __init__(self, path: str, endpoint: Endpoint) -> None:
        super().__init__(path, endpoint, methods=["POST"])


def resource_route(path: str, **methods: Endpoint) -> Route:
    """One route for all methods of a resource.

    A method that the resource does not have then gets 405.
    """

    async def endpoint(request: Request) -> Response:
        return await methods["GET" if request.method == "HEAD" else request.method](request)

    return Route(path, endpoint, methods=list(methods))


def only_reads(scope: Scope, routes: Iterable[BaseRoute]) -> bool:
    """Whether a request to an application with these *routes* changes nothing."""
    return scope["method"] in READING_METHODS or any(
        isinstance(route, QuestionRoute) and route.matches(scope)[0] is Match.FULL
        for route in routes
    )
