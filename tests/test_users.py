"""Users: any type of ID becomes the one name that is stored and asked for."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionware import Session
from sessionware.users import user_name, user_of

KEYS = ("user_id", "_user_id", "_auth_user_id")


@pytest.mark.parametrize(
    ("content", "user"),
    [
        ({}, None),
        ({"user": "alice"}, None),
        ({"user_id": "alice"}, "alice"),
        ({"_user_id": "alice"}, "alice"),
        ({"_auth_user_id": "7", "_user_id": "alice"}, "alice"),
        ({"_auth_user_id": "7", "user_id": "alice"}, "alice"),
        ({"user_id": None}, None),
        ({"user_id": None, "_user_id": "alice"}, "alice"),
        ({"user_id": 0}, "0"),
        ({"user_id": ""}, ""),
        ({"user_id": False}, "=false"),
    ],
)
def test_the_first_key_with_a_value_names_the_user(
    content: dict[str, Any], user: str | None
) -> None:
    kinds: list[Mapping[str, Any]] = [content, MappingProxyType(content), Session(content)]
    assert [user_of(kind, KEYS) for kind in kinds] == [user] * 3


def test_without_user_keys_there_are_no_users() -> None:
    assert user_of({"user_id": "alice"}, ()) is None


def test_looking_for_the_user_is_no_use_of_the_session() -> None:
    session = Session(user_id="alice")
    user_of(session, KEYS)
    assert not session.accessed


@pytest.mark.parametrize(
    ("user", "name"),
    [
        ("alice", "alice"),
        ("Ælfgifu Ω 😀", "Ælfgifu Ω 😀"),
        ("x" * 255, "x" * 255),
        (7, "7"),
        (-(10**30), "-1" + 30 * "0"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    ],
)
def test_a_readable_user_keeps_the_name(user: Any, name: str) -> None:
    assert user_name(user) == name


@given(st.text(max_size=300) | st.integers() | st.binary() | st.uuids() | st.decimals())
def test_any_user_gets_a_short_printable_name_and_always_the_same(user: Any) -> None:
    name = user_name(user)
    assert len(name) <= 255
    assert name.isprintable()
    assert user_name(user) == name


UNUSUAL = ["x" * 256, "a\nb", "a\0b", "\x1b[31m", "\ud800", "a\u2028b", "a\u200bb"]


@given(st.lists(st.text(max_size=300) | st.sampled_from(UNUSUAL), unique=True, min_size=2))
def test_two_different_texts_are_never_one_user(users: list[str]) -> None:
    assert len({user_name(user) for user in users}) == len(users)


@pytest.mark.parametrize("user", UNUSUAL, ids=ascii)
def test_nobody_can_choose_the_name_that_stands_for_an_unusual_one(user: str) -> None:
    assert user_name(user_name(user)) != user_name(user)


@pytest.mark.parametrize("user", [False, [1], b"a", ("a",), {"a": 1}], ids=repr)
def test_nobody_can_choose_the_name_of_a_user_of_another_type(user: Any) -> None:
    assert user_name(user_name(user)) != user_name(user)


@pytest.mark.parametrize("user", [b"\x00\xff", ("a", 1), Decimal("1.5"), 1.5, object], ids=repr)
def test_an_unusual_type_is_named_by_its_value_not_by_its_place_in_memory(user: Any) -> None:
    assert user_name(user) == user_name(user)
    assert user_name(user)
