"""Where a session's content may stay undecoded until somebody uses it.

Starlette's ``request.session`` announces each use before it hands the session out. Elsewhere a
handler may take ``scope["session"]`` and give it to code that looks into a dict unannounced, as
msgspec and orjson do, so the content has to be there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any


def announces_use(inner: object, outermost: object, middleware: object) -> bool:
    """Whether the application behind a middleware is a Starlette one through and through.

    ``inner`` is what the middleware calls, ``outermost`` the application that the server called,
    as far as the scope says. What is mounted later than the first request is not seen.
    """
    if "starlette.applications" not in sys.modules:
        return False
    from starlette.applications import Starlette

    if isinstance(inner, Starlette):
        return _all_announce(inner.routes)
    return (
        isinstance(outermost, Starlette)
        and _is_within(middleware, outermost.middleware_stack)
        and _all_announce(outermost.routes)
    )


def _is_within(middleware: object, stack: object) -> bool:
    while stack is not None:
        if stack is middleware:
            return True
        stack = getattr(stack, "app", None)
    return False


def _all_announce(routes: Iterable[Any]) -> bool:
    """Whether no route leads to an application of another kind."""
    return all(_announces(route) for route in routes)


def _announces(route: Any) -> bool:
    from starlette.applications import Starlette
    from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
    from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
    from starlette.staticfiles import StaticFiles

    if isinstance(route, Mount | Host):
        # Without the middlewares of this mount.
        mounted = getattr(route, "_base_app", route.app)
        if isinstance(mounted, Starlette | Router):
            return _all_announce(mounted.routes)
        return isinstance(mounted, StaticFiles)
    if isinstance(route, Route | WebSocketRoute):
        endpoint = route.endpoint
        if route.app is not endpoint:
            # A function of a request or a WebSocket.
            return True
        kinds = (HTTPEndpoint, WebSocketEndpoint)
        return isinstance(endpoint, type) and issubclass(endpoint, kinds)
    # How FastAPI includes a router.
    included = getattr(route, "original_router", None)
    return isinstance(included, Router) and _all_announce(included.routes)
