"""Database servers of a test's own, to be killed."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests import services
from tests.processes.servers import free_port

_PATIENCE = 30.0


class PrivateServer:
    """One server process at a port of its own."""

    def __init__(self, command: list[str], port: int, how_to_kill: int, **options: Any) -> None:
        self.port = port
        self._command = command
        self._how_to_kill = how_to_kill
        self._options = options
        self._process: subprocess.Popen[Any] | None = None

    def start(self) -> None:
        """Start it; it accepts connections afterwards, if not yet queries."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._options
        )
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise AssertionError(f"{self._command[0]} does not come up")

    def kill(self) -> None:
        """End it at once, without a word to its clients."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(self._how_to_kill)
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def private_postgres() -> Iterator[tuple[PrivateServer, str]]:
    """A PostgreSQL cluster in a new folder, and its URL; skips the test without ``initdb``."""
    programs = _postgres_programs()
    # Not in the test's folder, which only its owner may enter: PostgreSQL does not run as root.
    folder = Path(tempfile.mkdtemp(prefix="sessionware-"))
    options: dict[str, Any] = {"cwd": folder}
    if os.geteuid() == 0:
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            services.unavailable("PostgreSQL does not run as root, and there is no user postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        options |= {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    data = str(folder / "data")
    initdb = [str(programs / "initdb"), "-D", data, "-A", "trust", "-U", "postgres", "--no-sync"]
    port = free_port()
    settings = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": folder,
        # A killed server is not a power cut.
        "fsync": "off",
        "max_connections": 200,
    }
    command = [str(programs / "postgres"), "-D", data]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    # SIGQUIT is PostgreSQL's "immediate": no checkpoint, recovery at the start.
    server = PrivateServer(command, port, signal.SIGQUIT, **options)
    try:
        subprocess.run(initdb, check=True, capture_output=True, **options)
        server.start()
        yield server, f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _postgres_programs() -> Path:
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not versions:
        services.unavailable("there is no initdb to make a PostgreSQL cluster with")
    return versions[-1].parent


@contextmanager
def private_redis(folder: Path) -> Iterator[tuple[PrivateServer, str]]:
    """A Redis or Valkey server that keeps nothing, and its URL. Skips where there is none."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        services.unavailable("there is no redis-server")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    server = PrivateServer(command, port, signal.SIGKILL, cwd=folder)
    try:
        server.start()
        yield server, f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
