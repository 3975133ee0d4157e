"""The keys of the services that tests start, and the table of routes and roles, asked whole.

Most tests ask as the operator, whose key is `secret`.
"""

import re
from collections.abc import Mapping

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from shared.auth import HEADER, Access, Keys, Role
from tests.asgi import ask

BY_ROLE: Mapping[Role, str] = {Role.CLIENT: "till", Role.ANALYST: "desk", Role.OPERATOR: "secret"}


def keys(service: str) -> Keys:
    return Keys(service, *(BY_ROLE[role].encode() for role in (Role.CLIENT, Role.ANALYST, Role.OPERATOR)))


def shown(role: Role) -> dict[str, str]:
    """The headers that a caller of the role sends."""
    return {HEADER: BY_ROLE[role]} if role in BY_ROLE else {}


def routes(app: FastAPI) -> set[str]:
    """Method and path of all that the app answers, but its OpenAPI and Swagger's own files, which are no secret."""
    return {
        f"{method} {context.path}"
        for context in iter_route_contexts(app.routes)
        if isinstance(context.original_route, APIRoute)
        for method in context.original_route.methods or ()
    }


def assert_table(app: FastAPI, access: Access) -> None:
    """Every route stands in the table, and answers each role, no key and a wrong key as the table says."""
    assert routes(app) == set(access)
    for route, needed in access.items():
        method, path = route.split(" ")
        path = re.sub(r"\{[^}]+\}", "!", path)  # a name that no route takes, so that nothing is done
        for role in Role:
            status = ask(app, method, path, headers=shown(role)).status_code
            refused = 0 if role >= needed else 403 if role > Role.ANYONE else 401
            assert (status if status in (401, 403) else 0) == refused, (route, role)
        wrong = ask(app, method, path, headers={HEADER: "wrong"}).status_code
        assert (wrong == 401) == (needed > Role.ANYONE), route


def granted(access: Access, role: Role) -> set[str]:
    """The routes that need this role, and not only a lower one."""
    return {route for route, needed in access.items() if needed is role}
