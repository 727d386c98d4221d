"""Cookie headers that a browser, a proxy, a sibling domain or an attacker might send.

``HOSTILE`` holds ``(label, fields, kind)``: the Cookie header fields with placeholders, and what
``sessionware.cookies.identify`` has to say of them. An adapter's test makes two sessions, passes
their tokens to ``ingredients`` and sends ``case.header(...)`` (one field) or ``case.filled(...)``.
Every kind but ``valid`` means an anonymous request; ``valid`` always means the session of
``{valid}``.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import NamedTuple

from itsdangerous import Signer, TimestampSigner

from sessionware.tokens import SALT_PREFIX, Tokens

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

Ingredients = Mapping[bytes, bytes]


class HostileCookie(NamedTuple):
    label: str
    fields: tuple[bytes, ...]
    kind: str

    def filled(self, ingredients: Ingredients) -> list[bytes]:
        """Return the fields, one a Cookie header, as HTTP/2 may deliver them."""
        return [
            re.sub(rb"\{([a-z][a-z_0-9]*)\}", lambda match: ingredients[match[1]], field)
            for field in self.fields
        ]

    def header(self, ingredients: Ingredients) -> bytes:
        """Return all in one field, joined the only way that HTTP allows."""
        return b"; ".join(self.filled(ingredients))


def respell(text: str, step: int = 1) -> str:
    """Return text whose last base64 character has other spare bits: it decodes to the same."""
    last = ALPHABET.index(text[-1])
    return text[:-1] + ALPHABET[last - last % 4 + (last + step) % 4]


def plain_signer(secret: str, cookie_name: str) -> Signer:
    """Return what itsdangerous itself makes of our parameters."""
    salt = SALT_PREFIX + cookie_name.encode()
    return Signer(secret, salt=salt, key_derivation="hmac", digest_method=hashlib.sha256)


def ingredients(secret: str, cookie_name: str, valid: str, other: str) -> dict[bytes, bytes]:
    """Return what stands for each placeholder; ``valid`` and ``other`` are tokens of the secret."""
    id, signature = valid.split(".")
    other_id, other_signature = other.split(".")
    ours = plain_signer(secret, cookie_name)
    salt = ours.salt

    def signed(text: str | bytes, signer: Signer = ours) -> bytes:
        return signer.sign(text)

    dotted = f"{id[:20]}.{id[21:]}"

    def variant(**settings: object) -> bytes:
        usual = {"salt": salt, "key_derivation": "hmac", "digest_method": hashlib.sha256}
        return signed(id, Signer(secret, **{**usual, **settings}))  # type: ignore[arg-type]

    raw_hmac = urlsafe_b64encode(hmac.digest(secret.encode(), id.encode(), "sha256")).rstrip(b"=")
    return {
        b"name": cookie_name.encode(),
        b"swapped_name": cookie_name.swapcase().encode(),
        b"titled_name": cookie_name.title().encode(),
        b"percent_name": b"%" + cookie_name.encode().hex("%").encode(),
        b"valid": valid.encode(),
        b"other": other.encode(),
        b"id": id.encode(),
        b"signature": signature.encode(),
        b"other_id": other_id.encode(),
        b"other_signature": other_signature.encode(),
        b"signature_1": f"{id}.{respell(signature, 1)}".encode(),
        b"signature_2": f"{id}.{respell(signature, 2)}".encode(),
        b"signature_3": f"{id}.{respell(signature, 3)}".encode(),
        b"respelt_id": f"{respell(id)}.{signature}".encode(),
        b"signed_respelt_id": signed(respell(id)),
        b"head_lost": valid[1:].encode(),
        b"tail_lost": valid[:-1].encode(),
        b"swapped_case": valid.swapcase().encode(),
        b"lower": valid.lower().encode(),
        b"percent_valid": valid.replace(".", "%2E").encode(),
        b"octal_valid": valid.replace(".", "\\056").encode(),
        b"standard_base64": f"+{valid[1:]}".encode(),
        b"signed_traversal": signed("../../../../etc/passwd"),
        b"signed_long_traversal": signed("../" * 14 + "x"),
        b"signed_nul": signed("\0" * 43),
        b"signed_backslash": signed("\\" * 43),
        b"signed_space": signed(" " * 43),
        b"signed_empty": signed(""),
        b"signed_null": signed("null"),
        b"signed_short": signed(id[:-1]),
        b"signed_long": signed(id + "A"),
        b"signed_token": signed(valid),
        b"signed_utf8": signed("é" * 21 + "A"),
        b"signed_percent": signed("%41" * 14 + "A"),
        b"signed_dotted": signed(dotted),
        b"signed_dotted_no_separator": b"A".join(signed(dotted).rsplit(b".", 1)),
        b"default_salt": variant(salt=b"itsdangerous.Signer"),
        b"timestamp_salt": variant(salt=TimestampSigner(secret).salt),
        b"no_cookie_salt": variant(salt=SALT_PREFIX),
        b"next_version_salt": variant(salt=salt.replace(b".v1:", b".v2:")),
        b"concat": variant(key_derivation="concat"),
        b"django_concat": variant(key_derivation="django-concat"),
        b"underived": variant(key_derivation="none"),
        b"sha1": variant(digest_method=hashlib.sha1),
        b"raw_hmac": id.encode() + b"." + raw_hmac,
        b"timestamped": signed(id, TimestampSigner(secret)),
        b"timestamped_our_salt": TimestampSigner(
            secret, salt=salt, key_derivation="hmac", digest_method=hashlib.sha256
        ).sign(id),
        b"other_secret": Tokens(secret + "x", [], cookie_name).sign(id).encode(),
        b"empty_secret": signed(id, plain_signer("", cookie_name)),
        b"other_name": Tokens(secret, [], cookie_name + "2").sign(id).encode(),
        b"host_name": Tokens(secret, [], "__Host-" + cookie_name).sign(id).encode(),
    }


def _case(label: str, kind: str, *fields: bytes) -> HostileCookie:
    return HostileCookie(label, fields, kind)


_OURS = b"{name}={valid}"

_SHAPES = [
    _case("no header", "none"),
    _case("empty header", "none", b""),
    _case("only spaces", "none", b"  \t "),
    _case("only semicolons", "none", b";;;;"),
    _case("only an equals sign", "none", b"="),
    _case("alone", "valid", _OURS),
    _case("among others", "valid", b"a=1; " + _OURS + b"; b=2"),
    _case("no space after the semicolon", "valid", b"a=1;" + _OURS + b";b=2"),
    _case("empty pairs around", "valid", b";; ;" + _OURS + b";;"),
    _case("trailing semicolon", "valid", _OURS + b";"),
    _case("spaces and tabs around", "valid", b"a=1;\t  " + _OURS + b" \t; b=2"),
    _case("tab around the equals sign", "valid", b"{name}\t=\t{valid}"),
    _case("fields split as HTTP/2 does", "valid", b"a=1", _OURS, b"b=2"),
    _case("empty field before", "valid", b"", _OURS),
    _case("pair split across fields", "bad", b"{name}=", b"{valid}"),
    _case("value split across fields", "bad", b"{name}={id}", b".{signature}"),
]

_NAMES = [
    _case("name in other case", "none", b"{swapped_name}={valid}"),
    _case("name in title case", "none", b"{titled_name}={valid}"),
    _case("name with a prefix", "none", b"x{name}={valid}"),
    _case("name with a suffix", "none", b"{name}x={valid}"),
    _case("name twice", "none", b"{name}{name}={valid}"),
    _case("name percent-encoded", "none", b"{percent_name}={valid}"),
    _case("name with a percent-encoded tail", "none", b"{name}%20={valid}"),
    _case("name in quotes", "none", b'"{name}"={valid}'),
    _case("name with a backslash", "none", b"\\{name}={valid}"),
    _case("name after a dollar sign", "none", b"${name}={valid}"),
    _case("__Host- spoofed before our name", "none", b"__Host-{name}={valid}"),
    _case("__Secure- before our name", "none", b"__Secure-{name}={valid}"),
    _case("__Host- in a nameless pair", "none", b"=__Host-{name}={valid}"),
    _case("nameless pair", "none", b"={name}={valid}"),
    _case("nameless pair after spaces", "none", b" \t={name}={valid}"),
    _case("nameless value", "none", b"={valid}"),
    _case("bare token", "none", b"{valid}"),
    _case("bare name", "none", b"{name}"),
    _case("name in another's value", "none", b"a={name}={valid}"),
    _case("name in another's value after a space", "none", b"a=1 " + _OURS),
    _case("comma is no separator before", "none", b"a=1, " + _OURS),
    _case("newline is no separator", "none", b"a=1\n" + _OURS),
    _case("CR LF is no separator", "none", b"a=1\r\n" + _OURS),
    _case("full-width semicolon is no separator", "none", b"a=1\xef\xbc\x9b" + _OURS),
    _case("full-width equals sign", "none", b"{name}\xef\xbc\x9d{valid}"),
    _case("byte order mark before", "none", b"\xef\xbb\xbf" + _OURS),
    _case("no-break space before (latin-1)", "none", b"\xa0" + _OURS),
    _case("no-break space before (utf-8)", "none", b"\xc2\xa0" + _OURS),
    _case("next line before", "none", b"\x85" + _OURS),
    _case("ideographic space before", "none", b"\xe3\x80\x80" + _OURS),
    _case("line separator before", "none", b"\xe2\x80\xa8" + _OURS),
    _case("vertical tab before", "none", b"\x0b" + _OURS),
    _case("file separator before", "none", b"\x1c" + _OURS),
    _case("newline before", "none", b"\n" + _OURS),
    _case("NUL before", "none", b"\0" + _OURS),
    _case("NUL after the name", "none", b"{name}\0={valid}"),
    _case("newline after the name", "none", b"{name}\n={valid}"),
    _case("no-break space after the name", "none", b"{name}\xa0={valid}"),
    _case("quoted semicolon opens a pair", "valid", b'a="1; ' + _OURS + b'; b=2"'),
    _case("escaped semicolon opens a pair", "valid", b"a=1\\; " + _OURS),
    _case("$Version before", "valid", b"$Version=1; " + _OURS + b"; $Path=/; $Domain=x"),
    _case("$Version with a comma", "none", b"$Version=1, " + _OURS),
    _case("attributes as cookies", "valid", _OURS + b"; path=/; httponly; Max-Age=0"),
    _case("other __Host- cookie beside", "valid", b"__Host-{name}={other}; " + _OURS),
    _case("nameless pair beside", "valid", b"={name}={other}; " + _OURS),
    _case("other case beside", "valid", b"{swapped_name}={other}; " + _OURS),
]

_VALUES = [
    _case(label, "bad", b"{name}=" + value)
    for label, value in [
        ("empty value", b""),
        ("blank value", b"  \t"),
        ("null", b"null"),
        ("empty quotes", b'""'),
        ("dot", b"."),
        ("path traversal", b"../../etc/passwd"),
        ("path traversal percent-encoded", b"..%2f..%2fetc%2fpasswd"),
        ("traversal of a token's length", b"../" * 29),
        ("format string", b"%s%s%n{0}{{}}"),
        ("JSON", b'{"user_id":"admin"}'),
        ("pickle", b"gASVIAAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAV0b3VjaJSFlFKULg=="),
        ("quoted", b'"{valid}"'),
        ("closing quote", b'{valid}"'),
        ("octal escape", b'"{octal_valid}"'),
        ("octal escape without quotes", b"{octal_valid}"),
        ("escaped quotes", b'\\"{valid}\\"'),
        ("backslash after", b"{valid}\\"),
        ("percent-encoded dot", b"{percent_valid}"),
        ("second equals sign", b"={valid}"),
        ("equals sign after", b"{valid}="),
        ("padded", b"{valid}=="),
        ("padded ID", b"{id}=.{signature}"),
        ("comma after", b"{valid},"),
        ("second pair after a comma", b"{valid}, a=1"),
        ("token after a comma", b"{valid},{valid}"),
        ("token after a space", b"{valid} {valid}"),
        ("tab inside", b"{id}\t.{signature}"),
        ("NUL after", b"{valid}\0"),
        ("NUL before the token", b"\0{valid}"),
        ("newline after", b"{valid}\n"),
        ("CR LF after", b"{valid}\r\n"),
        ("header injection", b"{valid}\r\nSet-Cookie: a=1"),
        ("no-break space after (latin-1)", b"{valid}\xa0"),
        ("no-break space after (utf-8)", b"{valid}\xc2\xa0"),
        ("file separator after", b"{valid}\x1f"),
        ("zero-width space inside", b"{id}\xe2\x80\x8b.{signature}"),
        ("full-width dot", b"{id}\xef\xbc\x8e{signature}"),
        ("invalid utf-8", b"\xff\xfe\xfd"),
        ("every byte but the semicolon", bytes(range(256)).replace(b";", b"")),
        ("87 letters", b"A" * 87),
        ("87 letters with a dot", b"A" * 43 + b"." + b"A" * 43),
        ("60 KB value", b"A" * 60_000),
        ("signature respelt, 1", b"{signature_1}"),
        ("signature respelt, 2", b"{signature_2}"),
        ("signature respelt, 3", b"{signature_3}"),
        ("ID respelt", b"{respelt_id}"),
        ("ID respelt and signed", b"{signed_respelt_id}"),
        ("case swapped", b"{swapped_case}"),
        ("lower case", b"{lower}"),
        ("standard base64 alphabet", b"{standard_base64}"),
        ("ID only", b"{id}"),
        ("ID and dot", b"{id}."),
        ("signature only", b".{signature}"),
        ("halves exchanged", b"{signature}.{id}"),
        ("ID as its own signature", b"{id}.{id}"),
        ("signature of another ID", b"{id}.{other_signature}"),
        ("ID of another signature", b"{other_id}.{signature}"),
        ("first character lost", b"{head_lost}"),
        ("last character lost", b"{tail_lost}"),
        ("two dots", b"{id}..{signature}"),
        ("three parts", b"{valid}.{signature}"),
        ("timestamp in the middle", b"{id}.aVJk4w.{signature}"),
        ("other separator", b"{id}:{signature}"),
        ("signed traversal", b"{signed_traversal}"),
        ("signed traversal of the right length", b"{signed_long_traversal}"),
        ("signed NULs", b"{signed_nul}"),
        ("signed backslashes", b"{signed_backslash}"),
        ("signed spaces", b"{signed_space}"),
        ("signed empty ID", b"{signed_empty}"),
        ("signed null", b"{signed_null}"),
        ("signed ID one short", b"{signed_short}"),
        ("signed ID one long", b"{signed_long}"),
        ("signed twice", b"{signed_token}"),
        ("signed utf-8 of the right length", b"{signed_utf8}"),
        ("signed percent signs of the right length", b"{signed_percent}"),
        ("signed ID with a dot", b"{signed_dotted}"),
        ("signed ID with a dot and no separator", b"{signed_dotted_no_separator}"),
        ("itsdangerous' default salt", b"{default_salt}"),
        ("TimestampSigner's salt", b"{timestamp_salt}"),
        ("salt without the cookie's name", b"{no_cookie_salt}"),
        ("salt of another version", b"{next_version_salt}"),
        ("key derivation concat", b"{concat}"),
        ("key derivation django-concat", b"{django_concat}"),
        ("key not derived", b"{underived}"),
        ("SHA-1", b"{sha1}"),
        ("HMAC of the ID under the secret", b"{raw_hmac}"),
        ("TimestampSigner with the same secret", b"{timestamped}"),
        ("TimestampSigner with our salt", b"{timestamped_our_salt}"),
        ("another secret", b"{other_secret}"),
        ("the empty secret", b"{empty_secret}"),
        ("another cookie's token", b"{other_name}"),
        ("the __Host- cookie's token", b"{host_name}"),
    ]
]

_OTHER = b"{name}={other}"
_JUNK = b"{name}=junk"


def _pairs(*pairs: bytes) -> bytes:
    return b"; ".join(pairs)


_MANY = [
    _case("same value twice", "valid", _pairs(_OURS, _OURS)),
    _case("same value in two fields", "valid", _OURS, _OURS),
    _case("same value 8 times", "valid", _pairs(*[_OURS] * 8)),
    _case("same value 9 times", "duplicate", _pairs(*[_OURS] * 9)),
    _case("same value 500 times", "duplicate", _pairs(*[_OURS] * 500)),
    _case("two sessions", "duplicate", _pairs(_OURS, _OTHER)),
    _case("two sessions, other order", "duplicate", _pairs(_OTHER, _OURS)),
    _case("two sessions in two fields", "duplicate", _OTHER, b"a=1", _OURS),
    _case("two sessions with junk between", "duplicate", _pairs(_OURS, _JUNK, _OTHER)),
    _case("two sessions, the second 8th", "duplicate", _pairs(_OURS, *[_JUNK] * 6, _OTHER)),
    _case("junk before", "valid", _pairs(_JUNK, _OURS)),
    _case("junk after", "valid", _pairs(_OURS, _JUNK)),
    _case("empty value before", "valid", _pairs(b"{name}=", _OURS)),
    _case("quoted token of another before", "valid", _pairs(b'{name}="{other}"', _OURS)),
    _case("forgery before", "valid", _pairs(b"{name}={other_id}.{signature}", _OURS)),
    _case("respelt copy beside", "valid", _pairs(b"{name}={signature_1}", _OURS)),
    _case("7 junk values before", "valid", _pairs(*[_JUNK] * 7, _OURS)),
    _case("8 junk values before", "duplicate", _pairs(*[_JUNK] * 8, _OURS)),
    _case("8 junk values after", "duplicate", _pairs(_OURS, *[_JUNK] * 8)),
    _case("8 junk values", "bad", _pairs(*[_JUNK] * 8)),
    _case("9 junk values", "duplicate", _pairs(*[_JUNK] * 9)),
    _case("9 values over 9 fields", "duplicate", *[_OURS] * 9),
    _case("1,000 other cookies before", "valid", _pairs(*[b"c=1"] * 1000, _OURS)),
    _case("1,000 similar names before", "valid", _pairs(*[b"{name}x=1"] * 1000, _OURS)),
    _case("60 KB of spaces before", "valid", b" " * 60_000 + _OURS),
    _case("60 KB of quotes before", "valid", b'a="' + b'\\"' * 30_000 + b'"; ' + _OURS),
    _case("60 KB of semicolons before", "valid", b";" * 60_000 + _OURS),
    _case("60 KB of equals signs before", "none", b"=" * 60_000 + _OURS),
    _case("70 KB before", "bad", b"a=" + b"x" * 70_000 + b"; " + _OURS),
    _case("70 KB after", "bad", _OURS + b"; a=" + b"x" * 70_000),
    _case("70 KB over several fields", "bad", _OURS, *[b"a=" + b"x" * 10_000] * 7),
    _case("70 KB without our name", "bad", b"a=" + b"x" * 70_000),
    _case("200 KB of escaped quotes", "bad", b'{name}="' + b'\\"' * 100_000 + b'"'),
    _case("200 KB of octal escapes", "bad", b'{name}="' + b"\\054" * 50_000 + b'"'),
]

HOSTILE: list[HostileCookie] = [*_SHAPES, *_NAMES, *_VALUES, *_MANY]
