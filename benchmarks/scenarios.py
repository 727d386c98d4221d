"""What is measured: the kinds of request, and how many at a time."""

from __future__ import annotations

from dataclasses import dataclass

IN_FLIGHT = 64
STAMPEDE = 500


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    page: str
    means: str
    per_second: bool = False
    """Shown as requests a second of the whole app, not as what is added to the bare one."""
    windows: int = 1
    """How many times as long as others it is measured at a stretch: many in flight take a while to
    get into step.
    """


SCENARIOS: tuple[Scenario, ...] = (
    Scenario("read", "warm read", "read", "the session is in the cache; the handler takes a value"),
    Scenario("untouched", "untouched", "plain", "a valid cookie; the handler does not look"),
    Scenario("anonymous", "anonymous", "read", "no cookie; the handler asks for a value"),
    Scenario("forged", "forged", "read", "a cookie that does not verify, or that nobody issued"),
    Scenario("write", "write", "write", "the handler changes a value; one request at a time"),
    Scenario("login", "login", "login", "no cookie; a user is stored: a new session"),
    Scenario("read20", "read 20 KB", "read", "as warm read, with 20 KB"),
    Scenario("write20", "write 20 KB", "write", "as write, with 20 KB"),
    Scenario("cold", "cold read", "read", "the cache of the process is emptied before each"),
    Scenario(
        "writes64", "64 writes", "write", "64 in flight, each of its own session",
        per_second=True, windows=5,
    ),
    Scenario(
        "stampede", "500 cold reads", "read",
        "500 requests of one session at once (WSGI: 64 threads), the cache emptied before",
        per_second=True,
    ),
)  # fmt: skip


def scenario(name: str) -> Scenario:
    return next(each for each in SCENARIOS if each.name == name)
