"""sessionware: server-side HTTP sessions for ASGI and WSGI, coherent over every worker."""

from .asgi import SessionMiddleware
from .directory import SessionInfo
from .errors import (
    ConfigurationError,
    CorruptRecord,
    LockTimeout,
    ReauthenticationRequired,
    ResponseAlreadyStarted,
    SerializationError,
    SessionError,
    SessionGone,
    SessionLimitReached,
    SessionTooLarge,
    StoreUnavailable,
)
from .events import SessionEvent
from .finding import manager_of, session_of
from .manager import SessionManager
from .session import Session
from .stores.cached import CachedStore
from .stores.memory import MemoryStore

__all__ = [
    "CachedStore",
    "ConfigurationError",
    "CorruptRecord",
    "LockTimeout",
    "MemoryStore",
    "ReauthenticationRequired",
    "ResponseAlreadyStarted",
    "SerializationError",
    "Session",
    "SessionError",
    "SessionEvent",
    "SessionGone",
    "SessionInfo",
    "SessionLimitReached",
    "SessionManager",
    "SessionMiddleware",
    "SessionTooLarge",
    "StoreUnavailable",
    "manager_of",
    "session_of",
]
