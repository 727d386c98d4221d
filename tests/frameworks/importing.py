"""A framework that is not installed skips its test file."""

from __future__ import annotations

import warnings
from typing import Any

import pytest


def framework(name: str) -> Any:
    """The module, or a skip; what it deprecates by being imported is its own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)
