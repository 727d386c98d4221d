"""A process of its own that uses sessions as a test tells it, over its standard input and output.

``python -m tests.coherence.worker '{"store": ...}'``; each line in is ``["command", arguments...]``
in JSON, each line out the answer.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Final

from sessionware import SessionManager
from sessionware.errors import StoreUnavailable
from tests.apps import SECRET
from tests.byhand import Visitor, login, storing

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 30


class Worker:
    """The process, as the test sees it."""

    def __init__(self, **settings: Any) -> None:
        search = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.coherence.worker", json.dumps(settings)],
            env={**os.environ, "PYTHONPATH": search, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self.ask("ready") is True

    def tell(self, *command: Any) -> None:
        """Have it begin; ``answer`` waits for the end."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        stdout = self._process.stdout
        assert stdout is not None
        assert select.select([stdout], [], [], PATIENCE)[0], "the worker does not answer"
        return json.loads(stdout.readline())

    def ask(self, *command: Any) -> Any:
        self.tell(*command)
        return self.answer()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stopped(self) -> None:
        """Wait until it stands still."""
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def wait(self) -> int:
        return self._process.wait(PATIENCE)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class _Inside:
    """What the process does."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.manager = SessionManager(secret_key=SECRET, purge_interval=None, **settings)

    def ready(self) -> bool:
        return True

    def new(self, **content: Any) -> str | None:
        visitor = Visitor(self.manager)
        visitor.visit(storing(**content))
        return visitor.cookie

    def login(self, user: str) -> str | None:
        visitor = Visitor(self.manager)
        visitor.visit(login(user))
        return visitor.cookie

    def read(self, cookie: str) -> Any:
        try:
            return Visitor(self.manager, cookie).content()
        except StoreUnavailable:
            return 503

    def write(self, cookie: str, **content: Any) -> Any:
        try:
            Visitor(self.manager, cookie).visit(storing(**content))
        except StoreUnavailable:
            return 503
        return True

    def end(self, cookie: str) -> bool:
        Visitor(self.manager, cookie).visit(lambda session: session.invalidate())
        return True

    def revoke_user(self, user: str) -> int:
        return self.manager.revoke_user(user)

    def revoke_all(self) -> int:
        return self.manager.revoke_all()

    def put(self, key: str, value: dict[str, Any]) -> bool:
        self.manager.store.put(key, value)
        return True

    def die_at_commit(self, when: str) -> bool:
        """The next write is killed, before it is committed or right after it."""
        store: Any = self.manager.store.store
        once = store._once

        def killed(script: Any, reading: bool, *args: Any, **more: Any) -> Any:
            if reading:
                return once(script, reading, *args, **more)
            if when == "after":
                once(script, reading, *args, **more)
            return os.kill(os.getpid(), signal.SIGKILL)

        store._once = killed
        return True

    def stop_at_commit(self) -> bool:
        """The next write stops before it is committed, until a SIGCONT."""
        store: Any = self.manager.store.store
        once = store._once

        def stopped(script: Any, reading: bool, *args: Any, **more: Any) -> Any:
            if not reading:
                store._once = once
                # This thread itself: another one would take its time to stop them all.
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
            return once(script, reading, *args, **more)

        store._once = stopped
        return True

    def alive(self) -> bool:
        """Whether the channel serves rows unasked."""
        return bool(getattr(self.manager.store.channel, "alive", True))


def main(settings: str) -> None:
    inside = _Inside(json.loads(settings))
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        named = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
        if name == "put":
            arguments, named = [*arguments, named], {}
        print(json.dumps(getattr(inside, name)(*arguments, **named)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
