"""The stamps of one SQLite file: slots that all processes of one host share.

A writer turns the slots of its rows odd, commits, and gives them a new even number; a file lock
keeps writers apart, and the operating system frees it when its holder dies. A slot that a crash
left odd is never trusted, and healed by its next write; all of them, where the crash was in a write
that turns all odd, at the next look. Readers compare one number: no I/O, no lock.

Whether the file is still the one beside the database is looked up every ``LOOK_SECONDS``; nothing
is trusted for longer without a look. Whoever makes a new file lets that time pass before anybody
trusts it, and whoever had one and has it no more lets it pass before a write: so nobody trusts one
that was deleted.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import repeat
from typing import Final, NamedTuple

from ..errors import StoreUnavailable
from ..events import logger
from .slots import Quiet, new_number, slot_of
from .stampfile import (
    Foreign,
    Mapped,
    Strange,
    Unusable,
    give_up,
    have_locks,
    is_remote,
    make,
    refusal_for,
)

LOOK_SECONDS: Final = 0.5
GRACE: Final = LOOK_SECONDS * 1.5
AHEAD_SECONDS: Final = LOOK_SECONDS * 0.6
_NEVER: Final = float("-inf")
_FOREVER: Final = float("inf")


@contextmanager
def _trusted_by_nobody() -> Iterator[None]:
    """Where there is no file that others could trust, but for one that is gone since a moment."""
    try:
        yield
    except OSError as error:
        raise Unusable(error.strerror or "", was_trusted=True) from None


def _nobody() -> None:
    """Readers themselves look when it is time."""


class StampFile:
    """The slots beside one SQLite file.

    ``wanted`` says that this process makes the file if there is none; one that only writes moves
    the stamps of others.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        self.wanted = False
        # Called when a look would be welcome; it must not wait.
        self.ahead: Callable[[], object] = _nobody
        self._mapped: Mapped | None = None
        self.close()

    def after_fork(self) -> None:
        """In a child process: the lock on the parent's open file would be the parent's too."""
        mapped = self._mapped
        self.close()
        if mapped is not None:
            mapped.abandon()

    def close(self) -> None:
        """Let go of the file; the next use opens it anew."""
        self._mapped = None
        self._look = threading.Lock()
        # A file lock does not keep the threads and event loops of one process apart.
        self._holding = threading.Lock()
        # Whether every process knows of this file by now.
        self._counts = False
        self._looked = _NEVER
        self._until = _NEVER
        self._calm_until = _NEVER
        self._no_write_before = _NEVER
        self._refusal: str | None = None
        self._noted = ""

    @property
    def database(self) -> str:
        """The path of the database; from the first look on absolute."""
        return self._database

    @property
    def path(self) -> str:
        """Where the file is: beside the database itself, not beside a link to it."""
        return os.path.realpath(self._database) + "-stamps"

    # For readers.

    def trusts(self, sid_hash: bytes, mark: int | None) -> bool:
        """See ``Channel.trusts``."""
        mapped = self._mapped
        if mapped is None or mapped.slots[sid_hash[0] << 8 | sid_hash[1]] != mark:
            return False
        now = time.monotonic()
        return now < self._until and (now < self._calm_until or self._look_ahead())

    def _look_ahead(self) -> bool:
        """Have somebody look while the last look still counts, so that no reader ever waits."""
        # Asked for once; who looks says when it is due again. If nobody does, nothing is trusted.
        self._calm_until = _FOREVER
        self.ahead()
        return True

    def mark(self, sid_hash: bytes) -> int | None:
        """See ``Channel.mark``. None too while writers may still go by the file before this one."""
        mapped = self._mapped
        if mapped is None or not self._counts:
            return None
        number: int = mapped.slots[slot_of(sid_hash)]
        return None if number & 1 else number

    def due(self) -> bool:
        """Whether it is time to look again."""
        return time.monotonic() - self._looked >= AHEAD_SECONDS

    @property
    def missing(self) -> bool:
        """Whether no file is open."""
        return self._mapped is None

    # For whoever may do I/O.

    def look(self, is_empty: Callable[[], bool]) -> None:
        """See that the file is there and the right one, and open or make it. ``is_empty`` says
        whether the database has no row yet.
        """
        with self._look:
            if not self.due():
                return
            looked = time.monotonic()
            # Once, as the engine does, in case the process changes its folder; not before I/O may
            # be done: it asks the operating system.
            self._database = os.path.abspath(self._database)
            before, refusal = self._mapped, None
            try:
                # A link may lead elsewhere by now.
                database = os.path.realpath(self._database)
                if before is None or not before.is_at(database):
                    self._counts = False
                    self._mapped = None
                    self._mapped = self._open(database, is_empty)
            except (OSError, Unusable) as error:
                self._counts = False
                self._mapped = None
                self._note(error)
                refusal = refusal_for(error)
            self._refusal = refusal
            if before is not None and self._mapped is not before:
                self._hold_back()
            self._counts = self._wait() <= 0
            self._until = looked + LOOK_SECONDS if self._counts else _NEVER
            self._calm_until = looked + AHEAD_SECONDS if self._counts else _NEVER
            self._looked = looked
            self._mend()

    def _mend(self) -> None:
        """See to a whole write that was killed; if somebody writes just now, at a later look."""
        mapped, holding = self._mapped, self._holding
        if mapped is None or not mapped.in_whole_write or not holding.acquire(blocking=False):
            return
        try:
            # Of this lock, if the file has been closed in the meantime, and opened again.
            mapped = self._mapped
            if mapped is not None and holding is self._holding:
                with suppress(OSError):
                    if mapped.lock():
                        mapped.mend()
                        mapped.unlock()
        finally:
            holding.release()

    def _hold_back(self) -> None:
        """Others may trust a file that we write no more, until they look."""
        self._no_write_before = time.monotonic() + GRACE

    def _wait(self) -> float:
        """Seconds until a write may begin, and its marks count."""
        wait = self._no_write_before - time.monotonic()
        return wait if self._mapped is None else max(wait, self._mapped.wait(GRACE))

    def _note(self, error: OSError | Unusable) -> None:
        reason = (error.strerror or "") if isinstance(error, OSError) else str(error)
        if reason == self._noted:
            return
        self._noted = reason
        if not isinstance(error, Unusable) or error.was_trusted:
            self._hold_back()
        if self.wanted:
            logger.warning(
                "SW017 coherence: no stamps beside the SQLite file (%s): each hit asks the "
                "database instead.",
                reason,
            )

    def _open(self, database: str, is_empty: Callable[[], bool]) -> Mapped | None:
        if not have_locks:
            raise Unusable("this system has no file locks")
        if is_remote(database):
            raise Unusable("the folder is on a network file system")
        path, beside = database + "-stamps", os.stat(database)
        for _ in range(3):
            try:
                return Mapped(path, beside)
            except FileNotFoundError:
                if not self.wanted:
                    return None
                settled = 0.0 if is_empty() else time.time() + GRACE
                with _trusted_by_nobody():
                    make(path, beside, settled)
            except Foreign:
                # That of another database, or damaged: nobody of this one trusts it for long.
                self._hold_back()
                with _trusted_by_nobody(), suppress(FileNotFoundError):
                    os.unlink(path)
            except (PermissionError, Strange) as error:
                self._retract(path, error)
        raise Unusable("the file is replaced over and over", was_trusted=True)

    def _retract(self, path: str, problem: Exception) -> None:
        """Others may trust a file that we can't use: put one in its place that nobody trusts."""
        refusal = None
        try:
            give_up(path)
        except OSError as error:
            refusal = (
                f"the stamp file beside the SQLite file can't be written ({error.strerror}): run "
                "all processes as one user"
            )
        reason = str(problem) if isinstance(problem, Strange) else "it is another user's"
        raise Unusable(f"{reason}: delete the file", was_trusted=True, refusal=refusal)

    # For writers.

    def try_hold(self, hashes: tuple[bytes, ...] | None) -> Hold | float:
        """Take the write lock and turn slots odd; or the seconds to wait before the next try.

        Raises ``StoreUnavailable`` if others may trust a file that this process can't write.
        """
        if self._refusal is not None:
            raise StoreUnavailable(self._refusal)
        mapped = self._mapped
        # What counted at the last look still does.
        if not self._counts and (wait := self._wait()) > 0:
            return wait
        if mapped is None:
            return Hold(None, hashes, None, self._looked, None)
        if not self._holding.acquire(blocking=False):
            return 0.001
        holding = self._holding
        try:
            if mapped.lock():
                before = mapped.turn_odd(hashes, new_number() | 1)
                return Hold(mapped, hashes, before, self._looked, holding)
        except BaseException:
            holding.release()
            raise
        holding.release()
        return 0.001

    def let_go(self, hold: Hold, ticket: int) -> None:
        """Give the slots their new number, and the lock back."""
        self.let_go_each(hold, repeat(ticket))

    def let_go_each(self, hold: Hold, numbers: Iterable[int]) -> None:
        """As ``let_go``, where each of the hashes has a number of its own."""
        if hold.mapped is not None and hold.holding is not None:
            hold.mapped.give(hold.hashes, numbers, hold.before)
            hold.mapped.unlock()
            hold.holding.release()
        if hold.took_long:
            self._looked = _NEVER
            self.look(lambda: False)
        mapped = self._mapped
        if mapped is not None and mapped is not hold.mapped:
            # Read before this commit, and trusted through a file that we did not know.
            mapped.give(hold.hashes, repeat(new_number()))


class StampChannel(Quiet):
    """The channel of a store that keeps a stamp file; see ``Channel``."""

    def __init__(self, stamps: StampFile) -> None:
        self.stamps = stamps
        stamps.wanted = True
        # Asked at each hit: no call in between.
        self.trusts = stamps.trusts

    def mark(self, sid_hash: bytes) -> int | None:
        return self.stamps.mark(sid_hash)

    def due(self) -> bool:
        return self.stamps.due()

    @property
    def alive(self) -> bool:
        return not self.stamps.missing

    def ticket(self) -> int | None:
        return new_number()


class Hold(NamedTuple):
    """A write under way."""

    mapped: Mapped | None
    hashes: tuple[bytes, ...] | None
    before: bytes | None
    looked: float
    holding: threading.Lock | None

    @property
    def took_long(self) -> bool:
        """Whether others may have made a new file since the last look, and trust it by now."""
        return time.monotonic() - self.looked >= LOOK_SECONDS
