"""Print pip constraints that pin every dependency of the product to its lower bound.

The `tests`, `lint`, `examples`, `frameworks` and `dev` extras are left out: tools may be new.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

TOOLS = {"tests", "lint", "examples", "frameworks", "dev"}
LOWER_BOUND = re.compile(r"(?P<name>[\w.-]+)(?:\[[^\]]*\])?>=(?P<version>[\w.]+)$")

project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
extras = project["optional-dependencies"]
wanted = [*project["dependencies"]]
wanted += [line for extra, lines in extras.items() if extra not in TOOLS for line in lines]

for requirement in sorted(set(wanted)):
    match = LOWER_BOUND.match(requirement)
    if match is None:
        raise SystemExit(f"pyproject.toml: {requirement!r} has no plain lower bound")
    print(f"{match['name']}=={match['version']}")
