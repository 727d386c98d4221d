"""Session: what the application holds, and what it did with it."""

from __future__ import annotations

from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    ValuesView,
)
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias
from uuid import UUID

from .codecs import ABSENT
from .errors import ReauthenticationRequired

ExpiryArgument: TypeAlias = float | timedelta | datetime | None

_NO_DEFAULT: Any = object()


class _Unloaded:
    """The only key of a session that is not loaded yet; see ``Session.hold_back``."""

    def __repr__(self) -> str:
        return "<not loaded yet>"


UNLOADED = _Unloaded()

# ``super()`` costs as much as what it calls.
_get = dict.get
_getitem = dict.__getitem__
_contains = dict.__contains__
_setitem = dict.__setitem__
_make = tuple.__new__
_NOTHING: Mapping[Any, Any] = MappingProxyType({})

# Whoever holds one of these can't change what the session holds.
_SCALARS = frozenset(
    {str, int, float, bool, type(None), bytes, datetime, date, time, timedelta, Decimal, UUID}
)


class Lock(
    AbstractContextManager["Session", None], AbstractAsyncContextManager["Session", None], Protocol
):
    """The lock of a session, for both worlds."""


class SessionLink(Protocol):
    """What ties a session to its manager; absent on a ``Session`` built by hand."""

    @property
    def handle(self) -> str: ...
    @property
    def is_new(self) -> bool: ...
    @property
    def created_at(self) -> int | None: ...
    @property
    def authenticated_at(self) -> int | None: ...
    @property
    def is_folded(self) -> bool: ...
    def seconds_since_login(self) -> float | None: ...
    def touched(self, session: Session) -> None: ...
    def save(self, session: Session) -> None: ...
    async def asave(self, session: Session) -> None: ...
    def take(self, session: Session, key: Any, default: Any) -> Any: ...
    async def atake(self, session: Session, key: Any, default: Any) -> Any: ...
    def incr(self, session: Session, key: Any, amount: int | float) -> int | float: ...
    async def aincr(self, session: Session, key: Any, amount: int | float) -> int | float: ...
    def lock(self, session: Session, timeout: float, hold: float) -> Lock: ...
    def on_ended(self, session: Session, callback: Callable[[], Any]) -> Callable[[], None]: ...
    def revalidate(self, session: Session) -> bool: ...
    async def arevalidate(self, session: Session) -> bool: ...


class Intents(NamedTuple):
    """What an application asked of a session, beside its content; see ``Session``'s attributes."""

    modified: bool
    cleared: bool
    ended: bool
    rotation: bool
    reauthenticated: bool
    expiry: ExpiryArgument
    expiry_set: bool
    written: frozenset[Any]
    before: Mapping[Any, Any]

    def __repr__(self) -> str:
        """Only the keys' number: session data does not belong into logs."""
        return f"<Intents, {len(self.written)} keys written>"


INTENTS = frozenset(Intents._fields)
# All of them but those that come with each assignment.
UNUSUAL = INTENTS - {"modified", "written", "before"}
# What may be in a session's ``__dict__`` if it is not as it was: none of this, and nothing was
# asked for, and nobody holds anything that can be changed.
TRACES = INTENTS | {"exposed", "given"}


class Session(dict[Any, Any]):
    """The data of one browser session: a real ``dict`` that remembers what was done with it.

    Changes, nested ones too, are saved when the response begins. ``accessed`` and ``modified`` mean
    what they mean in Starlette. Nothing here does I/O but the methods that come in twins,
    ``name()`` for threads and ``await name()`` with an ``a`` before the name for coroutines.
    """

    # Of the class until an instance has its own: most sessions are only read.
    tie: SessionLink | None = None
    # Whether the tie is still to be asked at the next use.
    unready: bool = True
    # Whether the application may hold something that it can change unnoticed: of what was loaded,
    # and of what it has put here.
    exposed: bool = False
    given: bool = False
    accessed: bool = False
    modified: bool = False
    # What the application asked for; read by plans.py, not by applications.
    cleared: bool = False
    ended: bool = False
    rotation: bool = False
    reauthenticated: bool = False
    expiry: ExpiryArgument = None
    expiry_set: bool = False
    written: frozenset[Any] = frozenset()
    # What stood under keys before the application assigned something to them.
    before: Mapping[Any, Any] = _NOTHING

    @property
    def has_intents(self) -> bool:
        """Whether the application asked for anything, or wrote something itself."""
        return not INTENTS.isdisjoint(self.__dict__)

    def take_intents(self) -> Intents:
        """What was asked for until now, which starts afresh: it is about to be carried out."""
        # Less to call than ``Intents`` and ``forget_intents``.
        taken = _make(
            Intents,
            (
                self.modified,
                self.cleared,
                self.ended,
                self.rotation,
                self.reauthenticated,
                self.expiry,
                self.expiry_set,
                self.written,
                self.before,
            ),
        )
        own = self.__dict__
        for name in INTENTS.intersection(own):
            del own[name]
        return taken

    def put_back(self, intents: Intents) -> None:
        """It was not carried out: ask for it again, beside what was asked for since."""
        self.modified = self.modified or intents.modified
        self.cleared = self.cleared or intents.cleared
        self.ended = self.ended or intents.ended
        self.rotation = self.rotation or intents.rotation
        self.reauthenticated = self.reauthenticated or intents.reauthenticated
        if not self.expiry_set:
            self.expiry, self.expiry_set = intents.expiry, intents.expiry_set
        self.written = self.written | intents.written
        self.before = {**self.before, **intents.before}

    def forget_intents(self) -> None:
        """Start afresh."""
        own = self.__dict__
        for name in INTENTS.intersection(own):
            del own[name]

    def note_written(self, keys: Iterable[Any]) -> None:
        """These keys are the request's own now."""
        self.written = self.written.union(keys)

    def attach(self, link: SessionLink) -> None:
        """Tie this session to the manager that loaded it."""
        self.tie = link
        self.unready = True

    def link(self) -> SessionLink | None:
        """The tie to the manager, or None for a session built by hand."""
        return self.tie

    def hold_back(self) -> None:
        """Stand for content that is loaded at the first access.

        C code that asks for the size first, as ``json.dumps`` does, must not find it empty; code
        that copies the items behind our back fails at the key, where ``{}`` would be a silent lie.
        """
        dict.__setitem__(self, UNLOADED, None)
        self.unready = True

    def refill(self, content: dict[Any, Any]) -> None:
        """Hold what the store holds; no change, and no access, of the application's."""
        dict.clear(self)
        dict.update(self, content)

    def mark_accessed(self) -> None:
        """Note that the response depends on the session (``Vary: Cookie``).

        Under WSGI this loads the session. Raises ``StoreUnavailable`` if it can't be loaded.
        """
        self.accessed = True
        if self.unready:
            if self.tie is not None:
                self.tie.touched(self)
            self.unready = False

    def mark_modified(self) -> None:
        """Note that the session was changed. Nested changes are found without this."""
        if self.unready or not self.accessed:
            self.mark_accessed()
        self.modified = True

    def mark_exposed(self) -> None:
        """Note that the application may hold what it can change unnoticed: what the session holds
        is compared with what was loaded.
        """
        self.mark_accessed()
        self.exposed = True

    # What reads.

    def __getitem__(self, key: Any) -> Any:
        if self.unready or not self.accessed:
            self.mark_accessed()
        value = _getitem(self, key)
        if type(value) not in _SCALARS:
            self.exposed = True
        return value

    def __contains__(self, key: object) -> bool:
        if self.unready or not self.accessed:
            self.mark_accessed()
        return _contains(self, key)

    def __len__(self) -> int:
        self.mark_accessed()
        return super().__len__()

    def __iter__(self) -> Iterator[Any]:
        self.mark_accessed()
        return super().__iter__()

    def __reversed__(self) -> Iterator[Any]:
        self.mark_accessed()
        return super().__reversed__()

    def __eq__(self, other: object) -> bool:
        self.mark_exposed()
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        self.mark_exposed()
        return super().__ne__(other)

    __hash__ = None

    def __or__(self, other: Any) -> Any:
        self.mark_exposed()
        return super().__or__(other)

    def __ror__(self, other: Any) -> Any:
        self.mark_exposed()
        return super().__ror__(other)

    def __repr__(self) -> str:
        """Only the keys' number: session data does not belong into logs."""
        if self.unready and self.tie is not None and self.tie.is_folded:
            # Nothing is missing but to decode it.
            self.mark_accessed()
        if dict.__contains__(self, UNLOADED):
            return f"<{type(self).__name__}, not loaded yet>"
        self.accessed = True
        return f"<{type(self).__name__} with {dict.__len__(self)} keys>"

    __str__ = __repr__

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Copies and pickles are plain dicts: the tie to the manager can't be copied."""
        return (dict, (dict(self),))

    def get(self, key: Any, default: Any = None) -> Any:
        if self.unready or not self.accessed:
            self.mark_accessed()
        value = _get(self, key, default)
        if type(value) not in _SCALARS:
            self.exposed = True
        return value

    def keys(self) -> KeysView[Any]:  # type: ignore[override]
        self.mark_accessed()
        return super().keys()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        self.mark_exposed()
        return super().values()

    def items(self) -> ItemsView[Any, Any]:  # type: ignore[override]
        self.mark_exposed()
        return super().items()

    def copy(self) -> dict[Any, Any]:
        self.mark_exposed()
        return super().copy()

    # What writes. Same verdicts as Starlette's Session: only what changes something modifies.

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.unready or not (self.modified and self.accessed):
            self.mark_modified()
        before = self.before
        if key not in before:
            self.before = {**before, key: _get(self, key, ABSENT)}
        if key not in self.written:
            self.written = self.written.union((key,))
        if type(value) not in _SCALARS:
            self.given = True
        _setitem(self, key, value)

    def __delitem__(self, key: Any) -> None:
        self.mark_modified()
        super().__delitem__(key)

    def clear(self) -> None:
        """Empty the session: what others stored meanwhile goes too. Left empty, its row is
        deleted.
        """
        self.mark_modified()
        self.cleared = True
        self.written = frozenset()
        super().clear()

    def _look(self) -> None:
        """What only may change something reads first; Starlette's own suite wants that unnoted on a
        session that was built by hand.
        """
        if self.tie is not None:
            self.mark_accessed()

    def pop(self, key: Any, *default: Any) -> Any:
        self._look()
        if dict.__contains__(self, key):
            self.mark_modified()
        return super().pop(key, *default)

    def popitem(self) -> tuple[Any, Any]:
        self._look()
        item = super().popitem()
        self.mark_modified()
        return item

    def setdefault(self, key: Any, default: Any = None) -> Any:
        self._look()
        self.exposed = True
        if not dict.__contains__(self, key):
            self.mark_modified()
            self.note_written((key,))
        return super().setdefault(key, default)

    def _note_changes(self, changes: dict[Any, Any]) -> None:
        if dict.__len__(self):
            before = {key: _get(self, key, ABSENT) for key in changes}
        else:
            before = dict.fromkeys(changes, ABSENT)
        self.before = {**before, **self.before}
        self.written = self.written.union(changes)
        if not _SCALARS.issuperset(map(type, changes.values())):
            self.given = True

    def update(self, *args: Any, **kwargs: Any) -> None:
        self.mark_modified()
        changes = dict(*args, **kwargs)
        self._note_changes(changes)
        super().update(changes)

    def __ior__(self, other: Any, /) -> Session:
        self.mark_modified()
        changes = dict(other)
        self._note_changes(changes)
        return super().__ior__(changes)

    # A session's life.

    def rotate(self, *, authenticated: bool = False) -> None:
        """Give the session a new ID at the response; the old one is dead with the same commit.

        ``authenticated`` says that the user has just proven who they are once more: it renews
        ``authenticated_at`` (OWASP ASVS 5.0 7.5.3). A login, that is a change under ``user_key``,
        rotates by itself.
        """
        self.mark_exposed()
        self.rotation = True
        self.reauthenticated = self.reauthenticated or authenticated

    def invalidate(self) -> None:
        """End the session: it is empty at once, its row and cookie go with the response.

        It holds even if the request fails later on. What is stored afterwards goes into a new
        session.
        """
        self.mark_modified()
        self.ended = True
        self.cleared = True
        self.rotation = False
        self.expiry_set = False
        self.written = frozenset()
        super().clear()

    def set_expiry(self, value: ExpiryArgument) -> None:
        """Give this session its own lifetime in place of ``max_age``.

        Seconds or a ``timedelta``: from the last renewal on. An aware ``datetime``: until then.
        ``0``: until the browser closes. ``None``: the configured one. Idle and absolute timeouts
        hold all the same. Raises ``ValueError`` for a negative or non-finite number or a naive
        ``datetime``.
        """
        check_expiry(value)
        self.mark_modified()
        self.expiry = value
        self.expiry_set = True

    @property
    def is_new(self) -> bool:
        """True until the session has been stored."""
        self.mark_accessed()
        return True if self.tie is None else self.tie.is_new

    @property
    def handle(self) -> str:
        """The session's public name: stable over rotation, useless as a credential."""
        self.mark_accessed()
        return self._bound().handle

    @property
    def created_at(self) -> datetime | None:
        """When the session was first stored (aware, UTC), or None."""
        self.mark_accessed()
        return None if self.tie is None else as_datetime(self.tie.created_at)

    @property
    def authenticated_at(self) -> datetime | None:
        """When the user last logged in (aware, UTC), or None."""
        self.mark_accessed()
        return None if self.tie is None else as_datetime(self.tie.authenticated_at)

    def require_recent(self, seconds: float) -> None:
        """Raise ``ReauthenticationRequired`` unless the login is at most ``seconds`` old.

        A rotation alone does not renew it (OWASP ASVS 5.0 7.5.3).
        """
        self.mark_accessed()
        age = None if self.tie is None else self.tie.seconds_since_login()
        if age is None or age > seconds:
            raise ReauthenticationRequired(
                f"a login within the last {seconds:g} seconds is required"
            )

    def save(self) -> None:
        """Commit the changes now. For threads; under a running event loop use ``await asave()``.

        Raises ``SessionGone`` if the session ended meanwhile, ``ResponseAlreadyStarted`` if it
        would take a cookie that can't be sent any more, ``StoreUnavailable``, ``SessionTooLarge``
        and ``SerializationError``.
        """
        self._bound().save(self)

    async def asave(self) -> None:
        """Commit the changes now; see ``save``."""
        await self._bound().asave(self)

    def take(self, key: Any, default: Any = _NO_DEFAULT) -> Any:
        """Read and delete a one-time value in the database: of all callers at most one gets it.

        Raises ``KeyError`` if it is not there (any more) and no default was given.
        """
        return self._taken(key, self._bound().take(self, key, _NO_DEFAULT), default)

    async def atake(self, key: Any, default: Any = _NO_DEFAULT) -> Any:
        """Read and delete a one-time value; see ``take``."""
        return self._taken(key, await self._bound().atake(self, key, _NO_DEFAULT), default)

    def incr(self, key: Any, amount: int | float = 1) -> int | float:
        """Add to a number in the database, where no increment is lost; a missing key counts as 0.

        Returns the new number. Raises ``TypeError`` if the stored value is not a number.
        """
        return self._bound().incr(self, key, amount)

    async def aincr(self, key: Any, amount: int | float = 1) -> int | float:
        """Add to a number in the database; see ``incr``."""
        return await self._bound().aincr(self, key, amount)

    def lock(
        self, timeout: float = 5.0, *, hold: float = 30.0
    ) -> AbstractContextManager[Session, None]:
        """Keep other handlers that lock this session out, over all workers: for check-then-act.

        ``with session.lock():`` waits up to ``timeout`` seconds, brings the session up to date, and
        at the end of the block saves it and gives the lock back; an exception in the block saves
        nothing. After ``hold`` seconds the lock ends by itself, as it must when a worker dies.
        Whoever does not lock is not kept out. Raises ``LockTimeout``, ``SessionGone``, and
        whatever ``save`` raises.
        """
        return self._bound().lock(self, timeout, hold)

    def alock(
        self, timeout: float = 5.0, *, hold: float = 30.0
    ) -> AbstractAsyncContextManager[Session, None]:
        """``async with session.alock():``; see ``lock``."""
        return self._bound().lock(self, timeout, hold)

    def on_ended(self, callback: Callable[[], Any]) -> Callable[[], None]:
        """Have ``callback`` called once when this session ends: by whomever and in whichever
        worker, by its time, or because another user logs in or out in it. For WebSockets.

        A plain function or, in an event loop, a coroutine function; it is called in the loop (on
        asyncio and trio) or thread pool of ours. With a channel (``stamps``, ``notify``) it takes a
        moment, else about two seconds. Returns a function that calls it off. A session that is
        not stored yet is not watched.
        """
        return self._bound().on_ended(self, callback)

    def revalidate(self) -> bool:
        """Ask the database whether this session still stands: not ended, expired or rotated."""
        return self._bound().revalidate(self)

    async def arevalidate(self) -> bool:
        """Ask the database whether this session still stands; see ``revalidate``."""
        return await self._bound().arevalidate(self)

    def _bound(self) -> SessionLink:
        if self.tie is None:
            raise RuntimeError("this Session was built by hand: no manager has loaded it")
        return self.tie

    @staticmethod
    def _taken(key: Any, value: Any, default: Any) -> Any:
        if value is not _NO_DEFAULT:
            return value
        if default is _NO_DEFAULT:
            raise KeyError(key)
        return default


class NoSession(Session):
    """Stands where there is no session (``exclude``): empty to read, refuses to be written."""

    def mark_modified(self) -> None:
        raise self._excluded()

    def rotate(self, *, authenticated: bool = False) -> None:
        raise self._excluded()

    def _bound(self) -> SessionLink:
        raise self._excluded()

    @staticmethod
    def _excluded() -> RuntimeError:
        return RuntimeError("this path has no session: it is listed under the setting `exclude`")


def check_expiry(value: ExpiryArgument) -> None:
    """Raise ``ValueError`` or ``TypeError`` for what can't be a lifetime."""
    if value is None:
        return
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("set_expiry needs an aware datetime (with a time zone)")
        return
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
        raise TypeError("set_expiry takes seconds, a timedelta, an aware datetime, 0 or None")
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not 0 <= seconds < 1e11:
        raise ValueError("set_expiry takes a finite number of seconds, 0 or more")


def as_datetime(milliseconds: int | None) -> datetime | None:
    """Milliseconds since the epoch as an aware UTC datetime."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
