"""Looks for known secrets in what a program lets out: logs, exceptions, reprs, bodies, files."""

from __future__ import annotations

import gc
import logging
import threading
import traceback
from base64 import b64encode, urlsafe_b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOGGERS = (
    "aiosqlite",
    "asyncio",
    "asyncpg",
    "asyncmy",
    "concurrent.futures",
    "psycopg",
    "psycopg.pool",
    "pymysql",
    "sessionware",
    "sqlalchemy",
    "sqlalchemy.engine",
    "sqlalchemy.engine.Engine",
    "sqlalchemy.pool",
    "sqlalchemy.dialects",
    "starlette",
    "uvicorn",
)


class Leaks(logging.Handler):
    """Remembers what was let out and what must not be; ``found`` compares the two at the end."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
        self._forms: dict[str, list[bytes]] = {}
        self._seen: set[tuple[str, bytes]] = set()
        self._threads = threading.RLock()

    # What is secret.

    def secret(self, label: str, value: str | bytes) -> None:
        """Look for a value as it is and as the usual encodings of bytes show it."""
        raw = value.encode() if isinstance(value, str) else value
        shown = repr(raw)[2:-1].encode()
        self._forms[label] = [raw, shown, raw.hex().encode(), raw.hex().upper().encode()]
        # Base64 of bytes that stand somewhere in longer ones: the part that doesn't depend on them.
        for offset in range(3):
            encoded = b64encode(bytes(offset) + raw)
            self._forms[label].append(encoded[4 if offset else 0 : -4])

    def token(self, token: str) -> None:
        """A cookie's value: its ID, as text and as bytes, and its signature are secrets each."""
        id, signature = token.split(".")
        self.secret(f"ID {id[:4]}", id)
        self.secret(f"decoded ID {id[:4]}", urlsafe_b64decode(id + "="))
        self.secret(f"signature of {id[:4]}", signature)

    # What is let out.

    def emit(self, record: logging.LogRecord) -> None:
        where = f"log {record.name}"
        self.text(where, self.format(record))
        self.text(where, repr(record.args))

    def text(self, where: str, text: str | bytes) -> None:
        raw = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
        with self._threads:
            self._seen.add((where, raw))

    def thing(self, value: object) -> None:
        """How an object shows itself."""
        where = f"{type(value).__module__}.{type(value).__qualname__}"
        for show in (repr, str, format):
            self.text(f"{show.__name__} of {where}", show(value))

    def things_alive(self, package: str) -> None:
        """How each object of a package's classes that lives right now shows itself."""
        for value in gc.get_objects():
            if str(type(value).__module__).partition(".")[0] == package:
                self.thing(value)

    def exception(self, error: BaseException) -> None:
        """An exception with all that hangs on it, shown or suppressed."""
        pending: list[BaseException | None] = [error]
        walked: set[int] = set()
        while pending:
            current = pending.pop()
            if current is None or id(current) in walked:
                continue
            walked.add(id(current))
            where = f"exception {type(current).__name__}"
            self.text(where, f"{current} {current!r} {current.args!r}")
            # SQLAlchemy keeps a statement's parameters as attributes.
            self.text(f"attributes of {where}", repr(vars(current)))
            self.text(f"traceback of {where}", "".join(traceback.format_exception(current)))
            pending += [current.__cause__, current.__context__]
            if isinstance(current, BaseExceptionGroup):
                pending += current.exceptions

    def variables(self, error: BaseException, folder: str) -> None:
        """What a tool finds that shows the variables of a traceback, in the frames of a folder's
        modules.
        """
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        for frame in shown.stack:
            if folder in frame.filename:
                self.text(f"variables of {frame.name}", repr(frame.locals))

    def files(self, folder: Path) -> list[str]:
        """Take in every file of a folder, and return their names."""
        paths = [path for path in sorted(folder.iterdir()) if path.is_file()]
        for path in paths:
            self.text(f"file {path.name}", path.read_bytes())
        return [path.name for path in paths]

    # The comparison.

    def found(self) -> set[str]:
        with self._threads:
            seen = list(self._seen)
        return {
            f"{label} in {where}"
            for where, text in seen
            for label, forms in self._forms.items()
            if any(form in text for form in forms)
        }

    def check(self) -> None:
        """Fail if a secret was let out, and name each place."""
        found = sorted(self.found())
        assert not found, "\n".join(found)

    def seen_in(self, where: str) -> int:
        """How much has been looked at there: nothing found in nothing proves nothing."""
        return sum(place.startswith(where) for place, _ in self._seen)


@contextmanager
def watching() -> Iterator[Leaks]:
    """Every logger at DEBUG, with nothing filtered away."""
    leaks = Leaks()
    names = {*LOGGERS, *logging.root.manager.loggerDict}
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in sorted(names))]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    logging.getLogger().addHandler(leaks)
    try:
        yield leaks
    finally:
        logging.getLogger().removeHandler(leaks)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
