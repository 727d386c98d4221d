"""Whatever happens to the stamp file: each hit asks the database, or the new file is used; nothing
stale, and no request fails.
"""

from __future__ import annotations

import errno
import gc
import json
import logging
import mmap
import os
import shutil
import stat
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sessionware import SessionManager, StoreUnavailable
from sessionware.coherence import stampfile
from sessionware.coherence import stamps as stamps_module
from sessionware.coherence.stampfile import Mapped, file_of, is_remote
from sessionware.coherence.stamps import Hold, StampFile
from tests.byhand import Visitor
from tests.coherence.helping import (
    change,
    content,
    logout,
    served_unasked,
    session,
    until,
    warm,
)
from tests.coherence.virtual import hash_of

Make = Callable[..., SessionManager]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no stamps on Windows")
A, B = hash_of(1), hash_of(2)
LOOK = 0.2
GRACE = 1.5 * LOOK


@pytest.fixture(autouse=True)
def shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second is long for so many tests."""
    monkeypatch.setattr(stamps_module, "LOOK_SECONDS", LOOK)
    monkeypatch.setattr(stamps_module, "GRACE", GRACE)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The database that ``sqlite_url`` names."""
    return tmp_path / "sessions.db"


@pytest.fixture
def stamps(database: Path) -> Path:
    return Path(f"{database}-stamps")


def coherent(here: SessionManager, there: SessionManager, cookie: str, rounds: int = 4) -> None:
    """Each sees at once what the other writes, for longer than a look takes to come."""
    number = time.monotonic_ns()
    until_then = time.monotonic() + GRACE + 0.1
    while rounds > 0 or time.monotonic() < until_then:
        rounds -= 1
        for writer, reader in ((here, there), (there, here)):
            number += 1
            content(reader, cookie)
            change(writer, cookie, n=number)
            assert content(reader, cookie) == {"n": number}
            assert content(writer, cookie) == {"n": number}
        time.sleep(0.02)


def test_nobody_else_may_read_or_write_it(
    make_manager: Make, sqlite_url: str, stamps: Path
) -> None:
    session(make_manager(sqlite_url), n=1)
    assert stat.S_IMODE(stamps.stat().st_mode) == 0o600
    assert [each.name for each in stamps.parent.glob("*stamps*")] == [stamps.name]


def truncate(stamps: Path) -> None:
    replacement = stamps.with_name("short")
    replacement.write_bytes(b"SWSTAMP1")
    replacement.chmod(0o600)
    os.replace(replacement, stamps)


def garble(stamps: Path) -> None:
    replacement = stamps.with_name("garbage")
    replacement.write_bytes(os.urandom(stamps.stat().st_size))
    replacement.chmod(0o600)
    os.replace(replacement, stamps)


def copy(stamps: Path) -> None:
    replacement = stamps.with_name("copy")
    shutil.copy2(stamps, replacement)
    os.replace(replacement, stamps)


def link(stamps: Path) -> None:
    elsewhere = stamps.with_name("elsewhere")
    os.rename(stamps, elsewhere)
    os.symlink(elsewhere, stamps)


def folder(stamps: Path) -> None:
    stamps.unlink()
    stamps.mkdir()


def share(stamps: Path) -> None:
    stamps.chmod(0o666)


ACCIDENTS = [Path.unlink, truncate, garble, copy, link, folder, share]


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_an_accident_to_the_file_while_it_is_in_use_makes_nothing_stale(
    make_manager: Make, sqlite_url: str, stamps: Path, accident: Callable[[Path], Any]
) -> None:
    here, there = make_manager(sqlite_url), make_manager(sqlite_url)
    cookie = session(here, n=1)
    warm(here, cookie)
    warm(there, cookie)
    accident(stamps)
    coherent(here, there, cookie)


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_a_process_that_starts_after_an_accident_is_heard_by_those_that_run(
    make_manager: Make, sqlite_url: str, stamps: Path, accident: Callable[[Path], Any]
) -> None:
    """It must not write unseen because it takes the file for unusable, while others trust it."""
    here = make_manager(sqlite_url)
    cookie = session(here, n=1)
    warm(here, cookie)
    accident(stamps)
    there = make_manager(sqlite_url)
    for number in range(2, 5):
        change(there, cookie, n=number)
        assert content(here, cookie) == {"n": number}


def test_a_file_that_is_gone_is_made_again_and_trusted_after_a_while(
    make_manager: Make, sqlite_url: str, stamps: Path
) -> None:
    here = make_manager(sqlite_url)
    cookie = session(here, n=1)
    warm(here, cookie)
    stamps.unlink()
    until(lambda: content(here, cookie) and stamps.exists())
    warm(here, cookie)


def test_a_row_read_while_others_may_write_by_the_old_file_is_never_trusted(
    sqlite_url: str, database: Path, stamps: Path
) -> None:
    """The interleaving: ``there`` has looked and goes by the old file. The file is deleted.
    ``here`` makes a new one, takes a mark of it and reads the row. ``there`` commits. Now the new
    file counts.
    """
    database.touch()
    here, there = StampFile(str(database)), StampFile(str(database))
    here.wanted = there.wanted = True
    there.look(lambda: True)
    stamps.unlink()
    here.look(lambda: False)
    mark = here.mark(A)
    hold = there.try_hold((A,))
    assert isinstance(hold, Hold)
    there.let_go(hold, 2)
    time.sleep(GRACE + 0.05)
    here.look(lambda: False)
    assert here.mark(A) is not None
    assert not here.trusts(A, mark)


def test_a_writer_that_waited_long_for_the_lock_moves_the_stamps_of_a_new_file_too(
    database: Path, stamps: Path
) -> None:
    """The interleaving: ``there`` looks, and stands still. The file is deleted, ``here`` makes a
    new one, which counts by and by, and trusts a row. ``there`` goes on by the old file.
    """
    database.touch()
    here, there = StampFile(str(database)), StampFile(str(database))
    here.wanted = there.wanted = True
    there.look(lambda: True)
    stamps.unlink()
    here.look(lambda: False)
    time.sleep(GRACE + 0.05)
    here.look(lambda: False)
    mark = here.mark(A)
    assert here.trusts(A, mark)
    hold = there.try_hold((A,))
    assert isinstance(hold, Hold)
    there.let_go(hold, 2)
    assert not here.trusts(A, mark)


def test_two_event_loops_of_one_process_do_not_hold_the_lock_both(database: Path) -> None:
    """A file lock belongs to the open file, which they share."""
    database.touch()
    one = StampFile(str(database))
    one.wanted = True
    one.look(lambda: True)
    first = one.try_hold((A,))
    assert isinstance(first, Hold)
    assert not isinstance(one.try_hold((A,)), Hold)
    one.let_go(first, 2)
    second = one.try_hold((A,))
    assert isinstance(second, Hold)
    one.let_go(second, 4)


def test_a_wall_clock_that_is_set_back_keeps_no_writer_waiting(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.touch()
    real = time.time
    one = StampFile(str(database))
    one.wanted = True
    one.look(lambda: False)
    monkeypatch.setattr(time, "time", lambda: real() - 3600)
    time.sleep(GRACE + 0.05)
    hold = one.try_hold((A,))
    assert isinstance(hold, Hold)
    one.let_go(hold, 2)


def test_where_nobody_looks_when_asked_to_nothing_is_trusted_for_long(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps_module, "AHEAD_SECONDS", LOOK * 0.6)
    seconds = 100.0
    monkeypatch.setattr(stamps_module, "time", SimpleNamespace(monotonic=lambda: seconds))
    database.touch()
    file = StampFile(str(database))
    file.wanted = True
    asked: list[float] = []
    file.ahead = lambda: asked.append(seconds)
    file.look(lambda: True)
    mark = file.mark(A)
    assert (file.trusts(A, mark), asked) == (True, [])
    seconds += LOOK * 0.8
    assert (file.trusts(A, mark), asked) == (True, [seconds])
    seconds += LOOK
    assert (file.trusts(A, mark), len(asked)) == (False, 1)


def test_slots_that_a_whole_write_did_not_change_keep_their_numbers(database: Path) -> None:
    database.touch()
    one = StampFile(str(database))
    one.wanted = True
    one.look(lambda: True)
    a, b = one.mark(A), one.mark(B)
    hold = one.try_hold(None)
    assert isinstance(hold, Hold)
    assert one.mark(A) is one.mark(B) is None
    one.let_go(hold._replace(hashes=(A,)), 2)
    assert not one.trusts(A, a)
    assert one.trusts(A, 2)
    assert one.trusts(B, b)


# A whole write turns every slot odd, and who makes it may be killed at any moment.


@pytest.fixture
def pair(database: Path) -> tuple[StampFile, StampFile]:
    """The stamps as two processes have them."""
    database.touch()
    made = StampFile(str(database)), StampFile(str(database))
    for each in made:
        each.wanted = True
        each.look(lambda: True)
    return made


def slots_of(stamps: StampFile) -> list[int]:
    assert stamps._mapped is not None
    return list(stamps._mapped.slots)


def begin_whole(stamps: StampFile) -> Mapped:
    hold = stamps.try_hold(None)
    assert isinstance(hold, Hold)
    assert hold.mapped is not None
    return hold.mapped


def look_again(stamps: StampFile) -> None:
    until(stamps.due)
    stamps.look(lambda: False)


@pytest.mark.parametrize("done", [0, 1, 40_000, 65_535, 65_536])
@pytest.mark.parametrize("ending", [False, True], ids=["begun", "ending"])
def test_what_a_killed_whole_write_left_odd_has_new_numbers_after_the_next_look(
    pair: tuple[StampFile, StampFile], done: int, ending: bool
) -> None:
    here, killed = pair
    before = slots_of(here)
    mapped = begin_whole(killed)
    odd = slots_of(here)
    # Killed when it had turned so many of them odd, or given so many back.
    mapped.slots[:] = array(
        "Q", before[:done] + odd[done:] if ending else odd[:done] + before[done:]
    )
    left = slots_of(here)
    mapped.unlock()
    look_again(here)
    after = slots_of(here)
    assert not any(number & 1 for number in after)
    for slot, number in enumerate(left):
        assert (after[slot] == before[slot]) is (not number & 1)


def test_slots_are_left_alone_while_a_whole_write_is_under_way(
    pair: tuple[StampFile, StampFile],
) -> None:
    here, there = pair
    mark = here.mark(A)
    hold = there.try_hold(None)
    assert isinstance(hold, Hold)
    for stamps in pair:
        look_again(stamps)
        assert here.mark(A) is None
    there.let_go(hold._replace(hashes=(B,)), 2)
    assert (here.mark(A), here.mark(B)) == (mark, 2)
    look_again(here)
    assert (here.mark(A), here.mark(B)) == (mark, 2)


def test_the_next_whole_write_mends_what_a_killed_one_left(
    pair: tuple[StampFile, StampFile],
) -> None:
    here, killed = pair
    mark = here.mark(A)
    begin_whole(killed).unlock()
    hold = here.try_hold(None)
    assert isinstance(hold, Hold)
    assert here.mark(A) is here.mark(B) is None
    here.let_go(hold._replace(hashes=(B,)), 2)
    assert here.mark(B) == 2
    assert here.mark(A) not in (None, mark)


def test_a_slot_that_is_odd_until_its_next_write_stays_so_whatever_becomes_of_a_whole_write(
    pair: tuple[StampFile, StampFile],
) -> None:
    """What was asked of the driver may still be carried out."""
    here, killed = pair
    hold = here.try_hold((A,))
    assert isinstance(hold, Hold)
    here.let_go(hold, 5)
    whole = here.try_hold(None)
    assert isinstance(whole, Hold)
    here.let_go(whole._replace(hashes=(B,)), 2)
    assert (here.mark(A), here.mark(B)) == (None, 2)
    begin_whole(killed).unlock()
    look_again(here)
    assert here.mark(A) is None
    assert here.mark(B) not in (None, 2)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the files that are closed."""
    numbers: list[int] = []
    close = os.close

    def note(number: int) -> None:
        numbers.append(number)
        close(number)

    monkeypatch.setattr(os, "close", note)
    return numbers


def test_an_unusable_file_is_closed_once_only(
    database: Path, stamps: Path, closed: list[int]
) -> None:
    """A second close would hit whatever has got the number meanwhile."""
    database.touch()
    stamps.write_bytes(b"x")
    closed.clear()
    with pytest.raises(stampfile.Foreign):
        Mapped(str(stamps), database.stat())
    assert len(closed) == len(set(closed)) <= 1


def test_a_file_that_a_child_has_let_go_of_is_not_closed_again(
    database: Path, stamps: Path, closed: list[int]
) -> None:
    """Nor is what is no file: gevent's ``close`` would raise something else than an OSError."""
    database.touch()
    stampfile.make(str(stamps), database.stat(), 0)
    closed.clear()
    mapped = Mapped(str(stamps), database.stat())
    mapped.abandon()
    del mapped
    gc.collect()
    assert len(closed) == 1
    assert closed[0] >= 0


@pytest.mark.parametrize("kind", ["the file", "its folder"])
def test_processes_that_reach_the_database_by_a_link_share_its_stamps(
    make_manager: Make, tmp_path: Path, kind: str
) -> None:
    real, other = tmp_path / "shared", tmp_path / "release"
    real.mkdir()
    if kind == "the file":
        other.mkdir()
        (other / "s.db").symlink_to(real / "s.db")
    else:
        other.symlink_to(real)
    here = make_manager(f"sqlite:///{real / 's.db'}")
    cookie = session(here, n=1)
    there = make_manager(f"sqlite:///{other / 's.db'}")
    warm(here, cookie)
    warm(there, cookie)
    coherent(here, there, cookie, rounds=2)


def test_a_relative_path_stays_the_same_when_the_process_changes_its_folder(
    make_manager: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = make_manager("sqlite:///s.db")
    cookie = session(here, n=1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    there = make_manager(f"sqlite:///{tmp_path / 's.db'}")
    warm(here, cookie)
    coherent(here, there, cookie, rounds=2)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_database_replaced_by_a_copy_does_not_share_the_stamps_of_the_old_one(
    make_manager: Make, sqlite_url: str, database: Path, stamps: Path
) -> None:
    old = make_manager(sqlite_url)
    cookie = session(old, n=1)
    old.shutdown()
    shutil.copy2(database, database.with_name("copy"))
    os.replace(database.with_name("copy"), database)
    here, there = make_manager(sqlite_url), make_manager(sqlite_url)
    assert content(here, cookie) == {"n": 1}
    coherent(here, there, cookie, rounds=2)
    Mapped(str(stamps), database.stat())


def as_nobody(act: Callable[[], Any]) -> Any:
    """Do it in a child process of another user."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(writes, json.dumps(act()).encode())
        except BaseException as error:
            os.write(writes, json.dumps(f"{type(error).__name__}: {error}").encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writes)
    with open(reads, "rb") as answer:
        return json.loads(answer.read())


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that everybody can reach and write."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can act as other users")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def test_a_user_who_cannot_write_the_file_replaces_it_by_one_that_nobody_trusts(
    make_manager: Make, shared_folder: Path
) -> None:
    url = f"sqlite:///{shared_folder / 's.db'}"
    here = make_manager(url)
    cookie = session(here, n=1)
    for each in shared_folder.glob("s.db*"):
        if not each.name.endswith("-stamps"):
            each.chmod(0o666)
    warm(here, cookie)

    def write(number: int) -> bool:
        change(make_manager(url), cookie, n=number)
        return True

    for number in range(2, 5):
        assert as_nobody(lambda number=number: write(number)) is True  # type: ignore[misc]
        assert content(here, cookie) == {"n": number}
        change(here, cookie, n=-number)
        assert content(here, cookie) == {"n": -number}
    assert not served_unasked(here, cookie)
    assert b"delete this file" in (shared_folder / "s.db-stamps").read_bytes()


def test_where_the_file_can_be_neither_written_nor_replaced_reads_go_on_and_writes_are_refused(
    shared_folder: Path,
) -> None:
    database = shared_folder / "s.db"
    database.touch()
    database.chmod(0o666)
    mine = StampFile(str(database))
    mine.wanted = True
    mine.look(lambda: True)
    shared_folder.chmod(0o755)

    def look() -> Any:
        theirs = StampFile(str(database))
        theirs.look(lambda: False)
        time.sleep(GRACE)
        return [theirs.mark(A), theirs.try_hold((A,))]

    assert "run all processes as one user" in as_nobody(look)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO])
def test_a_process_that_alone_can_not_open_the_file_writes_nothing_that_others_would_not_see(
    make_manager: Make, sqlite_url: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = make_manager(sqlite_url), make_manager(sqlite_url)
    cookie = session(here, n=1)
    warm(here, cookie)

    def fail(*_: object) -> Mapped:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as trouble:
        trouble.setattr(stamps_module, "Mapped", fail)
        with pytest.raises(StoreUnavailable, match=os.strerror(number)):
            logout(there, cookie)
        assert content(there, cookie) == content(here, cookie) == {"n": 1}

    time.sleep(stamps_module.AHEAD_SECONDS)
    logout(there, cookie)
    assert content(here, cookie) == {}


@pytest.mark.parametrize("number", [errno.ENODEV, errno.EINVAL, errno.ENOSYS])
def test_on_a_file_system_where_none_can_be_mapped_each_hit_asks_the_database(
    make_manager: Make, sqlite_url: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> mmap.mmap:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("sessionware.coherence.stampfile.mmap.mmap", fail)
    here, there = make_manager(sqlite_url), make_manager(sqlite_url)
    cookie = session(here, n=1)
    assert content(there, cookie) == content(here, cookie) == {"n": 1}
    logout(there, cookie)
    assert content(here, cookie) == {}


def test_in_a_folder_that_takes_no_new_file_each_hit_asks_the_database(shared_folder: Path) -> None:
    database = shared_folder / "s.db"
    database.touch()
    shared_folder.chmod(0o755)

    def look() -> Any:
        stamps = StampFile(str(database))
        stamps.wanted = True
        stamps.look(lambda: True)
        time.sleep(GRACE)
        return [stamps.missing, stamps.mark(A), isinstance(stamps.try_hold((A,)), Hold)]

    assert as_nobody(look) == [True, None, True]


def test_without_file_locks_each_hit_asks_the_database_and_one_line_says_so(
    make_manager: Make,
    sqlite_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As on Windows."""
    monkeypatch.setattr("sessionware.coherence.stamps.have_locks", False)
    here, there = make_manager(sqlite_url), make_manager(sqlite_url, coherence="validate")
    with caplog.at_level(logging.WARNING, "sessionware"):
        cookie = session(here, n=1)
        coherent(here, there, cookie, rounds=2)
    assert not served_unasked(here, cookie)
    assert [record.message.split()[0] for record in caplog.records] == ["SW017"]


MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
server:/export /srv/nfs nfs4 rw 0 0
tmpfs /srv/nfs/local tmpfs rw 0 0
user@host: /mnt/with\\040space fuse.sshfs rw 0 0
share /mnt/\u00e4 virtiofs rw 0 0
proc /proc proc rw
bad line
"""


@pytest.mark.parametrize(
    ("path", "remote"),
    [
        ("/srv/db/s.db", False),
        ("/srv/nfs/s.db", True),
        ("/srv/nfs/deep/er/s.db", True),
        ("/srv/nfs/local/s.db", False),
        ("/srv/nfsx/s.db", False),
        ("/mnt/with space/s.db", True),
        ("/mnt/\u00e4/s.db", True),
    ],
)
def test_a_network_file_system_is_known_by_the_systems_mounts(
    tmp_path: Path, path: str, remote: bool
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_bytes(MOUNTS.encode() + b"x /\xff\xfe nfs rw 0 0\n")
    assert is_remote(path, str(mounts)) is remote


def test_without_a_list_of_mounts_a_file_system_counts_as_local(tmp_path: Path) -> None:
    assert not is_remote("/srv/s.db", str(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("database", "query", "path"),
    [
        (None, {}, None),
        ("", {}, None),
        (":memory:", {}, None),
        ("s.db", {}, "s.db"),
        ("file:s.db", {}, "file:s.db"),
        ("file:s.db", {"uri": "true"}, "s.db"),
        ("file:/a/s%20b.db", {"uri": "true"}, "/a/s b.db"),
        ("file:///a/s.db?mode=rw", {"uri": "true"}, "/a/s.db"),
        ("file://localhost/a/s.db", {"uri": "true"}, "/a/s.db"),
        ("file:x?mode=memory&cache=shared", {"uri": "true"}, None),
        ("file:x", {"uri": "true", "mode": "memory"}, None),
        ("file::memory:", {"uri": "true"}, None),
    ],
)
def test_the_file_is_found_that_a_url_names(
    database: str | None, query: dict[str, str], path: str | None
) -> None:
    assert file_of(database, query) == path


def test_a_reader_of_a_database_of_its_own_never_meets_the_stamps_of_another(
    make_manager: Make, tmp_path: Path
) -> None:
    one, two = (make_manager(f"sqlite:///{tmp_path / name}") for name in ("1.db", "2.db"))
    for manager in (one, two):
        visitor = Visitor(manager)
        visitor.visit(lambda each: each.update(n=1))
        assert visitor.cookie is not None
        warm(manager, visitor.cookie)
    assert len(list(tmp_path.glob("*-stamps"))) == 2
