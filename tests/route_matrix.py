"""Who may what: one row for every route of the app (trust goal S1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi.routing import APIRoute
from starlette.routing import Route, WebSocketRoute

ANYONE = (True,) * 6
STAFF = (False, False, False, True, True, True)
DESK = (False, False, False, True, False, True)
DEVELOPERS = (False, False, False, False, True, True)
ADMINS = (False, False, False, False, False, True)
"""Who gets past the door: nobody signed in, the person, another person, an operator, a developer, an admin."""
MATRIX: dict[tuple[str, str], tuple[bool, ...]] = {
    ("GET", "/openapi.json"): ANYONE,
    ("GET", "/health/live"): ANYONE,
    ("GET", "/health/ready"): ANYONE,
    ("GET", "/metrics"): ANYONE,
    ("GET", "/login"): ANYONE,
    ("POST", "/login"): ANYONE,
    ("GET", "/login/oidc"): ANYONE,
    ("GET", "/login/oidc/callback"): ANYONE,
    ("POST", "/v1/session"): ANYONE,
    ("DELETE", "/v1/session"): ANYONE,
    ("WEBSOCKET", "/ws/chat"): ANYONE,
    ("WEBSOCKET", "/ws/operator"): STAFF,
    ("POST", "/v1/conversations"): ANYONE,
    ("GET", "/v1/articles/{article_id}"): ANYONE,
    ("GET", "/v1/conversations/{conversation_id}"): (False, True, False, True, True, True),
    ("GET", "/v1/conversations/{conversation_id}/download"): (False, True, False, False, False, False),
    ("DELETE", "/v1/conversations/{conversation_id}"): (False, True, False, True, False, True),
    ("POST", "/v1/feedback"): (False, True, False, False, False, False),
    ("POST", "/v1/csat"): (False, True, False, False, False, False),
    ("POST", "/v1/outcomes"): STAFF,
    ("GET", "/v1/inbox"): STAFF,
    ("GET", "/v1/inbox/facets"): STAFF,
    ("GET", "/v1/inbox/export"): STAFF,
    ("GET", "/v1/filters"): STAFF,
    ("PUT", "/v1/filters/{name}"): DESK,
    ("DELETE", "/v1/filters/{name}"): DESK,
    ("GET", "/v1/macros"): STAFF,
    ("PUT", "/v1/macros/{name}"): DESK,
    ("DELETE", "/v1/macros/{name}"): DESK,
    ("PATCH", "/v1/conversations/{conversation_id}"): DESK,
    ("POST", "/v1/conversations/{conversation_id}/notes"): DESK,
    ("POST", "/v1/conversations/{conversation_id}/takeover"): DESK,
    ("POST", "/v1/conversations/{conversation_id}/handback"): DESK,
    ("POST", "/v1/conversations/{conversation_id}/resolve"): DESK,
    ("POST", "/v1/conversations/{conversation_id}/say"): DESK,
    ("POST", "/v1/conversations/{conversation_id}/suggest"): DESK,
    ("GET", "/v1/acts"): STAFF,
    ("POST", "/v1/corrections"): DESK,
    ("GET", "/v1/cases"): STAFF,
    ("DELETE", "/v1/cases/{case_id}"): DESK,
    ("POST", "/v1/ratings"): DESK,
    ("GET", "/v1/decisions/{decision_id}/why"): STAFF,
    ("POST", "/v1/drafts"): DESK,
    ("GET", "/v1/drafts"): STAFF,
    ("PATCH", "/v1/drafts/{draft_id}"): DESK,
    ("GET", "/v1/pairs"): STAFF,
    ("POST", "/v1/pairs"): DESK,
    ("POST", "/v1/pairs/{pair_id}"): DESK,
    ("GET", "/v1/me"): STAFF,
    ("GET", "/v1/accounts"): ADMINS,
    ("POST", "/v1/accounts"): ADMINS,
    ("PATCH", "/v1/accounts/{name}"): ADMINS,
    ("POST", "/v1/accounts/{name}/release"): ADMINS,
    ("GET", "/v1/audit"): ADMINS,
    ("GET", "/v1/versions"): STAFF,
    ("POST", "/v1/versions/rollback"): DEVELOPERS,
    ("POST", "/v1/versions/promote"): DEVELOPERS,
    ("POST", "/v1/versions/canary"): DEVELOPERS,
    ("POST", "/v1/versions/withdraw"): DEVELOPERS,
    ("POST", "/v1/versions/freeze"): DEVELOPERS,
    ("POST", "/v1/versions/unfreeze"): DEVELOPERS,
    ("GET", "/v1/learner"): STAFF,
    ("GET", "/v1/serving"): STAFF,
    ("GET", "/v1/learner/articles"): STAFF,
    ("GET", "/v1/versions/{version}/lessons"): STAFF,
    ("POST", "/v1/versions/compare"): DEVELOPERS,
    ("GET", "/v1/rules"): STAFF,
    ("POST", "/v1/rules"): DEVELOPERS,
    ("POST", "/v1/rules/check"): DEVELOPERS,
    ("POST", "/v1/rules/backtests"): DEVELOPERS,
    ("GET", "/v1/rules/schema"): STAFF,
    ("GET", "/v1/rules/versions/{number}"): STAFF,
    ("GET", "/v1/knowledge/articles"): STAFF,
    ("GET", "/v1/knowledge/articles/{article_id}"): STAFF,
    ("PUT", "/v1/knowledge/articles/{article_id}"): DEVELOPERS,
    ("DELETE", "/v1/knowledge/articles/{article_id}"): DEVELOPERS,
    ("POST", "/v1/knowledge/check"): STAFF,
    ("GET", "/v1/knowledge/gaps"): STAFF,
    ("GET", "/v1/jobs/{job_id}"): STAFF,
    ("DELETE", "/v1/jobs/{job_id}"): DEVELOPERS,
}


def routes_of(app: Any) -> set[tuple[str, str]]:
    """(method, path) of every route, those of included routers too; a name that may hold slashes stands as any other."""
    found: set[tuple[str, str]] = set()
    for route in all_routes(app.routes):
        if isinstance(route, WebSocketRoute) or type(route).__name__ == "APIWebSocketRoute":
            found.add(("WEBSOCKET", route.path))
        elif isinstance(route, APIRoute | Route):
            path = route.path.replace(":path}", "}")
            found |= {(method, path) for method in route.methods or () if method != "HEAD"}
        else:
            found.add(("UNKNOWN", repr(route)))
    return found


def all_routes(routes: Any) -> Iterator[Any]:
    for route in routes:
        inner = getattr(route, "original_router", None) or getattr(route, "router", None)
        if inner is not None:
            yield from all_routes(inner.routes)
        else:
            yield route
