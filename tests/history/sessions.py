"""The story of each session: its operations, and what surely or possibly ended or replaced it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.history.records import Operation, Outcome

BARRIERS = frozenset({"login", "rotate", "reset", "logout", "clear"})
ROTATIONS = frozenset({"login", "rotate"})


@dataclass
class Story:
    """All that concerns one session, in the order it was sent."""

    name: str
    operations: list[Operation] = field(default_factory=list)
    replays: bool = False
    reads: list[Operation] = field(default_factory=list)
    """What found the session, whatever it did afterwards."""
    misses: list[Operation] = field(default_factory=list)
    """What found nothing."""
    by_number: dict[int, Operation] = field(default_factory=dict)
    ends: list[Operation] = field(default_factory=list)
    """After the answer of any of these the session is over."""
    possible_ends: list[Operation] = field(default_factory=list)
    """Any of these may have ended it."""
    barriers: list[Operation] = field(default_factory=list)

    def was_dropped(self, write: Operation, slack: float) -> bool:
        """Whether a save that was not confirmed may have been dropped in silence.

        A parallel request that replaced the session is a reason, and one that a worker had not
        heard of yet (``slack``): but whoever brings the ID of a rotation has found its outcome.
        """
        if write.explicit or write.new_token is not None:
            return False
        return any(
            each is not write
            and each.sent < write.answered
            and (each.outcome is not Outcome.OK or each.answered + slack > write.sent)
            and not (each.kind in ROTATIONS and each.token < write.token)
            for each in (*self.barriers, *self.possible_ends)
        )


def stories(history: Iterable[Operation], *, replays: bool = False) -> dict[str, Story]:
    """Sort a history by session."""
    told: dict[str, Story] = {}
    revocations: list[Operation] = []
    for each in sorted(history, key=lambda each: each.sent):
        if each.kind == "revoke":
            revocations.append(each)
            continue
        story = told.get(each.session)
        if story is None:
            story = told[each.session] = Story(each.session, replays=replays)
        story.operations.append(each)
        story.by_number[each.number] = each
        if each.seen:
            story.reads.append(each)
        elif each.seen is not None and each.kind != "create":
            story.misses.append(each)
        if each.kind in BARRIERS and _may_act(each, replays) and not was_in_vain(each):
            story.barriers.append(each)
    by_user = _by_user(revocations)
    for story in told.values():
        _note_ends(story, by_user)
    return told


def _may_act(each: Operation, replays: bool) -> bool:
    return each.may_have_acted or (replays and each.outcome is Outcome.FAILED)


def _by_user(revocations: Sequence[Operation]) -> dict[str, list[Operation]]:
    found: dict[str, list[Operation]] = defaultdict(list)
    for each in revocations:
        if each.may_have_acted:
            found[each.user].append(each)
    return found


def _note_ends(story: Story, revocations: dict[str, list[Operation]]) -> None:
    for each in story.operations:
        if each.kind in ("logout", "clear") and _may_act(each, story.replays):
            story.possible_ends.append(each)
            if each.outcome is Outcome.OK and (each.kind == "logout" or each.expired_cookie):
                story.ends.append(each)
    logins = [
        each
        for each in story.operations
        if each.kind == "login" and _may_act(each, story.replays) and not was_in_vain(each)
    ]
    for user in {each.user for each in logins}:
        for revocation in revocations.get(user, ()):
            if any(each.user == user and each.sent < revocation.answered for each in logins):
                story.possible_ends.append(revocation)
                if revocation.outcome is Outcome.OK and _is_surely(user, logins, revocation):
                    story.ends.append(revocation)


def was_in_vain(each: Operation) -> bool:
    """Whether a rotation was dropped: another one was quicker."""
    return each.kind in ROTATIONS and each.outcome is Outcome.OK and each.new_token is None


def _is_surely(user: str, logins: Sequence[Operation], revocation: Operation) -> bool:
    """Whether the session was this user's, and nobody else's, all through the revocation."""
    mine = [
        each
        for each in logins
        if each.user == user and each.outcome is Outcome.OK and each.answered < revocation.sent
    ]
    if not mine:
        return False
    last = max(mine, key=lambda each: each.sent)
    return all(
        each.user == user
        or (each.outcome is Outcome.OK and each.answered < last.sent)
        or (each.sent > revocation.answered)
        for each in logins
    )
