"""sessionware's demo: one page, two worker processes, one SQLite file. Run it with `make demo`."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl

from jinja2 import Environment, FileSystemLoader
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from sessionware import Session, SessionMiddleware, manager_of, session_of

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("SESSIONWARE_DEMO_DIR", HERE))
IDLE_TIMEOUT = timedelta(minutes=30)
ABSOLUTE_TIMEOUT = timedelta(hours=12)
MAX_FORM_BYTES = 4096
MAX_CART_LINES = 12
MAX_NAME_LENGTH = 40
PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    # A kept-alive connection stays with its worker; a new one lets you meet the other, too.
    "Connection": "close",
}

# Loaded once, here: looking for a newer file at each request would block the event loop.
templates = Jinja2Templates(
    env=Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, auto_reload=False)
)
templates.get_template("index.html")


async def home(request: Request) -> Response:
    session = session_of(request)
    # A one-time value: of two tabs that reload at the same moment, one shows the message.
    flash = await session.atake("flash", None) if "flash" in session else None
    session["visits"] = session.get("visits", 0) + 1
    session.setdefault("workers", set()).add(os.getpid())
    user = session.get("user_id")
    now = datetime.now(UTC)
    started = session.authenticated_at or session.created_at or now
    context = {
        "session": session,
        "user": user,
        "flash": flash,
        "csrf": session.setdefault("csrf", secrets.token_urlsafe()),
        "cart": session.get("cart", []),
        "devices": await manager_of(request).alist_sessions(user) if user else [],
        "worker": os.getpid(),
        "idle_timeout": IDLE_TIMEOUT,
        "absolute_timeout": ABSOLUTE_TIMEOUT,
        "remaining": started + ABSOLUTE_TIMEOUT - now,
        "max_name_length": MAX_NAME_LENGTH,
    }
    return templates.TemplateResponse(request, "index.html", context, headers=PAGE_HEADERS)


async def add_to_cart(request: Request) -> Response:
    item = (await checked_form(request)).get("item", "").strip()[:MAX_NAME_LENGTH]
    session = session_of(request)
    cart = session.setdefault("cart", [])
    line = next((line for line in cart if line["item"] == item), None)
    if line:
        line["quantity"] += 1  # deep inside the list, and saved all the same
    elif len(cart) >= MAX_CART_LINES:
        session["flash"] = "The cart is full."
    elif item:
        cart.append({"item": item, "quantity": 1})
    return back_home()


async def remove_from_cart(request: Request) -> Response:
    item = (await checked_form(request)).get("item")
    session = session_of(request)
    session["cart"] = [line for line in session.get("cart", []) if line["item"] != item]
    return back_home()


async def login(request: Request) -> Response:
    name = (await checked_form(request)).get("name", "").strip()[:MAX_NAME_LENGTH]
    session = session_of(request)
    if name:  # a real application asks for a password here
        session["user_id"] = name  # the session's ID changes with this response, by itself
        session["csrf"] = secrets.token_urlsafe()
        session["flash"] = f"Welcome, {name}. The cookie you had before is worth nothing now."
    return back_home()


async def logout(request: Request) -> Response:
    await checked_form(request)
    session_of(request).invalidate()
    return back_home()


async def revoke(request: Request) -> Response:
    handle = (await checked_form(request)).get("handle", "")
    session = session_of(request)
    # `user_id` makes sure that nobody ends a session of somebody else.
    await manager_of(request).arevoke(handle, user_id=signed_in_user(session))
    session["flash"] = "That device is signed out."
    return back_home()


async def revoke_others(request: Request) -> Response:
    await checked_form(request)
    session = session_of(request)
    await manager_of(request).arevoke_user(signed_in_user(session), keep=session)
    session["flash"] = "You are signed out everywhere else."
    return back_home()


def signed_in_user(session: Session) -> str:
    """The user's name. Raises 403 for a visitor who has not signed in."""
    if user := session.get("user_id"):
        return str(user)
    raise HTTPException(403, "Please sign in first.")


async def checked_form(request: Request) -> dict[str, str]:
    """The fields of a form that this visitor's own page sent. Raises 403 for any other (CSRF)."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise HTTPException(413)
    fields = dict(parse_qsl(body.decode(errors="replace")))
    expected = str(session_of(request).get("csrf", ""))
    if not expected or not secrets.compare_digest(
        fields.get("csrf", "").encode(), expected.encode()
    ):
        raise HTTPException(403, "This form is out of date. Go back and reload the page.")
    return fields


def back_home() -> Response:
    return RedirectResponse("/", status_code=303)


def shared_secret(path: Path) -> str:
    """The key that all workers sign with, now and after a restart. The first one to come makes it.

    The file appears under its name complete and readable by its owner only: `mkstemp` opens with
    mode 0600 and `O_EXCL`, and `link` lets exactly one of several workers win.
    """
    if not path.exists():
        descriptor, draft = tempfile.mkstemp(prefix=path.name, dir=path.parent)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(48))
            with suppress(FileExistsError):
                os.link(draft, path)
        finally:
            os.unlink(draft)
    return path.read_text()


app = Starlette(
    routes=[
        Route("/", home),
        Route("/cart/add", add_to_cart, methods=["POST"]),
        Route("/cart/remove", remove_from_cart, methods=["POST"]),
        Route("/login", login, methods=["POST"]),
        Route("/logout", logout, methods=["POST"]),
        Route("/sessions/revoke", revoke, methods=["POST"]),
        Route("/sessions/revoke-others", revoke_others, methods=["POST"]),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]
)
app.add_middleware(
    SessionMiddleware,
    secret_key=os.environ.get("SESSIONWARE_DEMO_SECRET") or shared_secret(DATA / ".demo-secret"),
    store=f"sqlite:///{DATA / 'demo.db'}",
    idle_timeout=IDLE_TIMEOUT,
    absolute_timeout=ABSOLUTE_TIMEOUT,
    record_client=True,
    exclude=("/static",),
)
