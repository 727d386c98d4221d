"""The app that gunicorn's workers serve, set up by the environment as a deployed one would be.

With ``SERVED_USED`` the process that loads this module, with ``--preload`` the workers' parent,
uses sessions itself before it forks: connections, cache and threads are there.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from sqlalchemy import event
from sqlalchemy.pool import Pool

from sessionware import SessionManager
from sessionware.wsgi import SessionMiddleware
from tests.apps import SECRET
from tests.byhand import Visitor, storing
from tests.processes.served import DEAF
from tests.wsgi.site import answering, query, routes, session_in, showing

TOGETHER = threading.Barrier(int(os.environ.get("SERVED_TOGETHER", "32")), timeout=15)

backends: defaultdict[int, set[int]] = defaultdict(set)
"""By process: the PostgreSQL backends whose connections it used."""
foreign: list[int] = []
"""The processes whose connections this one used although it did not make them."""


@event.listens_for(Pool, "connect")
def note_maker(connection: Any, record: Any) -> None:
    record.info["made by"] = os.getpid()


@event.listens_for(Pool, "checkout")
def note_use(connection: Any, record: Any, _: Any) -> None:
    if record.info["made by"] != os.getpid():
        foreign.append(record.info["made by"])
    info = getattr(connection, "info", None)
    backends[os.getpid()].add(getattr(info, "backend_pid", 0))


manager = SessionManager(
    secret_key=SECRET,
    store=os.environ["SERVED_STORE"],
    table_name=os.environ["SERVED_TABLE"],
    store_timeout=10,
)


def our_threads() -> list[str]:
    names = {thread.name for thread in threading.enumerate()}
    return sorted(name for name in names if name.startswith("sessionware"))


parent: dict[str, Any] = {}
if os.environ.get("SERVED_USED"):
    visitor = Visitor(manager)
    visitor.visit(storing(parent="was here"))
    assert visitor.content() == {"parent": "was here"}
    parent = {
        "pid": os.getpid(),
        "token": str(visitor.cookie).partition("=")[2],
        "threads": our_threads(),
        "cached": manager.stats()["cache_entries"],
    }


def process(environ: WSGIEnvironment) -> Any:
    """What this process has and used."""
    return {
        "threads": our_threads(),
        "backends": sorted(backends[os.getpid()]),
        "parents": sorted(backends[parent["pid"]]),
        "foreign": foreign,
        "parent": parent,
    }


def site(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The usual routes, and some for many threads at once."""
    app: WSGIApplication = routes
    match environ["PATH_INFO"].split("/")[1:]:
        case ["incr"]:
            app = showing(session_in(environ).incr("n"))
        case ["together", "incr"]:
            TOGETHER.wait()
            app = showing(session_in(environ).incr("n"))
        case ["together", "write"]:
            # All have loaded the same state before any of them saves.
            session_in(environ).update(query(environ))
            TOGETHER.wait()
            app = answering()
        case ["process"]:
            app = showing(process(environ))
    return app(environ, start_response)


sessions = SessionMiddleware(site, manager=manager)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Every response says which worker gave it, and where several threads are at it."""

    def signed(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Any:
        # Or the quickest worker would take all connections.
        time.sleep(DEAF)
        return start_response(status, [*headers, ("X-Worker", str(os.getpid()))], exc_info)

    return sessions(environ, signed)
