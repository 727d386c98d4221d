"""The stamp file: slots that all processes of one host share, in a file mapped into memory.

A writer turns the slots of its rows odd, commits, and gives them a new even number; a file lock
keeps writers apart, and the operating system frees it when its holder dies. A slot that a crash
left odd is never trusted, and healed by its next write. Readers compare one number: no I/O, no
lock.

Whether the file is still the one beside the database is looked up every ``LOOK_SECONDS``; nothing
is trusted for longer without a look. Whoever makes a new file beside rows that are there already
lets that time pass first, so that nobody trusts one that was deleted.
"""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import stat
import struct
import threading
import time
from array import array
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple

from ..errors import StoreUnavailable
from ..events import logger
from .slots import SLOTS, Quiet, new_number, slot_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOOK_SECONDS: Final = 0.5
_GRACE: Final = LOOK_SECONDS * 1.5
_MAGIC: Final = b"SWSTAMP1"
# Magic, device and inode of the database, and the wall-clock time from when the file counts.
_HEADER: Final = struct.Struct("<8sQQd")
_HEADER_SIZE: Final = 64
_SIZE: Final = _HEADER_SIZE + 8 * SLOTS
_REMOTE: Final = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "fuse.sshfs",
        "fuse.glusterfs",
        "virtiofs",
    }
)


class Unusable(Exception):
    """Why there are no stamps; the text is for a log."""


class StampFile:
    """The slots beside one SQLite file.

    ``wanted`` says that this process makes the file if there is none; one that only writes moves
    the stamps of others.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        self.wanted = False
        self.after_fork()

    def after_fork(self) -> None:
        """In a child process: the lock on the parent's open file would be the parent's too."""
        self._look = threading.Lock()
        self._mapped: _Mapped | None = None
        self._looked = float("-inf")
        self._until = float("-inf")
        self._noted = ""

    close = after_fork

    @property
    def path(self) -> str:
        """Where the file is."""
        return self._database + "-stamps"

    # For readers.

    def trusts(self, sid_hash: bytes, mark: int | None) -> bool:
        """See ``Channel.trusts``."""
        mapped = self._mapped
        return (
            mapped is not None
            and mapped.slots[sid_hash[0] << 8 | sid_hash[1]] == mark
            and time.monotonic() < self._until
        )

    def mark(self, sid_hash: bytes) -> int | None:
        """See ``Channel.mark``."""
        mapped = self._mapped
        if mapped is None:
            return None
        number: int = mapped.slots[slot_of(sid_hash)]
        return None if number & 1 else number

    def due(self) -> bool:
        """Whether it is time to look again."""
        return time.monotonic() - self._looked >= LOOK_SECONDS

    @property
    def missing(self) -> bool:
        """Whether no file is open."""
        return self._mapped is None

    # For whoever may do I/O.

    def look(self, is_empty: Callable[[], bool]) -> None:
        """See that the file is there and the right one, and open or make it. ``is_empty`` says
        whether the database has no row yet.

        Raises ``StoreUnavailable`` if others trust a file that this process can't write.
        """
        with self._look:
            if not self.due():
                return
            looked = time.monotonic()
            # Once, as the engine does, in case the process changes its folder; not before I/O may
            # be done: it asks the operating system.
            self._database = os.path.abspath(self._database)
            try:
                if self._mapped is None or not self._mapped.is_at(self.path, self._database):
                    self._mapped = None
                    self._mapped = self._open(is_empty)
                settled = self._mapped is not None and self._mapped.wait() <= 0
                self._until = looked + LOOK_SECONDS if settled else float("-inf")
            except (OSError, Unusable) as error:
                self._mapped = None
                self._note(error)
            self._looked = looked

    def _note(self, error: OSError | Unusable) -> None:
        reason = (error.strerror or "") if isinstance(error, OSError) else str(error)
        if self.wanted and reason != self._noted:
            self._noted = reason
            logger.warning(
                "SW017 coherence: no stamps beside the SQLite file (%s): each hit asks the "
                "database instead.",
                reason,
            )

    def _open(self, is_empty: Callable[[], bool]) -> _Mapped | None:
        if fcntl is None:
            raise Unusable("this system has no file locks")
        database = os.stat(self._database)
        for _ in range(3):
            try:
                return _Mapped(self.path, database)
            except FileNotFoundError:
                if not self.wanted:
                    return None
                if _is_remote(self.path):
                    raise Unusable("the folder is on a network file system") from None
                _make(self.path, database, 0.0 if is_empty() else time.time() + _GRACE)
            except _Foreign:
                # That of another database, which was there before: nobody of this one trusts it.
                if not self.wanted:
                    return None
                with suppress(FileNotFoundError):
                    os.unlink(self.path)
            except PermissionError:
                self._retract()
        raise Unusable("the file is replaced over and over")

    def _retract(self) -> None:
        """Others may trust a file that we can't write: take it away, and let them notice."""
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            refusal = error.strerror
        else:
            time.sleep(_GRACE)
            return
        raise StoreUnavailable(
            f"the stamp file beside the SQLite file can't be written ({refusal}): run all "
            "processes as one user"
        )

    # For writers.

    def try_hold(self, hashes: tuple[bytes, ...] | None) -> Hold | float:
        """Take the write lock and turn slots odd; or the seconds to wait before the next try."""
        mapped = self._mapped
        if mapped is not None:
            wait = mapped.wait()
            if wait > 0:
                return wait
            if not mapped.lock():
                return 0.001
            mapped.write(hashes, new_number() | 1)
        return Hold(mapped, hashes, time.monotonic())

    def let_go(self, hold: Hold, ticket: int) -> None:
        """Give the slots their new number, and the lock back."""
        if hold.mapped is not None:
            hold.mapped.write(hold.hashes, ticket)
            hold.mapped.unlock()
        if hold.took_long:
            self._looked = float("-inf")
            self.look(lambda: False)
        if self._mapped is not None and self._mapped is not hold.mapped:
            self._mapped.write(hold.hashes, new_number())


class StampChannel(Quiet):
    """The channel of a store that keeps a stamp file; see ``Channel``."""

    def __init__(self, stamps: StampFile) -> None:
        self.stamps = stamps
        stamps.wanted = True

    def trusts(self, sid_hash: bytes, mark: int | None) -> bool:
        return self.stamps.trusts(sid_hash, mark)

    def mark(self, sid_hash: bytes) -> int | None:
        return self.stamps.mark(sid_hash)

    def due(self) -> bool:
        return self.stamps.due()

    def ticket(self) -> int | None:
        return new_number()


class Hold(NamedTuple):
    """A write under way."""

    mapped: _Mapped | None
    hashes: tuple[bytes, ...] | None
    since: float

    @property
    def took_long(self) -> bool:
        """Whether others may have made a new file meanwhile, so that it has to be looked for."""
        return time.monotonic() - self.since >= LOOK_SECONDS


class _Foreign(Exception):
    """The file belongs to another database."""


class _Mapped:
    """An open stamp file."""

    def __init__(self, path: str, database: os.stat_result) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0))
        try:
            found = os.fstat(self._fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size != _SIZE:
                raise Unusable("the file is damaged: delete it")
            if found.st_uid not in (os.geteuid(), database.st_uid) or found.st_mode & 0o022:
                raise Unusable("others can write the file: delete it")
            self._map = mmap.mmap(self._fd, _SIZE)
        except BaseException:
            os.close(self._fd)
            raise
        self.identity = (found.st_dev, found.st_ino)
        magic, *self.database, settled = _HEADER.unpack_from(self._map)
        self.settled: float = settled
        self.slots: Any = memoryview(self._map).cast("Q")[_HEADER_SIZE // 8 :]
        if magic != _MAGIC or self.database != [database.st_dev, database.st_ino]:
            raise _Foreign

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):
            os.close(self._fd)

    def is_at(self, path: str, database: str) -> bool:
        """Whether this file is still the one at the path, beside the same database."""
        try:
            here, beside = os.stat(path, follow_symlinks=False), os.stat(database)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            return False
        return (
            (here.st_dev, here.st_ino) == self.identity
            and here.st_size == _SIZE
            and [beside.st_dev, beside.st_ino] == self.database
        )

    def wait(self) -> float:
        """Seconds until the file counts, because others may still trust the one before it."""
        return min(self.settled - time.time(), _GRACE)

    def lock(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def write(self, hashes: tuple[bytes, ...] | None, number: int) -> None:
        for slot in range(SLOTS) if hashes is None else map(slot_of, hashes):
            self.slots[slot] = number


def _make(path: str, database: os.stat_result, settled: float) -> None:
    """Make the file, whole or not at all; whoever is quicker has made it."""
    temporary = f"{path}.{secrets.token_hex(8)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            header = _HEADER.pack(_MAGIC, database.st_dev, database.st_ino, settled)
            file.write(header.ljust(_HEADER_SIZE, b"\0"))
            # No mark of an older file is one of this file's numbers.
            file.write(array("Q", [new_number()]) * SLOTS)
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)


def _is_remote(path: str) -> bool:
    """Whether a mapped file there would not be shared by all hosts that see it."""
    folder, longest, kind = os.path.realpath(os.path.dirname(path)), "", ""
    with suppress(OSError), open("/proc/self/mounts", encoding="utf-8") as mounts:
        for line in mounts:
            _, mounted, type_, *_ = line.split(" ")
            mounted = mounted.encode().decode("unicode_escape")
            below = folder == mounted or folder.startswith(mounted.rstrip("/") + "/")
            if below and len(mounted) >= len(longest):
                longest, kind = mounted, type_
    return kind in _REMOTE
