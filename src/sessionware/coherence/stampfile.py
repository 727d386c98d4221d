"""The stamp file itself: a header and the slots, mapped into memory, and a lock for writers."""

from __future__ import annotations

import errno
import mmap
import os
import re
import secrets
import stat
import struct
import sys
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import unquote

from .slots import SLOTS, new_number, slot_of

try:
    import fcntl

    _locks: Any = fcntl
except ImportError:  # Windows
    _locks = None

have_locks: Final = _locks is not None
_MAGIC: Final = b"SWSTAMP1"
# Magic, device and inode of the database, the file's own inode (a copy is another file, and its
# readers and writers may not know of each other), and the wall-clock time from when it counts.
_HEADER: Final = struct.Struct("<8sQQQd")
_HEADER_SIZE: Final = 64
# In the header, the number that is not 0 from before a whole write until its end.
_WHOLE_WRITE: Final = 5
# In a slot that a whole write has turned odd. One that is odd for a reason of its own has it not.
_BY_WHOLE: Final = 1 << 60
_SIZE: Final = _HEADER_SIZE + 8 * SLOTS
_GIVEN_UP: Final = b"""No stamps: processes of different users share the database beside this file.
Have them run as one user, and delete this file.
"""
_REMOTE: Final = re.compile(
    "9p|afs|beegfs|ceph|cifs|coda|drvfs|fuse[.].*|gfs2|glusterfs|gpfs|lustre|ncpfs|nfs4?|ocfs2"
    "|orangefs|prl_fs|pvfs2|smb[23]|smbfs|vboxsf|virtiofs|vmhgfs"
)

# What keeps everybody from opening the file, and a file system on which none can be mapped. All
# else may be the trouble of one process alone, such as too many open files.
_FOR_ALL: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG}
    | {errno.ENODEV, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
)

# Of a number, the byte that says whether it is odd.
_LOWEST: Final = 0 if sys.byteorder == "little" else 7
_ODD: Final = re.compile(b"[" + b"".join(b"\\x%02x" % low for low in range(1, 256, 2)) + b"]")


class Unusable(Exception):
    """Why there are no stamps; the text is for a log. ``was_trusted``: others may still trust what
    was there before. ``refusal``: why this process must not write, for they go on to trust it.
    """

    def __init__(self, reason: str, was_trusted: bool = False, refusal: str | None = None) -> None:
        super().__init__(reason)
        self.was_trusted = was_trusted
        self.refusal = refusal


class Foreign(Exception):
    """The file belongs to another database, or is damaged."""


class Strange(Exception):
    """The file is not safe to use; the text says why."""


class Mapped:
    """An open stamp file.

    Raises ``OSError``, ``Foreign``, ``Strange``, or ``Unusable`` where others found it so.
    """

    def __init__(self, path: str, database: os.stat_result) -> None:
        flags = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
        try:
            self._fd = os.open(path, os.O_RDWR | flags)
        except PermissionError:
            _check_given_up(path, flags)
            raise
        # Closed by __del__ alone, or in a child: a second time, the number might be another file's.
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode):
            raise Unusable("something else has the file's name", was_trusted=True)
        if found.st_size == len(_GIVEN_UP):
            _check_given_up(path, flags)
        if found.st_uid not in (os.geteuid(), database.st_uid):
            raise Strange("it is another user's")
        if found.st_mode & 0o022:
            raise Strange("others can write it")
        if found.st_size != _SIZE:
            raise Foreign
        self._map = mmap.mmap(self._fd, _SIZE)
        self.identity = (found.st_dev, found.st_ino)
        magic, *self._database, own, self._settled = _HEADER.unpack_from(self._map)
        numbers = memoryview(self._map).cast("Q")
        self.slots: Any = numbers[_HEADER_SIZE // 8 :]
        self._whole: Any = numbers[_WHOLE_WRITE : _WHOLE_WRITE + 1]
        self._opened = time.monotonic()
        beside = [database.st_dev, database.st_ino]
        if magic != _MAGIC or self._database != beside or own != found.st_ino:
            raise Foreign

    def __del__(self) -> None:
        fd = getattr(self, "_fd", -1)
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)

    def abandon(self) -> None:
        """In a child process: a write that its parent has under way refers to it for ever, and so
        would outlive the parent with its lock.
        """
        with suppress(BufferError):
            self.slots.release()
            self._whole.release()
            # It has the file open once more.
            self._map.close()
        fd, self._fd = self._fd, -1
        os.close(fd)

    def is_at(self, database: str) -> bool:
        """Whether this file is still the one beside the database, and that the same."""
        try:
            here = os.stat(database + "-stamps", follow_symlinks=False)
            beside = os.stat(database)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            return False
        return (
            (here.st_dev, here.st_ino) == self.identity
            and here.st_size == _SIZE
            and [beside.st_dev, beside.st_ino] == self._database
        )

    def wait(self, grace: float) -> float:
        """Seconds until the file counts, because others may still trust the one before it."""
        # Whatever becomes of the wall clock, a file that we have open for so long is old enough.
        longest = self._opened + grace - time.monotonic()
        return float(min(self._settled - time.time(), longest))

    def lock(self) -> bool:
        """Keep other processes from writing, if none does."""
        try:
            _locks.flock(self._fd, _locks.LOCK_EX | _locks.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        _locks.flock(self._fd, _locks.LOCK_UN)

    # Copying all slots at once may tear a number. What then stands there for a moment is no mark
    # that anybody has, and none that is kept.

    def turn_odd(self, hashes: tuple[bytes, ...] | None, number: int) -> bytes | None:
        """Let no row with these hashes (None: none at all) be trusted; what ``give`` needs later,
        where not all are going to have changed.
        """
        if hashes is not None:
            for slot in map(slot_of, hashes):
                self.slots[slot] = number
            return None
        self.mend()
        before = bytes(self.slots)
        kept, odd = array("Q", before), array("Q", [number | _BY_WHOLE]) * SLOTS
        for slot in _odd_slots(before):
            # What left it odd may still be carried out.
            odd[slot] = kept[slot]
        self._whole[0] = 1
        self.slots[:] = odd
        return before

    def give(
        self,
        hashes: tuple[bytes, ...] | None,
        numbers: Iterable[int],
        before: bytes | None = None,
    ) -> None:
        """Give the slot of each of these hashes its new number (None: all slots the first one), and
        the others their old one.
        """
        if hashes is None:
            self.slots[:] = array("Q", [next(iter(numbers))]) * SLOTS
        else:
            slots = self.slots if before is None else array("Q", before)
            for sid_hash, number in zip(hashes, numbers, strict=False):
                slots[slot_of(sid_hash)] = number
            if before is not None:
                self.slots[:] = slots
        if before is not None:
            self._whole[0] = 0

    @property
    def in_whole_write(self) -> bool:
        """Whether a whole write is under way, or was when its process was killed."""
        return bool(self._whole[0])

    def mend(self) -> None:
        """With the lock, which who makes a whole write keeps to its end: if one was killed, what it
        did is committed or undone by now, and the slots that it left odd get a new number.
        """
        if not self.in_whole_write:
            return
        slots, number = self.slots, new_number()
        # One by one: a number that is given meanwhile must not be taken back.
        for slot in _odd_slots(bytes(slots)):
            if slots[slot] & _BY_WHOLE:
                slots[slot] = number
        self._whole[0] = 0


def _odd_slots(slots: bytes) -> Iterator[int]:
    return (found.start() for found in _ODD.finditer(slots[_LOWEST::8]))


def refusal_for(error: OSError | Unusable) -> str | None:
    """Why this process must not write, if others may go on to trust the file that it can't use."""
    if isinstance(error, Unusable):
        return error.refusal
    if error.errno in _FOR_ALL:
        return None
    return f"the stamp file beside the SQLite file can't be opened ({error.strerror})"


def make(path: str, database: os.stat_result, settled: float) -> None:
    """Make the file, whole or not at all; whoever is quicker has made it."""
    temporary, fd = _open_beside(path, 0o600)
    try:
        with open(fd, "wb") as file:
            own = os.fstat(fd).st_ino
            header = _HEADER.pack(_MAGIC, database.st_dev, database.st_ino, own, settled)
            file.write(header.ljust(_HEADER_SIZE, b"\0"))
            # No mark of an older file is one of this file's numbers.
            file.write(array("Q", [new_number()]) * SLOTS)
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)


def give_up(path: str) -> None:
    """Replace the file by one that says that there are no stamps here."""
    temporary, fd = _open_beside(path, 0o644)
    try:
        with open(fd, "wb") as file:
            # For all to read, whatever the umask says.
            os.fchmod(fd, 0o644)
            file.write(_GIVEN_UP)
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def _open_beside(path: str, mode: int) -> tuple[str, int]:
    temporary = f"{path}.{secrets.token_hex(8)}"
    return temporary, os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)


def _check_given_up(path: str, flags: int) -> None:
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | flags)
        with open(fd, "rb") as file:
            if file.read(len(_GIVEN_UP)) == _GIVEN_UP:
                raise Unusable("processes of different users share it: see the file")


def file_of(database: str | None, query: Mapping[str, Any]) -> str | None:
    """The path of the SQLite file that a URL names; None for a database in memory."""
    if not database or database == ":memory:":
        return None
    if "uri" not in query or not database.startswith("file:"):
        return database
    place, _, options = database.removeprefix("file:").partition("?")
    if "mode=memory" in options.split("&") or query.get("mode") == "memory":
        return None
    if place.startswith("//"):
        place = "/" + place[2:].partition("/")[2]
    path = unquote(place.partition("#")[0])
    return None if path in ("", ":memory:") else path


def is_remote(path: str, mounts: str = "/proc/self/mounts") -> bool:
    """Whether a mapped file there would not be shared by all hosts that see it."""
    folder, longest, kind = os.path.realpath(os.path.dirname(path)), "", ""
    with suppress(OSError), open(mounts, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.split(" ")
            if len(fields) < 3:
                continue
            mounted = _unescaped(fields[1])
            below = folder == mounted or folder.startswith(mounted.rstrip("/") + "/")
            if below and len(mounted) >= len(longest):
                longest, kind = mounted, fields[2]
    return _REMOTE.fullmatch(kind) is not None


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
