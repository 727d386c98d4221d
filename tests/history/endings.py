"""Checks of a session's identity: its ends, its IDs, its cookies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.history.records import Bounds, Operation, Outcome, Violation
from tests.history.sessions import ROTATIONS, Story


def alive_after_end(story: Story, bounds: Bounds) -> Iterator[Violation]:
    """Nothing is found under any ID of a session that has ended."""
    if not story.ends:
        return
    earliest = min(each.answered for each in story.ends)
    for read in story.reads:
        if read.sent <= earliest + bounds.calm:
            continue
        for end in story.ends:
            if bounds.late(end.answered, read.sent):
                yield Violation("alive after its end", "it had ended", [end, read])
                break


def old_ids(story: Story, bounds: Bounds) -> Iterator[Violation]:
    """Nothing is found under an ID that a rotation has replaced; and it replaces it once."""
    replaced: dict[int, list[Operation]] = defaultdict(list)
    for each in story.operations:
        if each.kind in ROTATIONS and each.outcome is Outcome.OK and each.new_token is not None:
            replaced[each.token].append(each)
    for token, rotations in replaced.items():
        if len(rotations) > 1:
            why = f"ID {token} has two successors"
            yield Violation("old ID alive", why, rotations)
        for read in story.reads:
            if read.token == token and bounds.late(rotations[0].answered, read.sent):
                why = f"ID {token} had been replaced"
                yield Violation("old ID alive", why, [rotations[0], read])


def vanished(story: Story, bounds: Bounds) -> Iterator[Violation]:
    """The session is found under an ID that was given out, unless something may have ended it."""
    killers: dict[int, list[Operation]] = defaultdict(list)
    for each in story.barriers:
        if each.kind in ROTATIONS:
            killers[each.token].append(each)
    for miss in story.misses:
        reasons = (*story.possible_ends, *killers[miss.token])
        if not any(each.sent < miss.answered for each in reasons):
            why = f"nothing has ended it, and it is not found under ID {miss.token}"
            yield Violation("session lost", why, [miss])


def strange_cookies(story: Story, bounds: Bounds) -> Iterator[Violation]:
    """A cookie with an ID that no rotation has made would bring the session back under it."""
    for each in story.operations:
        if each.strange_cookie:
            yield Violation("strange cookie", "it was given an ID unasked", [each])
