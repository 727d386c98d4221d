from __future__ import annotations

import hashlib
import hmac
import random
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import Signer
from itsdangerous.signer import HMACAlgorithm

from sessionware import tokens as tokens_module
from sessionware.tokens import SALT_PREFIX, Tokens, hash_id, new_id
from tests.hostile_cookies import plain_signer, respell

SECRET = "a secret of more than thirty-two bytes"
OLD = "the secret before it, which was as long"
OLDER = b"the secret before that, given in bytes"

secret_keys = st.one_of(st.text(min_size=1), st.binary(min_size=1, max_size=200)).filter(
    lambda key: isinstance(key, bytes) or key.isprintable()
)


@pytest.fixture
def tokens() -> Tokens:
    return Tokens(SECRET, [OLD, OLDER], "session")


def token_of(secret: str | bytes, id: str, cookie_name: str = "session") -> bytes:
    return Tokens(secret, [], cookie_name).sign(id).encode()


def test_an_id_is_43_base64url_characters_and_never_repeats() -> None:
    ids = {new_id() for _ in range(10_000)}
    assert len(ids) == 10_000
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", id) for id in ids)


def test_an_id_does_not_depend_on_the_random_module() -> None:
    random.seed(1)
    first = new_id()
    random.seed(1)
    assert new_id() != first


def test_the_store_key_is_the_sha256_of_the_id() -> None:
    id = new_id()
    assert hash_id(id) == hashlib.sha256(id.encode()).digest()


@given(secret=secret_keys, name=st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,40}", fullmatch=True))
def test_a_token_is_what_itsdangerous_itself_would_sign(secret: str | bytes, name: str) -> None:
    id = new_id()
    plain = Signer(
        secret,
        salt=b"sessionware.session-id.v1:" + name.encode(),
        key_derivation="hmac",
        digest_method=hashlib.sha256,
    )
    token = Tokens(secret, [], name).sign(id)
    assert token.encode() == plain.sign(id)
    assert plain.unsign(token) == id.encode()


@pytest.mark.parametrize("length", [0, 1, 32, 63, 64, 65, 200])
@given(data=st.data(), message=st.binary(max_size=200))
def test_the_prekeyed_hmac_is_the_hmac_of_the_standard_library(
    length: int, data: st.DataObject, message: bytes
) -> None:
    key = data.draw(st.binary(min_size=length, max_size=length))
    expected = HMACAlgorithm(hashlib.sha256).get_signature(key, message)
    for known in ([], [key]):
        algorithm = tokens_module._KeyedAlgorithm(known)
        assert algorithm.get_signature(key, message) == expected
        assert algorithm.verify_signature(key, message, expected)
    assert expected == hmac.digest(key, message, "sha256")


@given(keys=st.lists(secret_keys, min_size=1, max_size=4), value=st.binary())
def test_the_signer_agrees_with_itsdangerous_in_every_public_method(
    keys: list[str | bytes], value: bytes
) -> None:
    salt = SALT_PREFIX + b"session"
    ours = tokens_module._SessionSigner(keys, salt)
    raw = [key.encode() if isinstance(key, str) else key for key in keys]
    plain = Signer(raw, salt=salt, key_derivation="hmac", digest_method=hashlib.sha256)
    assert isinstance(ours, Signer)
    assert ours.secret_key == plain.secret_key
    assert ours.derive_key() == plain.derive_key()
    for key in [*keys, "a key it does not know"]:
        assert ours.derive_key(key) == plain.derive_key(key)
    signature = plain.get_signature(value)
    assert ours.get_signature(value) == signature
    assert ours.sign(value) == plain.sign(value)
    assert ours.unsign(plain.sign(value)) == plain.unsign(ours.sign(value)) == value
    assert ours.verify_signature(value, signature)
    for wrong in (b"", signature[:-1], plain.get_signature(value + b"x")):
        assert ours.verify_signature(value, wrong) is plain.verify_signature(value, wrong) is False
        assert ours.validate(value + b"." + wrong) is plain.validate(value + b"." + wrong) is False


def test_a_signed_id_verifies(tokens: Tokens) -> None:
    id = new_id()
    token = tokens.sign(id).encode()
    assert re.fullmatch(rb"[A-Za-z0-9_-]{43}\.[A-Za-z0-9_-]{43}", token)
    assert tokens.verify(token) == id


def test_the_current_key_signs(tokens: Tokens) -> None:
    id = new_id()
    assert tokens.sign(id).encode() == token_of(SECRET, id)


@pytest.mark.parametrize(
    ("secret", "current"), [(SECRET, True), (OLD, False), (OLDER, False)], ids="012"
)
def test_every_key_of_the_list_verifies_and_only_the_first_is_current(
    tokens: Tokens, secret: str | bytes, current: bool
) -> None:
    id = new_id()
    token = token_of(secret, id)
    assert tokens.verify(token) == id
    assert tokens.examine(token) == (id, current)
    assert tokens.signed_by_current(token) is current


def test_a_key_that_was_removed_verifies_no_more() -> None:
    token = token_of(OLD, new_id())
    assert Tokens(SECRET, [OLD], "session").verify(token)
    after = Tokens(SECRET, [], "session")
    assert after.verify(token) is None
    assert after.signed_by_current(token) is False


def test_a_change_of_any_one_character_is_refused(tokens: Tokens) -> None:
    token = tokens.sign(new_id()).encode()
    for index, byte in enumerate(token):
        for other in b"A_.=+%\x00\xff":
            if other != byte:
                assert tokens.verify(token[:index] + bytes([other]) + token[index + 1 :]) is None


@pytest.mark.parametrize("step", [1, 2, 3])
def test_another_spelling_of_the_signature_is_refused(tokens: Tokens, step: int) -> None:
    token = tokens.sign(new_id())
    respelt = respell(token, step)
    assert plain_signer(SECRET, "session").validate(respelt), "itsdangerous takes it"
    assert tokens.verify(respelt.encode()) is None


@pytest.mark.parametrize("step", [1, 2, 3])
def test_another_spelling_of_the_id_is_refused_even_when_signed(tokens: Tokens, step: int) -> None:
    assert tokens.verify(tokens.sign(respell(new_id(), step)).encode()) is None


@given(st.binary(max_size=100))
def test_no_bytes_make_verify_raise_or_accept(token: bytes) -> None:
    assert Tokens(SECRET, [], "session").verify(token) is None


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(token_of(SECRET, new_id(), "session2"), id="another cookie"),
        pytest.param(token_of(SECRET, new_id(), "SESSION"), id="name in other case"),
        pytest.param(token_of(SECRET + " ", new_id()), id="another secret"),
    ],
)
def test_a_token_of_another_cookie_or_secret_is_refused(tokens: Tokens, token: bytes) -> None:
    assert tokens.verify(token) is None


def test_signatures_are_compared_in_constant_time_key_by_key(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def spy(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return hmac.compare_digest(a, b)

    monkeypatch.setattr(tokens_module, "compare_digest", spy)
    id = new_id()
    forged = f"{id}.{'A' * 43}"
    assert tokens.verify(forged.encode()) is None
    expected = [token_of(secret, id)[44:] for secret in (SECRET, OLD, OLDER)]
    assert compared == [(b"A" * 43, signature) for signature in expected]


def test_the_shape_is_checked_before_any_signature(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bool:
        raise AssertionError("a signature was compared")

    monkeypatch.setattr(tokens_module, "compare_digest", refuse)
    id = new_id()
    for token in ("", "null", "." * 87, f"{id}.{'A' * 42}!", f"{id}A{'A' * 43}", f"{id}.{id}A"):
        assert tokens.verify(token.encode()) is None


@pytest.mark.parametrize("fallbacks", [OLD, OLDER, ""])
def test_one_key_in_place_of_a_list_of_fallbacks_is_refused(fallbacks: str | bytes) -> None:
    with pytest.raises(TypeError):
        Tokens(SECRET, fallbacks, "session")  # type: ignore[arg-type]


@pytest.mark.parametrize(("secret", "fallbacks"), [("", []), (b"", []), (SECRET, [OLD, ""])])
def test_an_empty_key_is_refused(secret: str | bytes, fallbacks: list[str]) -> None:
    with pytest.raises(ValueError, match="empty"):
        Tokens(secret, fallbacks, "session")


def test_the_repr_shows_no_secret(tokens: Tokens) -> None:
    assert repr(tokens) == "Tokens(cookie_name='session', keys=3)"
    signer = tokens._signer
    shown = f"{tokens!r} {tokens!s} {signer!r} {signer.algorithm!r} {signer._newest_first!r}"
    for secret in (SECRET, OLD, OLDER.decode()):
        assert secret not in shown


def test_threads_can_share_it(tokens: Tokens) -> None:
    ids = [new_id() for _ in range(2_000)]
    with ThreadPoolExecutor(8) as pool:
        signed = list(pool.map(tokens.sign, ids))
        assert list(pool.map(tokens.verify, [token.encode() for token in signed])) == ids
