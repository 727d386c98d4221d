"""What a client did and what it was told: the material of a history."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

NEVER: Final = float("inf")
OWN_KEYS: Final = frozenset({"sid", "user_id", "who", "n"})
"""Keys with rules of their own; all others hold values of ``value_text``."""


class Outcome(Enum):
    """``MISSING``: the request found no session, so it changed nothing. ``FAILED``: it was refused
    for certain. ``UNKNOWN``: it may or may not have been done, perhaps later.
    """

    OK = "ok"
    MISSING = "missing"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(slots=True, eq=False)
class Operation:
    """One request. Times are of the driver's one clock.

    ``kind``: create, read, set, del, nest, boom, incr, take, login, rotate, reset, logout, clear,
    revoke. ``token`` counts the IDs that the session has had. ``explicit``: the handler saved and
    would have said if that had failed; otherwise a save may be dropped in silence.
    """

    number: int
    kind: str
    session: str
    sent: float
    token: int = -1
    worker: int = 0
    key: str = ""
    user: str = ""
    explicit: bool = False
    final: bool = False
    answered: float = NEVER
    outcome: Outcome = Outcome.UNKNOWN
    status: int = 0
    seen: Mapping[str, str | int] | None = None
    """What the request found, None where nobody knows."""
    result: str | int | None = None
    new_token: int | None = None
    strange_cookie: bool = False
    expired_cookie: bool = False

    @property
    def may_have_acted(self) -> bool:
        return self.outcome in (Outcome.OK, Outcome.UNKNOWN)

    def __repr__(self) -> str:
        what = " ".join(filter(None, (self.kind, self.key, self.user)))
        times = f"{self.sent:.4f}..{self.answered:.4f}"
        extra = "" if self.result is None else f" result={self.result}"
        extra += "" if self.new_token is None else f" new_token={self.new_token}"
        extra += " explicit" if self.explicit else ""
        extra += " final" if self.final else ""
        return (
            f"#{self.number} {what} {self.session} token={self.token} worker={self.worker}"
            f" {times} {self.outcome.value} {self.status}{extra} seen={self.seen}"
        )


def value_text(session: str, number: int, user: object) -> str:
    """The value that an operation writes: it says whose it is. ``user``: as the handler saw it."""
    return f"{session}.{number}.{user or ''}"


class Value(NamedTuple):
    session: str
    number: int
    user: str


def parse(text: object) -> Value | None:
    """Back to whose value it is; None for what no operation writes."""
    parts = text.split(".") if isinstance(text, str) else []
    if len(parts) != 3 or not parts[1].isdigit():
        return None
    return Value(parts[0], int(parts[1]), parts[2])


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken, and the operations that show it."""

    check: str
    why: str
    operations: Sequence[Operation] = field(default=())

    def __str__(self) -> str:
        lines = [f"{self.check}: {self.why}", *(f"    {each!r}" for each in self.operations)]
        return "\n".join(lines)


class Bounds:
    """How long after its acknowledgement a change may go unseen.

    ``calm`` seconds, but ``rough`` where anything between the change and the read falls into one of
    the ``troubles``, intervals in which something was broken.
    """

    def __init__(
        self,
        calm: float = 0.0,
        rough: float | None = None,
        troubles: Sequence[tuple[float, float]] = (),
    ) -> None:
        self.calm = calm
        self.rough = calm if rough is None else rough
        joined: list[tuple[float, float]] = []
        for start, end in sorted(troubles):
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
            else:
                joined.append((start, end))
        self._starts = [start for start, _ in joined]
        self._ends = [end for _, end in joined]

    def allowed(self, changed: float, read: float) -> float:
        """The bound for a change acknowledged then and a read sent then."""
        last = bisect_right(self._starts, read) - 1
        troubled = last >= 0 and self._ends[last] >= changed
        return self.rough if troubled else self.calm

    def late(self, changed: float, read: float) -> bool:
        """Whether a read sent then must have seen the change."""
        return read > changed + self.calm and read > changed + self.allowed(changed, read)
