"""What is marked as reading at its route, and what is taken for a change."""

from __future__ import annotations

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from entrepot.server.routes import QuestionRoute, only_reads, resource_route


async def answer(request: Request) -> Response:
    return Response(request.method)


async def answer_otherwise(request: Request) -> Response:
    return Response(f"{request.method}, otherwise")


ROUTES: list[BaseRoute] = [
    QuestionRoute("/checks/{name}", answer),
    Route("/pulls", answer, methods=["POST"]),
    resource_route("/rules/{name}", GET=answer, PUT=answer_otherwise),
]


def scope(method: str, path: str) -> Scope:
    return {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/pulls"), ("HEAD", "/none-such"), ("OPTIONS", "/pulls"), ("POST", "/checks/rule")],
)
def test_reading_methods_and_questions_change_nothing(method: str, path: str) -> None:
    assert only_reads(scope(method, path), ROUTES)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/pulls"),
        ("DELETE", "/checks/rule"),
        ("POST", "/checks/rule/"),
        ("POST", "/checks/a/b"),
        ("POST", "/none-such"),
        ("PUT", "/rules/hub"),
        ("MERGE", "/rules/hub"),
    ],
)
def test_all_else_is_taken_for_a_change(method: str, path: str) -> None:
    assert not only_reads(scope(method, path), ROUTES)


@pytest.mark.parametrize(
    ("method", "body"), [("GET", b"GET"), ("HEAD", b"HEAD"), ("PUT", b"PUT, otherwise")]
)
async def test_a_resource_has_one_route_for_all_its_methods(method: str, body: bytes) -> None:
    route = resource_route("/rules/{name}", GET=answer, PUT=answer_otherwise)
    assert route.methods == {"GET", "HEAD", "PUT"}
    response = await route.endpoint(Request(scope(method, "/rules/hub")))
    assert response.body == body
