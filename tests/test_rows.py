"""Rows: what follows from a request's wish and the row as it is in the database now."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionware import SessionTooLarge
from sessionware.merging import diff, merge
from sessionware.records import DEFAULT, NO_OWNER, SECONDS, Expiry, read_header
from sessionware.rows import Change, Done, Emptied, Lost, Next, RowMaker, owner_of, started
from sessionware.stores.protocol import Row
from tests.byhand import CODEC, NOON, WEEK, change_to, content_of, row_maker, stored

MINUTE, HOUR = 60_000, 3_600_000
MAKER = row_maker()
BASE = {"a": 1, "b": 2}
LOADED = stored(MAKER, BASE)


def following(
    change: Change, current: Row | None, loaded: Row = LOADED, maker: RowMaker = MAKER
) -> Any:
    return maker.following(change, loaded, current)


def written_by(content: dict[str, Any], base: dict[str, Any] = BASE, **more: Any) -> Change:
    """The wish of a request that turned ``base`` into this content."""
    payload, rich = CODEC.encode(base)
    return change_to(content, base=payload, base_rich=rich, **more)


def after(content: dict[str, Any], row: Row = LOADED, maker: RowMaker = MAKER, **more: Any) -> Row:
    """The row when another request has left this content in it."""
    verdict = maker.following(change_to(content, barrier=False, **more), row, row)
    assert isinstance(verdict, Next)
    return verdict.row


LATER = after({"a": 1, "b": 3, "c": 4})


def test_a_new_row_has_everything_that_its_change_says() -> None:
    sid_hash, handle = os.urandom(32), os.urandom(6)
    change = change_to(BASE, user_id="alice", login=True, client=("::1", "curl"))
    made = MAKER.first(change, sid_hash, handle)
    row = made.row
    assert (row.id, row.sid_hash, row.version, row.epoch) == (0, sid_hash, 1, 0)
    assert (row.user_id, row.ip, row.user_agent) == ("alice", "::1", "curl")
    assert row.created_at == row.authenticated_at == row.last_seen == NOON
    assert row.expires_at == NOON + WEEK <= row.purge_after
    assert content_of(MAKER, row) == BASE
    header = read_header(row.data)
    assert header == made.header
    assert (header.nonce, header.handle, header.owner) == (
        change.nonce,
        handle,
        owner_of("alice"),
    )
    assert (header.renewed, header.expiry.kind, made.renewed) == (NOON, DEFAULT, True)


def test_a_new_row_without_a_login_has_no_login_time_and_nobodys_data() -> None:
    row = stored(MAKER, BASE)
    assert row.authenticated_at is None
    assert read_header(row.data).owner == NO_OWNER
    assert started(row) == row.created_at


def test_an_untouched_row_is_written_over_with_the_next_version() -> None:
    verdict = following(written_by({"a": 9}), LOADED)
    assert verdict.row.version == LOADED.version + 1
    assert verdict.row.epoch == LOADED.epoch
    assert verdict.row.sid_hash == LOADED.sid_hash
    assert content_of(MAKER, verdict.row) == {"a": 9}
    assert verdict.row.data == MAKER.records.write(
        verdict.header, verdict.payload, verdict.rich, sid_hash=LOADED.sid_hash
    )


def test_a_row_that_another_request_changed_is_merged_by_key() -> None:
    verdict = following(written_by({"a": 9, "b": 2}), LATER)
    assert verdict.row.version == LATER.version + 1
    assert content_of(MAKER, verdict.row) == {"a": 9, "b": 3, "c": 4}


def test_a_row_of_the_same_version_that_was_only_read_again_is_written_over() -> None:
    verdict = following(written_by({"a": 9}), LOADED._replace())
    assert content_of(MAKER, verdict.row) == {"a": 9}


CONTENTS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2), min_size=1, max_size=4)


@given(CONTENTS, CONTENTS, CONTENTS)
def test_what_is_written_is_the_merge_of_both(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    loaded = stored(MAKER, base)
    change = written_by(mine, base)
    verdict = following(change, after(theirs, loaded), loaded)
    expected = merge(diff(base, mine, CODEC.fingerprint), mine, theirs)
    if expected:
        assert content_of(MAKER, verdict.row) == expected
    else:
        assert verdict == Emptied()


def test_deleting_the_last_keys_spares_what_another_request_added() -> None:
    emptied = written_by({})
    assert following(emptied, LOADED) == Emptied()
    assert content_of(MAKER, following(emptied, LATER).row) == {"c": 4}
    assert following(emptied, after({"a": 7})) == Emptied()


def test_a_barrier_replaces_everything_and_moves_the_epoch() -> None:
    verdict = following(change_to({"z": 1}, barrier=True), LATER)
    assert content_of(MAKER, verdict.row) == {"z": 1}
    assert verdict.row.epoch == LATER.epoch + 1
    assert following(change_to({}, barrier=True), LATER) == Emptied()


LOST: dict[str, Row | None] = {
    "it is gone": None,
    "it has expired": LATER._replace(expires_at=NOON),
    "its epoch moved": LATER._replace(epoch=LATER.epoch + 1),
    "its record is too short": LATER._replace(data=b"short"),
    "its record has another format": LATER._replace(data=b"\x63" + LATER.data[1:]),
    "its record is no JSON": LATER._replace(data=LATER.data[:-1]),
    "its record is sealed": LATER._replace(data=LATER.data[:1] + b"\x02" + LATER.data[2:]),
}


@pytest.mark.parametrize("current", LOST.values(), ids=LOST)
@pytest.mark.parametrize("rotating", [False, True])
def test_the_change_is_dropped_if(current: Row | None, rotating: bool) -> None:
    new_hash = os.urandom(32) if rotating else None
    assert isinstance(following(written_by({"a": 9}, new_hash=new_hash), current), Lost)


def test_it_may_be_written_until_the_millisecond_it_expires() -> None:
    last = LATER._replace(expires_at=NOON + 1)
    assert isinstance(following(written_by({"a": 9}), last), Next)


def test_no_reason_for_a_loss_tells_any_data() -> None:
    for current in LOST.values():
        verdict = following(written_by({"a": 9}, nonce=b"secrets!"), current)
        assert "secrets!" not in repr(verdict)
        assert set(verdict.reason) <= set("abcdefghijklmnopqrstuvwxyz' ")


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("ago", [0, 2 * WEEK])
def test_a_write_whose_answer_was_lost_is_found_by_its_nonce(epoch: int, ago: int) -> None:
    """Even if the session has expired since, or if the write itself moved the epoch."""
    change = written_by({"a": 9})
    verdict = following(change, LOADED)
    now_there = verdict.row._replace(epoch=epoch, expires_at=verdict.row.expires_at - ago)
    assert following(change, now_there) == Done(now_there)


def test_someone_elses_write_after_mine_is_not_taken_for_mine() -> None:
    change = written_by({"a": 9})
    mine = following(change, LOADED).row
    verdict = following(change, after({"a": 10, "c": 1}, mine))
    assert content_of(MAKER, verdict.row) == {"a": 9, "c": 1}
    assert verdict.row.version == 4


def test_the_size_is_checked_again_after_a_merge() -> None:
    small = row_maker(max_bytes=60)
    loaded = stored(small, {"a": 1})
    mine = written_by({"a": 1, "mine": "x" * 30}, {"a": 1})
    assert isinstance(following(mine, loaded, loaded, small), Next)
    both = after({"a": 1, "theirs": "y" * 30}, loaded, small)
    with pytest.raises(SessionTooLarge) as caught:
        following(mine, both, loaded, small)
    assert caught.value.limit == 60
    assert caught.value.size > 60
    assert {key for key, _ in caught.value.largest} == {"mine", "theirs", "a"}
    assert "xxx" not in str(caught.value)


def test_too_large_names_the_three_largest_keys_largest_first() -> None:
    content = {"a": "x", "b": "x" * 50, "c": "x" * 20, "d": "x" * 30}
    with pytest.raises(SessionTooLarge) as caught:
        row_maker(max_bytes=99).encode(content)
    assert [key for key, _ in caught.value.largest] == ["b", "d", "c"]
    assert isinstance(row_maker(max_bytes=caught.value.size).encode(content), tuple)


class TestEdits:
    """An edit works on the content as it is in the database."""

    @staticmethod
    def edit(change: Any) -> Change:
        return Change(nonce=os.urandom(8), now=NOON, edit=change, may_renew=False)

    @pytest.mark.parametrize("current", [LOADED, LATER], ids=["as loaded", "changed since"])
    def test_it_sees_the_current_content_and_gives_its_result(self, current: Row) -> None:
        take_b = self.edit(lambda content: (True, content.pop("b")))
        verdict = following(take_b, current)
        before = content_of(MAKER, current)
        assert verdict.result == before.pop("b")
        assert content_of(MAKER, verdict.row) == before

    def test_one_that_changes_nothing_writes_nothing(self) -> None:
        verdict = following(self.edit(lambda content: (False, 7)), LATER)
        assert verdict == Done(LATER, 7)

    def test_one_that_leaves_nothing_empties_it_and_still_gives_its_result(self) -> None:
        def clear(content: dict[Any, Any]) -> tuple[bool, Any]:
            content.clear()
            return True, 7

        assert following(self.edit(clear), LATER) == Emptied(7)

    def test_its_exception_goes_through(self) -> None:
        def fail(content: dict[Any, Any]) -> tuple[bool, Any]:
            raise TypeError("no number")

        with pytest.raises(TypeError, match="no number"):
            following(self.edit(fail), LATER)


class TestRotations:
    def test_the_id_the_epoch_and_the_version_change_and_the_handle_stays(self) -> None:
        new_hash = os.urandom(32)
        verdict = following(written_by(BASE, new_hash=new_hash), LOADED)
        row = verdict.row
        assert (row.sid_hash, row.epoch, row.version) == (new_hash, 1, 2)
        assert (row.id, row.created_at) == (LOADED.id, LOADED.created_at)
        assert verdict.header.handle == read_header(LOADED.data).handle

    def test_it_merges_what_another_request_wrote_meanwhile(self) -> None:
        verdict = following(written_by({"a": 9, "b": 2}, new_hash=os.urandom(32)), LATER)
        assert content_of(MAKER, verdict.row) == {"a": 9, "b": 3, "c": 4}

    @pytest.mark.parametrize("now", [NOON, NOON + HOUR])
    def test_it_renews_the_lifetime_but_not_the_login(self, now: int) -> None:
        hers = stored(MAKER, BASE, user_id="alice", login=True)
        change = written_by(BASE, now=now, new_hash=os.urandom(32))
        verdict = following(change, hers, hers)
        assert verdict.renewed
        assert verdict.row.expires_at == now + WEEK
        assert (verdict.row.user_id, verdict.row.authenticated_at) == ("alice", NOON)

    def test_one_that_began_before_another_renewed_the_lifetime_does_not_cut_it_short(self) -> None:
        renewed = after({"a": 1, "b": 3}, now=NOON + 24 * HOUR)
        assert renewed.expires_at == NOON + 24 * HOUR + WEEK
        verdict = following(written_by(BASE, new_hash=os.urandom(32)), renewed)
        assert verdict.row.expires_at == renewed.expires_at
        assert verdict.header.renewed == NOON + 24 * HOUR


class TestUsers:
    def test_a_login_sets_user_login_time_owner_and_client(self) -> None:
        change = written_by(
            {"user_id": "alice"},
            now=NOON + HOUR,
            new_hash=os.urandom(32),
            user_changed=True,
            user_id="alice",
            login=True,
            client=("::1", "curl"),
        )
        verdict = following(change, LOADED)
        row = verdict.row
        assert (row.user_id, row.authenticated_at) == ("alice", NOON + HOUR)
        assert (row.ip, row.user_agent) == ("::1", "curl")
        assert verdict.header.owner == owner_of("alice")

    def test_a_logout_clears_user_and_login_time_and_remembers_whose_data_it_is(self) -> None:
        hers = stored(MAKER, BASE, user_id="alice", login=True, client=("::1", "curl"))
        change = written_by(BASE, new_hash=os.urandom(32), user_changed=True, user_id=None)
        verdict = following(change, hers, hers)
        assert (verdict.row.user_id, verdict.row.authenticated_at) == (None, None)
        assert verdict.header.owner == owner_of("alice")

    def test_a_login_without_a_client_keeps_the_one_there_was(self) -> None:
        hers = stored(MAKER, BASE, user_id="alice", login=True, client=("::1", "curl"))
        verdict = following(written_by(BASE, login=True), hers, hers)
        assert (verdict.row.ip, verdict.row.user_agent) == ("::1", "curl")

    def test_an_ordinary_change_leaves_the_login_alone(self) -> None:
        hers = stored(MAKER, BASE, user_id="alice", login=True)
        row = following(written_by({"a": 9}, now=NOON + HOUR), hers, hers).row
        assert (row.user_id, row.authenticated_at) == ("alice", NOON)

    @given(st.text(), st.text())
    def test_owners_differ_as_users_do_and_say_nothing_of_them(self, one: str, two: str) -> None:
        assert (owner_of(one) == owner_of(two)) == (one == two)
        assert len(owner_of(one)) == 8
        assert owner_of(one) != NO_OWNER == owner_of(None)


class TestTimes:
    @pytest.mark.parametrize(
        ("later", "renewed"), [(0, False), (WEEK // 10 - 1, False), (WEEK // 10, True)]
    )
    def test_a_save_renews_the_lifetime_when_a_tenth_of_it_has_passed(
        self, later: int, renewed: bool
    ) -> None:
        verdict = following(written_by({"a": 9}, now=NOON + later), LOADED)
        assert verdict.renewed is renewed
        assert verdict.row.expires_at == NOON + WEEK + (later if renewed else 0)
        assert verdict.row.last_seen == NOON + later

    def test_a_save_after_the_response_has_begun_renews_nothing(self) -> None:
        change = written_by({"a": 9}, now=NOON + WEEK // 2, may_renew=False)
        verdict = following(change, LOADED)
        assert not verdict.renewed
        assert verdict.row.expires_at == NOON + WEEK

    def test_another_expiry_counts_as_a_renewal(self) -> None:
        change = written_by(BASE, now=NOON + 1, expiry=Expiry(SECONDS, HOUR))
        verdict = following(change, LOADED)
        assert verdict.renewed
        assert verdict.header.expiry == Expiry(SECONDS, HOUR)
        assert verdict.row.expires_at == NOON + 1 + HOUR

    def test_the_expiry_that_was_set_stays_until_it_is_set_again(self) -> None:
        short = stored(MAKER, BASE, expiry=Expiry(SECONDS, HOUR))
        verdict = following(written_by({"a": 9}, now=NOON + MINUTE), short, short)
        assert verdict.header.expiry == Expiry(SECONDS, HOUR)

    def test_time_never_runs_backwards_for_a_row(self) -> None:
        """Two hosts' clocks differ by a little."""
        verdict = following(written_by({"a": 9}, now=NOON - 5_000), LOADED)
        assert verdict.row.last_seen == NOON

    @pytest.mark.parametrize("rolling", [False, True])
    def test_saving_all_the_time_keeps_an_idle_session_alive(self, rolling: bool) -> None:
        maker = row_maker(idle=30 * MINUTE, rolling=rolling)
        row = stored(maker, {"n": 0})
        for minute in range(5, 125, 5):
            now = NOON + minute * MINUTE
            change = written_by({"n": minute}, {"n": minute - 5}, now=now)
            verdict = maker.following(change, row, row)
            assert isinstance(verdict, Next), f"expired after {minute} minutes of activity"
            row = verdict.row
        assert row.expires_at > NOON + 125 * MINUTE

    def test_the_absolute_end_is_moved_by_nothing(self) -> None:
        maker = row_maker(absolute=HOUR, idle=30 * MINUTE, rolling=True)
        row = stored(maker, {"n": 0})
        end = row.created_at + HOUR
        for minute in range(1, 60):
            now = NOON + minute * MINUTE
            new_hash = os.urandom(32) if minute % 2 else None
            change = written_by({"n": minute}, {"n": minute - 1}, now=now, new_hash=new_hash)
            verdict = maker.following(change, row, row)
            assert isinstance(verdict, Next)
            row = maker.touched(verdict.row, verdict.header, now)
            assert row.expires_at <= end
        late = written_by({"n": 0}, {"n": 59}, now=end)
        assert isinstance(maker.following(late, row, row), Lost)

    def test_the_absolute_end_counts_from_the_login(self) -> None:
        maker = row_maker(absolute=HOUR)
        row = stored(maker, BASE)
        change = written_by(
            BASE, now=NOON + 30 * MINUTE, user_changed=True, user_id="alice", login=True
        )
        verdict = maker.following(change, row, row)
        assert isinstance(verdict, Next)
        assert verdict.row.expires_at == NOON + 90 * MINUTE

    @pytest.mark.parametrize(
        ("rolling", "ends"), [(False, NOON + WEEK), (True, NOON + HOUR + WEEK)]
    )
    def test_a_touch_moves_times_only_and_the_lifetime_only_with_rolling(
        self, rolling: bool, ends: int
    ) -> None:
        maker = row_maker(rolling=rolling)
        row = stored(maker, BASE)
        touched = maker.touched(row, read_header(row.data), NOON + HOUR)
        assert touched.expires_at == ends <= touched.purge_after
        assert touched.last_seen == NOON + HOUR
        later, before = touched._asdict(), row._asdict()
        assert {name for name in later if later[name] != before[name]} <= {
            "last_seen",
            "expires_at",
            "purge_after",
        }
        renewed = maker.renewed(read_header(touched.data), touched)
        assert renewed == (NOON + HOUR if rolling else NOON)

    def test_the_purge_mark_is_never_early_and_seldom_moves(self) -> None:
        maker = row_maker(idle=HOUR)
        row = stored(maker, BASE)
        header, marks = read_header(row.data), []
        for minute in range(0, 600):
            row = maker.touched(row, header, NOON + minute * MINUTE)
            assert row.expires_at <= row.purge_after <= row.expires_at + 30 * MINUTE
            marks.append(row.purge_after)
        assert len(set(marks)) <= 21

    def test_a_shorter_expiry_brings_the_purge_mark_forward(self) -> None:
        change = written_by(BASE, expiry=Expiry(SECONDS, MINUTE))
        row = following(change, LOADED).row
        assert row.expires_at <= row.purge_after <= row.expires_at + 30_000


def test_no_repr_shows_data_or_ids() -> None:
    hers = stored(MAKER, {"password": "hunter2"}, user_id="alice", login=True)
    new_hash = b"new-hash-of-thirty-two-bytes-..."
    change = written_by(
        {"password": "hunter3"}, new_hash=new_hash, user_id="bob", client=("::1", "curl")
    )
    verdict = following(change, hers, hers)
    shown = repr([change, verdict, hers, Emptied("hunter4"), Done(hers, "hunter5")])
    for secret in ("hunter", "password", "alice", "bob", "new-hash", "curl", "::1"):
        assert secret not in shown
