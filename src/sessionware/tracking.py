"""The dict in a session: what is read, written and handed out is noted, and nothing else done."""

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
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, Self, TypeAlias
from uuid import UUID

from .codecs import ABSENT
from .tuples import make

if TYPE_CHECKING:
    from .session import Session

ExpiryArgument: TypeAlias = float | timedelta | datetime | None


class _Unloaded:
    """The only key of a session that stands for content which is loaded at the first access.

    C code that asks for the size first, as ``json.dumps`` does, must not find it empty; code that
    copies the items behind our back fails at the key, where ``{}`` would be a silent lie.
    """

    def __repr__(self) -> str:
        return "<not loaded yet>"


UNLOADED = _Unloaded()

# ``super()`` costs as much as what it calls.
_get = dict.get
_getitem = dict.__getitem__
_contains = dict.__contains__
_setitem = dict.__setitem__
_clear = dict.clear
_update = dict.update
_NOTHING: Mapping[Any, Any] = MappingProxyType({})
_NO_KEYS: frozenset[Any] = frozenset()

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
    def touched(self, session: Any) -> None: ...
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


class Asked(NamedTuple):
    """What few requests ask for: see ``clear``, ``invalidate``, ``rotate`` and ``set_expiry``."""

    cleared: bool = False
    ended: bool = False
    rotation: bool = False
    reauthenticated: bool = False
    expiry: ExpiryArgument = None
    expiry_set: bool = False

    def beside(self, later: Asked) -> Asked:
        """Both, where the later expiry counts."""
        expiry = later if later.expiry_set else self
        return Asked(
            self.cleared or later.cleared,
            self.ended or later.ended,
            self.rotation or later.rotation,
            self.reauthenticated or later.reauthenticated,
            expiry.expiry,
            expiry.expiry_set,
        )


NOT_ASKED: Final = Asked()
ONLY_CLEARED: Final = Asked(cleared=True)


class Intents(NamedTuple):
    """What an application asked of a session, beside its content; see ``Session``'s attributes."""

    modified: bool
    asked: Asked
    written: frozenset[Any]
    before: Mapping[Any, Any]

    def __repr__(self) -> str:
        """Only the keys' number: session data does not belong into logs."""
        return f"<Intents, {len(self.written)} keys written>"


unattached = dict.__new__
"""``unattached(Session)``: an empty one without ``__init__``, for who attaches it at once."""


class Tracked(dict[Any, Any]):
    """The part of a ``Session`` that is a dict: each way to look at it or to change it is noted."""

    # A dict's subclass finds its attributes here three times as quickly as in a ``__dict__``.
    __slots__ = (
        "accessed",
        "asked",
        "asking",
        "before",
        "exposed",
        "given",
        "modified",
        "tie",
        "unready",
        "written",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.attach(None)

    def attach(self, link: SessionLink | None) -> None:
        """Tie this session to the manager that loads it, at its beginning."""
        self.tie = link
        # Whether the tie is still to be asked at the next use.
        self.unready = True
        # Whether the application may hold something that it can change unnoticed: of what was
        # loaded, and of what it has put here.
        self.exposed = False
        self.given = False
        self.accessed = False
        # What an application may set itself, and whether it has asked for anything by our methods.
        self.modified = False
        self.asking = False
        # What it asked for; for endings.py, not for applications.
        self.asked = NOT_ASKED
        self.written: frozenset[Any] = _NO_KEYS
        # What stood under keys before the application assigned something to them.
        self.before: Mapping[Any, Any] = _NOTHING

    @property
    def has_traces(self) -> bool:
        """Whether it may not be as it was: something was asked for, or somebody holds what can be
        changed.
        """
        return self.exposed or self.asking or self.modified

    def take_intents(self) -> Intents:
        """What was asked for until now, which starts afresh: it is about to be carried out."""
        taken = make(Intents, (self.modified, self.asked, self.written, self.before))
        self.forget_intents()
        return taken

    def put_back(self, intents: Intents) -> None:
        """It was not carried out: ask for it again, beside what was asked for since."""
        self.asking = True
        self.modified = self.modified or intents.modified
        if intents.asked is not NOT_ASKED:
            self.asked = intents.asked.beside(self.asked)
        self.written = self.written | intents.written
        self.before = {**self.before, **intents.before}

    def forget_intents(self) -> None:
        """Start afresh."""
        self.modified = self.asking = False
        self.asked, self.written, self.before = NOT_ASKED, _NO_KEYS, _NOTHING
        if self.given:
            # What it has put here is from now on as what it found.
            self.given, self.exposed = False, True

    def note_written(self, keys: Iterable[Any]) -> None:
        """These keys are the request's own now."""
        self.asking = True
        self.written = self.written.union(keys)

    def link(self) -> SessionLink | None:
        """The tie to the manager, or None for a session built by hand."""
        return self.tie

    def refill(self, content: dict[Any, Any]) -> None:
        """Hold what the store holds; no change, and no access, of the application's."""
        _clear(self)
        _update(self, content)

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
        self.modified = self.asking = True

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
        # Not loaded, it says that there was a cookie: that is no response for who has none.
        self.accessed = True
        if dict.__contains__(self, UNLOADED):
            return f"<{type(self).__name__}, not loaded yet>"
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
        # Who sets ``modified`` himself has not asked for anything yet.
        if self.unready or not (self.asking and self.modified and self.accessed):
            self.mark_modified()
        before = self.before
        if key not in before:
            there = _get(self, key, ABSENT)
            # To copy a proxy takes longer than all the rest.
            self.before = {**before, key: there} if before else {key: there}
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
        self.asked = self.asked._replace(cleared=True)
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

    def __ior__(self, other: Any, /) -> Self:
        self.mark_modified()
        changes = dict(other)
        self._note_changes(changes)
        return super().__ior__(changes)
