"""Who a session's content says is logged in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any
from uuid import UUID

from .codecs import JSONCodec
from .errors import SerializationError

_LONGEST = 255
# How names begin that we make ourselves: nobody may choose one that stands for somebody else.
_OURS = ("sha256:", "=", "~")
_codec = JSONCodec()


def user_of(content: Mapping[Any, Any], user_key: Sequence[str]) -> str | None:
    """The user's name under the first of the keys that is present, as it is kept in the ``user_id``
    column.
    """
    # Not by what a session does when it is read.
    get: Callable[..., Any] = dict.get if isinstance(content, dict) else type(content).get
    for key in user_key:
        value = get(content, key)
        if value is not None:
            return user_name(value)
    return None


def user_name(value: Any) -> str:
    """A user's ID of any type as a string of at most 255 characters: itself, where it can be.

    The same for the session's value and for the argument of ``list_sessions`` and ``revoke_user``.
    """
    own = False
    if isinstance(value, str):
        text, own = value, value.startswith(_OURS)
    elif type(value) in (int, UUID):
        text = str(value)
    else:
        try:
            text = _codec.fingerprint(value).decode()
        except SerializationError:
            text = str(value)
    if len(text) <= _LONGEST and text.isprintable() and not own:
        return text
    return "sha256:" + sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
