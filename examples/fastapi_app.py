"""A small FastAPI application with server-side sessions: login, logout, a cart.

Run it from the checkout (after `make env`, or `pip install . fastapi uvicorn` into .venv):

    .venv/bin/python examples/fastapi_app.py

and try it on http://127.0.0.1:8000/docs. Sessions are kept in the SQLite file `sessions.db`;
DATABASE_URL names another database, SECRET_KEY the key that the cookies are signed with.

Requests that change something are safe from other sites: the cookie is `SameSite=Lax`, so that a
browser sends it along with no other site's POST or DELETE.
"""

from __future__ import annotations

import os
import secrets
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from sessionware import ReauthenticationRequired, Session, SessionMiddleware, session_of

app = FastAPI(title="sessionware with FastAPI")
app.add_middleware(
    SessionMiddleware,
    # Without SECRET_KEY a restart ends all sessions, and a second worker would not know them.
    secret_key=os.environ.get("SECRET_KEY") or secrets.token_urlsafe(48),
    store=os.environ.get("DATABASE_URL", "sqlite:///sessions.db"),
    idle_timeout=1800,
    absolute_timeout=12 * 3600,
)


class Login(BaseModel):
    name: str = Field(min_length=1, max_length=40)


class Line(BaseModel):
    item: str = Field(min_length=1, max_length=40)
    quantity: int = Field(default=1, ge=1, le=99)


class User(BaseModel):
    name: str
    session: str
    visits: int


def current_session(request: Request) -> Session:
    """The session with its own type; `request.session` is the same, typed as a plain dict."""
    return session_of(request)


CurrentSession = Annotated[Session, Depends(current_session)]


def current_user(session: CurrentSession) -> str:
    if user := session.get("user_id"):
        return str(user)
    raise HTTPException(401, "Please log in.")


CurrentUser = Annotated[str, Depends(current_user)]


@app.exception_handler(ReauthenticationRequired)
async def ask_to_log_in_again(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "Please log in again."}, status_code=401)


@app.post("/login")
async def login(credentials: Login, session: CurrentSession) -> dict[str, str]:
    # A real application checks a password here.
    session["user_id"] = credentials.name  # the session's ID changes with this response, by itself
    session.rotate(authenticated=True)  # whoever was logged in already has logged in anew
    return {"hello": credentials.name}


@app.post("/logout", status_code=204)
async def logout(session: CurrentSession) -> None:
    session.invalidate()


@app.get("/me")
async def me(user: CurrentUser, session: CurrentSession) -> User:
    session["visits"] = session.get("visits", 0) + 1
    return User(name=user, session=session.handle, visits=session["visits"])


@app.get("/cart")
async def read_cart(session: CurrentSession) -> list[Line]:
    return [Line.model_validate(line) for line in session.get("cart", [])]


@app.post("/cart", status_code=201)
async def add_to_cart(line: Line, session: CurrentSession) -> list[Line]:
    session.setdefault("cart", []).append(line.model_dump())  # nested changes are saved
    return await read_cart(session)


@app.delete("/cart/{item}")
async def remove_from_cart(item: str, session: CurrentSession) -> list[Line]:
    session["cart"] = [line for line in session.get("cart", []) if line["item"] != item]
    return await read_cart(session)


@app.post("/checkout")
async def check_out(user: CurrentUser, session: CurrentSession) -> dict[str, int]:
    """Needs a login not older than ten minutes."""
    session.require_recent(600)
    return {"ordered": sum(line["quantity"] for line in session.pop("cart", []))}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=8000)
