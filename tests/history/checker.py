"""The checks: pure functions from a history to the promises that it shows broken.

Every check is sound and none is complete: what is reported can't have happened with correct
sessions, in whatever order the requests took effect between being sent and being answered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.history.endings import alive_after_end, old_ids, strange_cookies, vanished
from tests.history.records import OWN_KEYS, Bounds, Operation, Outcome, Violation, parse
from tests.history.registers import Registers
from tests.history.sessions import Story, stories


@dataclass
class Report:
    """What the checks found, and how late the late reads were that the bounds allow."""

    operations: int
    violations: list[Violation] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    """Of each read that did not see an acknowledged change: the time since it."""

    def kinds(self) -> set[str]:
        return {each.check for each in self.violations}

    def percentile(self, share: float) -> float:
        """Of the late reads' lateness, 0 where there was none."""
        ordered = sorted(self.lateness)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    def __str__(self) -> str:
        shown = "\n".join(map(str, self.violations[:10]))
        return f"{len(self.violations)} violations in {self.operations} operations\n{shown}"


def check(
    history: Sequence[Operation], bounds: Bounds | None = None, *, replays: bool = False
) -> Report:
    """Hold a history against all promises.

    ``replays``: connections to the database broke, so a change whose answer was lost may take
    effect a second time, and a refusal may come after the effect.
    """
    bounds = Bounds() if bounds is None else bounds
    report = Report(len(history))
    told = stories(history, replays=replays)
    for story in told.values():
        for examine in _CHECKS:
            report.violations.extend(examine(story, bounds))
        registers = Registers(story, bounds)
        report.violations.extend(registers.violations())
        report.lateness.extend(registers.lateness)
    report.violations.extend(foreign_data(history, told))
    return report


def no_key_from_nowhere(story: Story, bounds: Bounds) -> Iterator[Violation]:
    """Every value was written by an operation on this session, which had begun, and not failed."""
    known: dict[tuple[str, str | int], Operation | None] = {}
    for read in story.reads:
        assert read.seen is not None
        for key, text in read.seen.items():
            if key in OWN_KEYS:
                continue
            if (key, text) not in known:
                value = parse(text)
                known[key, text] = None if value is None else story.by_number.get(value.number)
            writer = known[key, text]
            if writer is None or writer.key != key:
                why = f"nobody has written {text!r} under {key!r}"
                yield Violation("key from nowhere", why, [read])
            elif writer.sent >= read.answered:
                why = f"{text!r} was read before it was written"
                yield Violation("key from nowhere", why, [writer, read])
            elif writer.outcome is Outcome.MISSING or (
                writer.outcome is Outcome.FAILED and (writer.kind == "boom" or not story.replays)
            ):
                why = f"{text!r} was refused or discarded, and is there"
                yield Violation("key from nowhere", why, [writer, read])


def foreign_data(history: Iterable[Operation], told: dict[str, Story]) -> Iterator[Violation]:
    """No request sees another session's name or values."""
    for read in history:
        if not read.seen:
            continue
        names = {read.seen.get("sid")}
        for key, text in read.seen.items():
            if key not in OWN_KEYS and (value := parse(text)) is not None:
                names.add(value.session)
        for name in names - {read.session}:
            what = "another session's data" if name in told else "no name, or an unknown one"
            yield Violation("other session's data", f"it found {what}: {name!r}", [read])


def mixed_users(story: Story, bounds: Bounds) -> Iterator[Violation]:
    """No value that was made for one user is in a session of another."""
    for read in story.reads:
        assert read.seen is not None
        user = read.seen.get("user_id", "")
        login = parse(read.seen.get("who"))
        if (login.user if login is not None else "") != user:
            yield Violation("mixed users", f"{user!r} never logged in like this", [read])
        for key, text in read.seen.items():
            value = None if key in OWN_KEYS else parse(text)
            if value is not None and value.user not in ("", user):
                why = f"{key!r} was made for {value.user!r}, and {user!r} has it"
                yield Violation("mixed users", why, [read])


def lost_increments(story: Story, bounds: Bounds) -> Iterator[Violation]:
    """Increments are counted once each, where nothing ever empties the session."""
    increments = [each for each in story.operations if each.kind == "incr"]
    if not increments or any(each.kind == "reset" for each in story.operations):
        return
    if len({each.user for each in story.operations if each.kind == "login"}) > 1:
        return
    done = [each for each in increments if each.outcome is Outcome.OK]
    begun = sorted(each.sent for each in increments if each.may_have_acted or story.replays)
    acknowledged = sorted(each.answered for each in done)
    totals: dict[str | int | None, Operation] = {}
    for each in done:
        if each.result in totals:
            why = f"two increments gave {each.result}"
            yield Violation("increment lost", why, [totals[each.result], each])
        totals[each.result] = each
        before = _before(acknowledged, each.sent)
        if not isinstance(each.result, int) or not before < each.result:
            why = f"{before} increments were acknowledged before it, and it gave {each.result}"
            yield Violation("increment lost", why, [each])
    for read in story.reads:
        assert read.seen is not None
        number = read.seen.get("n", 0)
        assert isinstance(number, int)
        most = _before(begun, read.answered)
        if number > most:
            why = f"{most} increments had begun, and it found {number}"
            yield Violation("increment doubled", why, [read])
        # Anything in between could have moved the bound: only what is late by each of them counts.
        wide = max(bounds.calm, bounds.rough)
        tight = bounds.calm if bounds.allowed(read.sent - wide, read.sent) == bounds.calm else wide
        least = _before(acknowledged, read.sent - tight)
        if number < least:
            why = f"{least} increments had been acknowledged, and it found {number}"
            kind = "increment lost" if read.final else "stale read"
            yield Violation(kind, why, [read])


def _before(times: Sequence[float], moment: float) -> int:
    """How many of the sorted times lie before the moment."""
    low, high = 0, len(times)
    while low < high:
        middle = (low + high) // 2
        if times[middle] < moment:
            low = middle + 1
        else:
            high = middle
    return low


def taken_twice(story: Story, bounds: Bounds) -> Iterator[Violation]:
    """A one-time value goes to one request."""
    takers: dict[str | int, list[Operation]] = defaultdict(list)
    for each in story.operations:
        if each.kind == "take" and each.outcome is Outcome.OK and each.result is not None:
            takers[each.result].append(each)
    for text, those in takers.items():
        if len(those) > 1:
            yield Violation("taken twice", f"{len(those)} requests got {text!r}", those)
        value = parse(text)
        writer = None if value is None else story.by_number.get(value.number)
        if writer is None or writer.sent >= those[0].answered:
            yield Violation("key from nowhere", f"{text!r} was never there to take", those)


_CHECKS: tuple[Callable[[Story, Bounds], Iterator[Violation]], ...] = (
    no_key_from_nowhere,
    mixed_users,
    lost_increments,
    taken_twice,
    alive_after_end,
    old_ids,
    vanished,
    strange_cookies,
)
