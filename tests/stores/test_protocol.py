"""The contract of a store, as it is written down."""

from __future__ import annotations

import inspect

import pytest

from sessionware.stores.protocol import AsyncStore, Store

METHODS = [name for name in vars(Store) if not name.startswith("_")]


@pytest.mark.parametrize("name", METHODS)
def test_each_method_takes_the_same_as_its_coroutine(name: str) -> None:
    assert inspect.signature(getattr(Store, name)) == inspect.signature(
        getattr(AsyncStore, f"a{name}")
    )
