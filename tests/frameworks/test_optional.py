"""No framework but Starlette has to be installed."""

from __future__ import annotations

import subprocess
import sys

FRAMEWORKS = (
    "a2wsgi",
    "bottle",
    "django",
    "falcon",
    "fastapi",
    "flask",
    "litestar",
    "pyramid",
    "quart",
    "werkzeug",
)


def test_sessionware_is_imported_without_any_of_them() -> None:
    # None in sys.modules makes an import fail as if the module were not installed.
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({FRAMEWORKS}))\n"
        "import sessionware, sessionware.wsgi\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
