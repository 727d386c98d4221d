"""Sessions in PostgreSQL: every device of a user can be listed, and signed out from any other.

Run it from the checkout (after `make env`, or `pip install ".[postgres]" uvicorn` into .venv):

    .venv/bin/python examples/postgres_app.py

and try it, a cookie jar being a device:

    curl -b laptop -c laptop -X POST http://127.0.0.1:8000/login/alice
    curl -b phone  -c phone  -X POST http://127.0.0.1:8000/login/alice
    curl -b phone  http://127.0.0.1:8000/sessions
    curl -b phone  -X DELETE http://127.0.0.1:8000/sessions
    curl -b laptop http://127.0.0.1:8000/sessions

DATABASE_URL names the database, SECRET_KEY the key that the cookies are signed with.
"""

from __future__ import annotations

import os
import secrets

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sessionware import SessionMiddleware, manager_of, session_of

DATABASE_URL = os.environ.get("DATABASE_URL", "postgresql+psycopg://postgres@127.0.0.1:5432/test")
MAX_NAME_LENGTH = 40


def user_of(request: Request) -> str:
    """The user's name. Raises 401 for a visitor who has not logged in."""
    if user := session_of(request).get("user_id"):
        return str(user)
    raise HTTPException(401, "Please log in.")


async def login(request: Request) -> Response:
    # A real application checks a password here.
    name = request.path_params["name"][:MAX_NAME_LENGTH]
    session_of(request)["user_id"] = name  # the ID changes with this response, by itself
    return JSONResponse({"hello": name})


async def logout(request: Request) -> Response:
    session_of(request).invalidate()
    return Response(status_code=204)


async def list_sessions(request: Request) -> Response:
    sessions = await manager_of(request).alist_sessions(user_of(request))
    return JSONResponse(
        [
            {
                "handle": info.handle,
                "this_one": info.handle == session_of(request).handle,
                "created_at": info.created_at.isoformat(),
                "last_seen": info.last_seen.isoformat(),
                "expires_at": info.expires_at.isoformat(),
                "ip": info.ip,
                "user_agent": info.user_agent,
            }
            for info in sessions
        ]
    )


async def revoke(request: Request) -> Response:
    # `user_id` makes sure that nobody ends a session of somebody else.
    await manager_of(request).arevoke(request.path_params["handle"], user_id=user_of(request))
    return Response(status_code=204)


async def revoke_others(request: Request) -> Response:
    await manager_of(request).arevoke_user(user_of(request), keep=session_of(request))
    return Response(status_code=204)


app = Starlette(
    routes=[
        Route("/login/{name}", login, methods=["POST"]),
        Route("/logout", logout, methods=["POST"]),
        Route("/sessions", list_sessions),
        Route("/sessions", revoke_others, methods=["DELETE"]),
        Route("/sessions/{handle}", revoke, methods=["DELETE"]),
    ]
)
app.add_middleware(
    SessionMiddleware,
    # Without SECRET_KEY a restart ends all sessions, and a second worker would not know them.
    secret_key=os.environ.get("SECRET_KEY") or secrets.token_urlsafe(48),
    store=DATABASE_URL,
    idle_timeout=1800,
    absolute_timeout=12 * 3600,
    record_client=True,
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=8000)
