"""Each key of a session as a register that many write: stale and lost values."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from tests.history.records import NEVER, OWN_KEYS, Bounds, Operation, Outcome, Violation, parse
from tests.history.sessions import Story

REPLAY_SECONDS = 15.0
"""After so long a change whose answer was lost is not repeated any more."""


@dataclass
class _Write:
    """A value or a deletion: ``visible`` at the latest from then, no more put there ``until``."""

    by: Operation
    is_value: bool
    visible: float
    until: float
    surely: bool


@dataclass
class _Key:
    writes: list[_Write] = field(default_factory=list)
    reads: list[Operation] = field(default_factory=list)


class Registers:
    """All keys of one session."""

    def __init__(self, story: Story, bounds: Bounds) -> None:
        self._story = story
        self._bounds = bounds
        self._first_seen = self._when_first_seen()
        self.lateness: list[float] = []

    def _when_first_seen(self) -> dict[int, float]:
        first: dict[int, float] = {}
        for read in self._story.reads:
            assert read.seen is not None
            for key, text in read.seen.items():
                value = None if key in OWN_KEYS else parse(text)
                if value is not None:
                    first[value.number] = min(first.get(value.number, NEVER), read.answered)
        for each in self._story.operations:
            value = parse(each.result) if each.kind == "take" else None
            if value is not None:
                first[value.number] = min(first.get(value.number, NEVER), each.answered)
        return first

    def violations(self) -> Iterator[Violation]:
        keys = {
            each.key for each in self._story.operations if each.key and each.key not in OWN_KEYS
        }
        for key in sorted(keys):
            yield from self._examine(key)

    def _writes(self, key: str) -> list[_Write]:
        writes = (self._write(key, each) for each in self._story.operations)
        return [each for each in writes if each is not None]

    def _write(self, key: str, by: Operation) -> _Write | None:
        acted = by.may_have_acted or (self._story.replays and by.outcome is Outcome.FAILED)
        if not acted or by.kind == "boom":
            return None
        is_value, surely = True, by.outcome is Outcome.OK
        match by.kind:
            case "create" | "set" | "nest" | "reset" if by.key == key:
                pass
            case "reset":
                is_value = False
            case "del" if by.key == key:
                is_value = False
                if by.seen is not None and key not in by.seen:
                    return None
            case "take" if by.key == key:
                is_value = False
                if by.outcome is Outcome.OK and by.result is None:
                    return None
            case "login":
                is_value = False
                if surely and by.new_token is None:
                    return None
                before = "" if by.seen is None else by.seen.get("user_id", "")
                if by.seen is not None and before in ("", by.user):
                    return None
            case _:
                return None
        if surely and by.kind != "take":
            wide = max(self._bounds.calm, self._bounds.rough)
            surely = not self._story.was_dropped(by, wide)
        answered = by.answered if surely else NEVER
        seen = self._first_seen.get(by.number, NEVER) if is_value else NEVER
        visible = min(answered, seen)
        until = visible
        if self._story.replays:
            until = answered if surely else by.sent + REPLAY_SECONDS
        return _Write(by, is_value, visible, until, surely)

    def _examine(self, key: str) -> Iterator[Violation]:
        writes = sorted(self._writes(key), key=lambda each: each.by.sent)
        if not writes:
            return
        sent = [each.by.sent for each in writes]
        # Of all writes from this one on: when the first of them was surely visible.
        overwritten = list(accumulate((each.visible for each in reversed(writes)), min))[::-1]
        values = [each for each in writes if each.is_value]
        value_sent = [each.by.sent for each in values]
        set_again = list(accumulate((each.visible for each in reversed(values)), min))[::-1]
        deletions = [each for each in writes if not each.is_value]
        deletion_sent = [each.by.sent for each in deletions]
        deleting = list(accumulate((each.until for each in deletions), max))
        by_number = {each.by.number: each for each in writes}
        for read in self._story.reads:
            yield from self._read(key, read, read.sent, by_number, writes, sent, overwritten)
            assert read.seen is not None
            if key in read.seen:
                continue
            last = bisect_left(deletion_sent, read.answered) - 1
            quiet_from = deleting[last] if last >= 0 else float("-inf")
            start = bisect_right(value_sent, quiet_from)
            if start < len(values) and read.sent > set_again[start]:
                lost = min(values[start:], key=lambda each: each.visible)
                yield from self._late(key, read, [lost], "and it is not there")
        for each in self._story.operations:
            if each.kind == "take" and each.key == key and each.result is not None:
                yield from self._taken(each, by_number, writes, sent, overwritten)

    def _read(
        self,
        key: str,
        read: Operation,
        moment: float,
        by_number: dict[int, _Write],
        writes: list[_Write],
        sent: list[float],
        overwritten: list[float],
    ) -> Iterator[Violation]:
        """A value that was there: nothing written after it was acknowledged before the read."""
        assert read.seen is not None
        value = parse(read.seen.get(key))
        mine = None if value is None else by_number.get(value.number)
        if mine is None:
            return
        start = bisect_right(sent, mine.until)
        if start < len(writes) and moment > overwritten[start]:
            newer = [each for each in writes[start:] if each.visible < moment]
            yield from self._late(key, read, newer, "and it found an older value", mine.by)

    def _late(
        self,
        key: str,
        read: Operation,
        newer: list[_Write],
        what: str,
        older: Operation | None = None,
    ) -> Iterator[Violation]:
        self.lateness.append(read.sent - min(each.visible for each in newer))
        for each in newer:
            if self._bounds.late(each.visible, read.sent):
                shown = [] if older is None else [older]
                why = f"{key!r} was changed {read.sent - each.visible:.4f} s before, {what}"
                kind = "key lost" if read.final else "stale read"
                yield Violation(kind, why, [*shown, each.by, read])
                return

    def _taken(
        self,
        take: Operation,
        by_number: dict[int, _Write],
        writes: list[_Write],
        sent: list[float],
        overwritten: list[float],
    ) -> Iterator[Violation]:
        """A take asks the database itself: no bound is allowed to it."""
        value = parse(take.result)
        mine = None if value is None else by_number.get(value.number)
        if mine is None:
            return
        start = bisect_right(sent, mine.until)
        if start < len(writes) and take.sent > overwritten[start]:
            newer = min(writes[start:], key=lambda each: each.visible)
            why = f"{take.key!r} was changed before, and an older value was taken"
            yield Violation("stale take", why, [mine.by, newer.by, take])
