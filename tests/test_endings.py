"""Endings: from what a request did with its session to a plan and a change."""

from __future__ import annotations

import pytest

from sessionware import SerializationError, Session, SessionTooLarge
from sessionware.endings import Decided, drop_unwritten
from sessionware.merging import Delta
from sessionware.plans import NOTHING, Delete, Insert, Plan, Rotate, Touch, Update
from sessionware.records import SECONDS, Expiry, read_header
from sessionware.rows import Change
from sessionware.stores.protocol import Row
from tests.byhand import CODEC, NOON, content_of, deleting, in_turn, row_maker, stored, storing
from tests.one_request import MAKER, Act, Case


def own_keys(change: Change) -> Delta:
    """Which keys a merge would take from this change."""
    return MAKER.delta(change, CODEC.decode(change.payload, change.rich))


ANYBODYS = stored(MAKER, {"cart": ["tea"], "n": 1})
HERS = stored(MAKER, {"user_id": "alice", "cart": ["tea"]}, user_id="alice", login=True)

PLANS: dict[str, tuple[Row | None, Act, Plan]] = {
    "a new session, read": (None, len, NOTHING),
    "a new session, cleared": (None, Session.clear, NOTHING),
    "a new session, ended": (None, Session.invalidate, NOTHING),
    "a new session, rotated": (None, Session.rotate, NOTHING),
    "a new session, set and deleted": (None, in_turn(storing(a=1), deleting("a")), NOTHING),
    "a new session, stored": (None, storing(a=1), Insert()),
    "a new session, logged in": (None, storing(user_id="alice"), Insert()),
    "untouched": (ANYBODYS, lambda session: None, NOTHING),
    "read": (ANYBODYS, lambda session: session["cart"], NOTHING),
    "the same value stored": (ANYBODYS, storing(n=1), NOTHING),
    "all the same, in another order": (
        ANYBODYS,
        in_turn(deleting("cart"), storing(cart=["tea"])),
        NOTHING,
    ),
    "marked as modified": (ANYBODYS, Session.mark_modified, NOTHING),
    "a nested change": (ANYBODYS, lambda session: session["cart"].append("milk"), Update()),
    "another value of the same length": (ANYBODYS, storing(n=2), Update()),
    "another type of the same value": (ANYBODYS, storing(n=True), Update()),
    "one key deleted": (ANYBODYS, deleting("n"), Update()),
    "all keys deleted": (ANYBODYS, deleting("n", "cart"), Delete()),
    "cleared": (ANYBODYS, Session.clear, Delete(barrier=True)),
    "cleared and stored": (ANYBODYS, in_turn(Session.clear, storing(a=1)), Update(barrier=True)),
    "ended": (ANYBODYS, Session.invalidate, Delete(ended=True)),
    "ended and stored": (
        ANYBODYS,
        in_turn(Session.invalidate, storing(a=1)),
        Delete(ended=True, insert=True),
    ),
    "rotated": (ANYBODYS, Session.rotate, Rotate()),
    "another lifetime": (ANYBODYS, lambda session: session.set_expiry(60), Update()),
    "the configured lifetime": (ANYBODYS, lambda session: session.set_expiry(None), NOTHING),
    "a login": (ANYBODYS, storing(user_id="alice"), Rotate(login=True)),
    "a login as nobody": (ANYBODYS, storing(user_id=None), Update()),
    "the same user again": (HERS, storing(user_id="alice"), NOTHING),
    "the user proven again": (
        HERS,
        lambda session: session.rotate(authenticated=True),
        Rotate(login=True),
    ),
    "a logout by deletion": (HERS, deleting("user_id"), Rotate()),
    "a logout with None": (HERS, storing(user_id=None), Rotate()),
    "another user": (HERS, storing(user_id="bob"), Rotate(login=True, barrier=True)),
}


@pytest.mark.parametrize(("row", "act", "expected"), PLANS.values(), ids=PLANS)
def test_the_plan_for(row: Row | None, act: Act, expected: Plan) -> None:
    decided = Case(row).ends(act)
    assert decided.plan == expected
    assert (decided.change is None) == (expected is NOTHING)


@pytest.mark.parametrize("act", [storing(a=1), Session.clear, storing(user_id="bob")])
def test_a_failed_request_leaves_nothing_behind(act: Act) -> None:
    assert Case(HERS).ends(act, failed=True) == Decided(NOTHING)
    assert Case().ends(act, failed=True) == Decided(NOTHING)


def test_a_failed_request_that_ended_its_session_ends_it_and_writes_nothing() -> None:
    decided = Case(HERS).ends(in_turn(Session.invalidate, storing(a=1)), failed=True)
    assert decided.plan == Delete(ended=True)
    assert decided.change is not None
    assert (decided.change.payload, decided.change.empty) == (b"", True)


@pytest.mark.parametrize("act", [storing(a=1), Session.invalidate, Session.rotate])
def test_a_request_with_an_id_that_was_rotated_away_does_nothing(act: Act) -> None:
    case = Case()
    case.state.savable = False
    assert case.ends(act).plan is NOTHING


class TestUsers:
    def test_from_nobody_to_a_user_everything_stays(self) -> None:
        row = Case(ANYBODYS).leaves(storing(user_id="alice"), now=NOON + 1)
        assert content_of(MAKER, row) == {"cart": ["tea"], "n": 1, "user_id": "alice"}
        assert (row.user_id, row.authenticated_at) == ("alice", NOON + 1)

    def test_from_one_user_to_another_only_what_this_request_wrote_stays(self) -> None:
        case = Case(stored(MAKER, {"user_id": "alice", "cart": [1], "n": 1}, user_id="alice"))
        row = case.leaves(in_turn(storing(n=1, m=2), storing(user_id="bob")))
        assert content_of(MAKER, row) == {"user_id": "bob", "n": 1, "m": 2}
        assert case.session == {"user_id": "bob", "n": 1, "m": 2}
        assert row.user_id == "bob"

    def test_a_nested_change_does_not_carry_a_key_over_to_another_user(self) -> None:
        def act(session: Session) -> None:
            session["cart"].append("hers")
            session["user_id"] = "bob"

        assert content_of(MAKER, Case(HERS).leaves(act)) == {"user_id": "bob"}

    def test_after_a_logout_the_next_user_gets_nothing_of_the_first_ones(self) -> None:
        logged_out = Case(HERS).leaves(deleting("user_id"))
        assert content_of(MAKER, logged_out) == {"cart": ["tea"]}
        assert logged_out.user_id is None
        bobs = Case(logged_out).leaves(storing(user_id="bob"))
        assert content_of(MAKER, bobs) == {"user_id": "bob"}

    def test_after_a_logout_the_same_user_finds_the_data_again(self) -> None:
        logged_out = Case(HERS).leaves(deleting("user_id"))
        hers = Case(logged_out).leaves(storing(user_id="alice"))
        assert content_of(MAKER, hers) == {"cart": ["tea"], "user_id": "alice"}

    def test_the_owner_is_remembered_over_more_requests_after_the_logout(self) -> None:
        row = Case(HERS).leaves(deleting("user_id"))
        row = Case(row).leaves(storing(anonymous=1))
        row = Case(row).leaves(Session.rotate)
        assert content_of(MAKER, Case(row).leaves(storing(user_id="bob"))) == {"user_id": "bob"}

    def test_what_was_cleared_by_hand_belongs_to_nobody(self) -> None:
        act = in_turn(Session.clear, storing(user_id="bob", a=1))
        assert content_of(MAKER, Case(HERS).leaves(act)) == {"user_id": "bob", "a": 1}

    def test_after_an_end_a_new_session_starts_with_a_login(self) -> None:
        decided = Case(HERS).ends(in_turn(Session.invalidate, storing(user_id="bob")))
        change = decided.change
        assert change is not None
        assert (change.user_id, change.login, change.user_changed) == ("bob", True, True)

    def test_a_login_in_a_new_session_is_one(self) -> None:
        row = Case().leaves(storing(user_id=7))
        assert (row.user_id, row.authenticated_at) == ("7", NOON)

    def test_without_user_keys_no_value_is_a_login(self) -> None:
        case = Case(ANYBODYS, user_key=())
        decided = case.ends(storing(user_id="alice"))
        assert decided.plan == Update()
        assert decided.change is not None
        assert (decided.change.user_id, decided.change.login) == (None, False)

    def test_an_unchanged_content_does_not_change_the_user(self) -> None:
        """The row of a session from before `user_key` was set: a read is no login."""
        row = stored(MAKER, {"user_id": "alice"})
        assert Case(row).ends(len).plan is NOTHING

    @pytest.mark.parametrize("record_client", [True, False])
    @pytest.mark.parametrize(
        ("act", "is_login"),
        [(storing(user_id="alice"), True), (storing(a=1), False), (Session.rotate, False)],
    )
    def test_the_client_is_kept_at_a_login_and_only_if_asked_for(
        self, act: Act, is_login: bool, record_client: bool
    ) -> None:
        change = Case(ANYBODYS, record_client=record_client).ends(act).change
        assert change is not None
        kept = ("::1", "curl") if is_login and record_client else None
        assert change.client == kept


class TestChanges:
    def test_a_change_says_which_keys_are_its_own(self) -> None:
        row = stored(MAKER, {"same": 1, "assigned": 1, "changed": 1, "nested": [1], "gone": 1})

        def act(session: Session) -> None:
            session["assigned"] = 1
            session["changed"] = 2
            session["nested"].append(2)
            session["new"] = 3
            del session["gone"]

        change = Case(row).ends(act).change
        assert change is not None
        assert own_keys(change) == Delta(
            frozenset({"assigned", "changed", "nested", "new"}), frozenset({"gone"})
        )
        assert CODEC.decode(change.payload, change.rich)["nested"] == [1, 2]

    def test_a_change_is_not_altered_by_what_the_application_does_afterwards(self) -> None:
        cart: list[str] = []
        change = Case().ends(storing(cart=cart)).change
        cart.append("late")
        assert change is not None
        assert CODEC.decode(change.payload, change.rich) == {"cart": []}

    def test_no_two_changes_have_the_same_nonce(self) -> None:
        changes = [Case().ends(storing(a=1)).change for _ in range(100)]
        assert len({change.nonce for change in changes if change}) == 100

    def test_what_was_set_and_deleted_again_is_not_written(self) -> None:
        change = Case(ANYBODYS).ends(in_turn(storing(a=1, b=2), deleting("a"))).change
        assert change is not None
        assert own_keys(change) == Delta(frozenset("b"), frozenset())

    def test_the_expiry_goes_along_only_if_it_was_set(self) -> None:
        set_and_stored = in_turn(storing(a=1), lambda session: session.set_expiry(60))
        changes = [Case(ANYBODYS).ends(act).change for act in (storing(a=1), set_and_stored)]
        assert [change and change.expiry for change in changes] == [None, Expiry(SECONDS, 60_000)]

    def test_setting_the_expiry_it_has_already_changes_nothing(self) -> None:
        row = Case(ANYBODYS).leaves(lambda session: session.set_expiry(60))
        assert read_header(row.data).expiry == Expiry(SECONDS, 60_000)
        assert Case(row).ends(lambda session: session.set_expiry(60)).plan is NOTHING
        assert Case(row).ends(lambda session: session.set_expiry(61)).plan == Update()

    @pytest.mark.parametrize("started", [False, True])
    def test_after_the_response_has_begun_a_change_may_not_renew(self, started: bool) -> None:
        case = Case(ANYBODYS)
        case.state.started = started
        change = case.ends(storing(a=1)).change
        assert change is not None
        assert change.may_renew is not started

    def test_what_cannot_be_stored_is_refused_and_decides_nothing(self) -> None:
        with pytest.raises(SerializationError):
            Case(ANYBODYS).ends(storing(a=object()))
        with pytest.raises(SessionTooLarge):
            Case(ANYBODYS).ends(storing(a="x" * 65_536))

    def test_what_cannot_be_stored_is_no_business_of_a_failed_request(self) -> None:
        assert Case(ANYBODYS).ends(storing(a=object()), failed=True).plan is NOTHING


class TestTouches:
    IDLE = row_maker(idle=3_600_000)

    @pytest.mark.parametrize("act", [lambda session: None, len])
    @pytest.mark.parametrize("failed", [True, False])
    def test_a_due_touch_is_planned_whether_the_session_was_used_or_not(
        self, act: Act, failed: bool
    ) -> None:
        row = stored(self.IDLE, {"a": 1})
        case = Case(row, maker=self.IDLE)
        early, due = NOON + 359_999, NOON + 360_000
        assert case.ends(act, now=early, failed=failed).plan is NOTHING
        decided = case.ends(act, now=due, failed=failed)
        assert (decided.plan, decided.change) == (Touch(), None)

    def test_a_new_session_has_nothing_to_touch(self) -> None:
        assert Case(maker=self.IDLE).ends().plan is NOTHING


def test_an_untouched_session_is_not_even_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(ANYBODYS)
    monkeypatch.setattr(case.maker, "encode", None)
    assert case.ends(lambda session: None).plan is NOTHING


def test_dropping_and_refilling_are_no_use_of_the_session() -> None:
    session = Session(a=1, b=2)
    session["c"] = 3
    session.forget_intents()
    session.note_written(("b",))
    session.accessed = False
    drop_unwritten(session)
    assert dict(dict.items(session)) == {"b": 2}
    session.refill({"x": 1})
    assert dict(dict.items(session)) == {"x": 1}
    assert not session.accessed
    assert not session.modified
