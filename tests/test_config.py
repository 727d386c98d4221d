from __future__ import annotations

import asyncio
import dataclasses
import decimal
import enum
import functools
import json
import logging
import marshal
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import Session as OrmSession
from sqlalchemy.orm import sessionmaker
from starlette.datastructures import Secret

from sessionware import config
from sessionware.coherence import Channel, Validate
from sessionware.config import Options, Settings, build_settings
from sessionware.cookies import CookieWriter
from sessionware.errors import ConfigurationError, Finding

KEY = "kq0ZrVf3b8_2uXtYwLJm5cPa9dNe7GsHi1oTzRUE4Q"
OTHER = "m1T5hWvE8xAyCzKdB3nRfQgJ6uLs0pXo_iV7ZlHkYt"
SEAL = "0123456789abcdef" * 4
PASSWORD = "hunter2"
TOO_LONG = 34_560_001
CHANNEL = Validate()


class Nothing:
    """An object that is no secret, no store and no serializer."""


class Loads:
    def load(self) -> None: ...


class Json:
    def dumps(self, value: dict[str, Any]) -> bytes:
        return json.dumps(value).encode()

    def loads(self, data: bytes) -> Any:
        return json.loads(data)


class UnpicklesOnly:
    dumps = Json.dumps
    loads = staticmethod(pickle.loads)


PARTIAL_PICKLE = SimpleNamespace(
    dumps=functools.partial(pickle.dumps, protocol=5), loads=json.loads
)


class SecretStr:
    """What pydantic's type does with str()."""

    def __str__(self) -> str:
        return "**********"

    def get_secret_value(self) -> str:
        return KEY


PydanticSecret = type("Secret", (SecretStr,), {})


class Text(str, enum.Enum):  # noqa: UP042
    """Its members are texts, which f-strings show as the names of the members."""

    KEY = KEY
    COOKIE = "sid"
    PATH = "/app"
    DOMAIN = "localhost"
    TABLE = "auth.sessions"
    USER = "uid"
    MODE = "validate"


class Answers(Json):
    """A serializer that gives what it was told to."""

    def __init__(self, dumped: Any, loaded: Any) -> None:
        self.dumped, self.loaded = dumped, loaded

    def dumps(self, value: dict[str, Any]) -> Any:
        return self.dumped

    def loads(self, data: bytes) -> Any:
        return self.loaded


class Listener:
    async def __call__(self, event: object) -> None: ...

    async def seen(self, event: object) -> None: ...


class Hostile:
    """Fails whatever one does with it."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise RuntimeError

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


HostileSecret = type("Secret", (Hostile,), {})


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Forget what was logged, and capture it from INFO on."""
    monkeypatch.setattr(config, "_logged", set())
    caplog.set_level(logging.INFO, logger="sessionware")


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite:///a.db", hide_parameters=True)
    yield engine
    engine.dispose()


def build(**keywords: Any) -> Settings:
    return build_settings(**{"secret_key": KEY, **keywords})


def outcome(**keywords: Any) -> Settings | ConfigurationError:
    try:
        return build(**keywords)
    except ConfigurationError as error:
        return error


def refused(**keywords: Any) -> tuple[Finding, ...]:
    error = outcome(**keywords)
    assert isinstance(error, ConfigurationError)
    return error.findings


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def codes(lines: list[str]) -> list[tuple[str, str]]:
    return [(code, setting.rstrip(":")) for code, setting, *_ in map(str.split, lines)]


BAD_TIMES = [
    True,
    "60",
    float("nan"),
    float("inf"),
    34_560_001,
    10**99,
    10**5000,
    decimal.Decimal(9),
]
LONG_LIVED = ["max_age", "idle_timeout", "absolute_timeout", "cache_ttl"]
FLAGS = [name for name, default in config.DEFAULTS.items() if isinstance(default, bool)]

# The setting, the code, a part of the fix, and the values that get them.
REFUSED: list[tuple[str, str, str, list[Any]]] = [
    ("secret_key", "SW001", "token_urlsafe", [None, "", b"", " \n", [], [""], Secret(""), 42]),
    ("secret_key", "SW001", "token_urlsafe", [bytearray(KEY.encode()), Nothing(), f"{KEY}\udc80"]),
    ("secret_key", "SW001", "get_secret_value()", [SecretStr(), PydanticSecret()]),
    ("secret_key", "SW005", "secret_key_fallbacks", [[KEY], (KEY, OTHER), {KEY}]),
    ("secret_key_fallbacks", "SW005", "[previous_key]", [OTHER, OTHER.encode(), {OTHER}]),
    ("secret_key_fallbacks", "SW005", "secret_key_fallbacks", [[[OTHER]]]),
    ("secret_key_fallbacks", "SW001", "token_urlsafe", [[""], [None]]),
    ("secret_key_fallbacks", "SW006", "once", [[KEY.encode()], [OTHER, OTHER]]),
    ("session_cookie", "SW010", '"session"', ["", "a b", "a;b", "a=b", "a,b", "sëssion", "s\n", 3]),
    ("session_cookie", "SW009", "https_only=True", ["__Host-s", "__Secure-s", "__Host-Http-s"]),
    ("session_cookie", "SW009", "__Host-", ["Host__s", "__Host_s", "Secure__s"]),
    ("path", "SW010", '"/"', ["", "a", "/a;b", "/a b", "/a,b", "/\r\nX: y", "/é", "/\x7f", "/\n"]),
    ("domain", "SW010", "domain=None", ["a b.c", "a;b.c", "a,b.c", "a.c\n", "bücher.example", 1]),
    ("domain", "SW011", "domain=None", ["*.a.com", "https://a.com", "a.com:80", "127.0.0.1"]),
    ("domain", "SW011", "domain=None", ["", ".", "com", ".com", "CO.UK", "github.io", "a..b"]),
    ("domain", "SW011", "domain=None", ["[::1]", "a.com.", "-a.com", "a" * 64 + ".com"]),
    ("domain", "SW011", "domain=None", ["127.1", "10.0.0.0x1", "0x7f.1", "2130706433", "a.0x"]),
    ("session_cookie", "SW010", "short", ["s" * 4010, "s" * 5000]),
    ("path", "SW010", '"/"', ["/" + "a" * 1024]),
    ("same_site", "SW008", "https_only=True", ["none", "None"]),
    ("same_site", "SW013", '"strict"', [None, "", "laxx", True]),
    ("partitioned", "SW014", "https_only=True", [True]),
    *((setting, "SW015", "seconds", BAD_TIMES) for setting in LONG_LIVED),
    ("max_age", "SW015", "int", [0.5, timedelta(milliseconds=500)]),
    ("max_age", "SW015", "400 days", [timedelta(days=401), -34_560_001]),
    ("idle_timeout", "SW015", "more than 0", [0, -1, timedelta(0)]),
    ("absolute_timeout", "SW015", "more than 0", [0, -1, timedelta(0)]),
    ("idle_timeout", "SW015", "0.001", [1e-9, timedelta(microseconds=999)]),
    ("absolute_timeout", "SW015", "0.001", [1e-9]),
    ("cache_ttl", "SW015", "0 or more", [-0.1, None]),
    ("cache_ttl", "SW015", "0.001", [1e-9]),
    ("store_timeout", "SW042", "more than 0", [0, -1, None, float("nan")]),
    ("store_timeout", "SW042", "0.001", [1e-9]),
    ("purge_interval", "SW042", "0 or more", [-1, True, "600", float("inf")]),
    ("purge_interval", "SW042", "0.001", [1e-9]),
    ("cache_max_bytes", "SW018", "int", [-1, 1.5, True, None, "1"]),
    ("max_session_bytes", "SW042", "16777216", [0, 2**24 + 1, True, 1.0]),
    ("coherence", "SW017", 'did you mean "validate"', ["Validate", "validated"]),
    ("coherence", "SW017", 'did you mean "notify"', ["NOTIFY", "notifyy"]),
    ("coherence", "SW017", '"bounded", or a RedisChannel', ["xyz", None, 1, b"auto", Validate]),
    ("listen_url", "SW017", '"postgresql+psycopg:', ["", "h/d", 7, "sqlite://", "mysql://h/d"]),
    ("serializer", "SW037", "default", [pickle, marshal, UnpicklesOnly(), PARTIAL_PICKLE]),
    ("serializer", "SW037", "instance", [Json, Nothing(), "json", len]),
    ("serializer", "SW037", "gives bytes", [json, Answers("{}", {}), Answers(bytearray(), {})]),
    ("serializer", "SW037", "the dict", [Answers(b"", None), Answers(b"", "")]),
    ("encryption_key", "SW034", "token_hex(32)", ["", "short", SEAL[:-1], b"x" * 31, 7, [SEAL]]),
    ("encryption_key_fallbacks", "SW034", "[previous_key]", [SEAL]),
    ("encryption_key_fallbacks", "SW034", "set encryption_key", [[SEAL]]),
    ("exclude", "SW042", '["/static"]', ["/static", ["static"], [b"/static"], None]),
    ("user_key", "SW042", '"user_id"', ["", {"user_id"}, ["user_id", 1], [""]]),
    (
        "table_name",
        "SW042",
        '"auth.sessions"',
        ["", "a b", "1a", "a.b.c", 'a";--', "a" * 48, "a\n"],
    ),
    *((setting, "SW042", f"{setting}=True", [None, 0, 1, "False"]) for setting in FLAGS),
    ("on_event", "SW042", "function", ["print"]),
    (
        "on_event",
        "SW042",
        "plain function",
        [Listener(), Listener().seen, functools.partial(Listener().seen)],
    ),
    ("store", "SW031", "sqlite:///sessions.db", [None, 1, Nothing(), Loads]),
    ("store", "SW031", "Engine", [OrmSession(), sessionmaker(), async_sessionmaker()]),
    ("store", "SW021", "postgresql+psycopg", ["", "sessions.db", f"mysql://u:{PASSWORD}@h:port/d"]),
    (
        "store",
        "SW021",
        "postgresql+psycopg",
        [f"{kind}://u:{PASSWORD}@h" for kind in ("x", "a+b+c")],
    ),
    ("store", "SW021", "in place of postgres://", [f"postgres://u:{PASSWORD}@h/d"]),
    ("store", "SW021", "driver", [f"oracle://u:{PASSWORD}@h/d"]),
    ("htttps_only", "SW038", "https_only", [True]),
    ("cookie", "SW038", "session_cookie", ["session"]),
    ("zzz", "SW038", "max_age", [1]),
]


@pytest.mark.parametrize(
    ("setting", "code", "fix", "value"),
    [
        # pytest's own ids fail on a number of 5,000 digits.
        pytest.param(*row, value, id=f"{row[0]}-{row[1]}-{type(value).__name__}")
        for *row, values in REFUSED
        for value in values
    ],
)
def test_a_wrong_value_is_refused_with_its_one_code_and_the_fix(
    setting: str, code: str, fix: str, value: Any
) -> None:
    (finding,) = refused(**{setting: value})
    assert (finding.code, finding.setting) == (code, setting)
    assert fix in finding.fix
    assert len(str(finding).splitlines()) == 1
    assert len(finding.message) < 160
    assert PASSWORD not in str(finding)


@pytest.mark.parametrize(
    ("keywords", "code", "setting", "words"),
    [
        (
            {"idle_timeout": 3600, "absolute_timeout": timedelta(minutes=30)},
            "SW015",
            "absolute_timeout",
            "1800 3600",
        ),
        (
            {"max_sessions_per_user": 2, "user_key": None},
            "SW042",
            "max_sessions_per_user",
            "user_key",
        ),
        ({"session_cookie": "__Host-s", "path": "/app"}, "SW009", "session_cookie", 'path="/"'),
        ({"session_cookie": "__Host-Http-s", "path": "/a"}, "SW009", "session_cookie", 'path="/"'),
        ({"session_cookie": "__Host-s", "domain": "a.com"}, "SW009", "session_cookie", "domain"),
        ({"session_cookie": "__HOST-s"}, "SW009", "session_cookie", "__Host-"),
        ({"session_cookie": "__secure-s"}, "SW009", "session_cookie", "__Secure-"),
        ({"encryption_key": SEAL, "secret_key": SEAL}, "SW034", "encryption_key", "its own"),
        (
            {"encryption_key": SEAL, "secret_key_fallbacks": [bytes.fromhex(SEAL)]},
            "SW034",
            "encryption_key",
            "its own",
        ),
        (
            {"encryption_key": SEAL, "encryption_key_fallbacks": [bytes.fromhex(SEAL)]},
            "SW034",
            "encryption_key_fallbacks",
            "once",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    keywords: dict[str, Any], code: str, setting: str, words: str
) -> None:
    (finding,) = refused(https_only=True, **keywords)
    assert (finding.code, finding.setting) == (code, setting)
    assert all(word in f"{finding.message} {finding.fix}" for word in words.split())


@pytest.mark.parametrize(
    ("setting", "value", "stored"),
    [
        ("secret_key", OTHER.encode(), OTHER.encode()),
        ("secret_key", Secret(OTHER), OTHER),
        ("secret_key", Text.KEY, KEY),
        ("session_cookie", Text.COOKIE, "sid"),
        ("path", Text.PATH, "/app"),
        ("domain", Text.DOMAIN, "localhost"),
        ("table_name", Text.TABLE, "auth.sessions"),
        ("coherence", Text.MODE, "validate"),
        ("secret_key_fallbacks", None, ()),
        ("secret_key_fallbacks", [OTHER, Secret(SEAL)], (OTHER, SEAL)),
        *(("session_cookie", name, name) for name in ("session", "__Host-s", "__Http-s", "host-a")),
        *(("max_age", value, value) for value in (None, 0, -1, 34_560_000)),
        ("max_age", 60.0, 60),
        ("max_age", timedelta(days=1), 86400),
        ("path", "/app/v1", "/app/v1"),
        *(("same_site", value, "strict") for value in ("strict", "Strict", "STRICT")),
        ("same_site", "none", "none"),
        ("domain", "localhost", "localhost"),
        ("domain", None, None),
        ("partitioned", True, True),
        ("idle_timeout", timedelta(minutes=30), 1800.0),
        ("idle_timeout", 45.5, 45.5),
        ("absolute_timeout", 86400, 86400.0),
        ("user_key", "uid", ("uid",)),
        ("user_key", ["uid", "user"], ("uid", "user")),
        ("user_key", None, ()),
        ("cache_ttl", 0, 0.0),
        ("cache_max_bytes", 0, 0),
        *(("coherence", name, name) for name in ("auto", "stamps", "validate", "notify")),
        ("coherence", CHANNEL, CHANNEL),
        ("listen_url", "postgresql://u@h/d", "postgresql://u@h/d"),
        ("listen_url", make_url("postgresql+asyncpg://h/d"), make_url("postgresql+asyncpg://h/d")),
        ("max_session_bytes", 2**24, 2**24),
        ("store_timeout", timedelta(milliseconds=250), 0.25),
        ("exclude", ["/static", "/health"], ("/static", "/health")),
        ("table_name", "auth." + "s" * 47, "auth." + "s" * 47),
        ("purge_interval", 0, None),
        ("purge_interval", None, None),
        ("purge_interval", timedelta(hours=1), 3600.0),
        ("on_event", print, print),
        ("store", "postgresql+asyncpg://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("store", make_url("mariadb+pymysql://h/d"), make_url("mariadb+pymysql://h/d")),
    ],
)
def test_a_right_value_is_stored_in_its_normal_form_without_a_warning(
    setting: str, value: Any, stored: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings = build(https_only=True, **{setting: value})
    found = getattr(settings, setting)
    assert found == stored
    assert type(found) is type(stored)
    assert warned(caplog) == []


def test_the_texts_of_a_list_are_stored_as_plain_ones() -> None:
    settings = build(user_key=[Text.USER], exclude=(Text.PATH,))
    texts = [*settings.user_key, *settings.exclude]
    assert [(text, type(text)) for text in texts] == [("uid", str), ("/app", str)]


def test_a_serializer_may_fail_at_an_empty_session() -> None:
    class Strict(Json):
        def dumps(self, value: dict[str, Any]) -> bytes:
            return super().dumps({"user": value["user"]})

    serializer = Strict()
    assert build(serializer=serializer).serializer is serializer


def test_encryption_keys_are_parsed_and_the_current_one_comes_first() -> None:
    older = b"\x01" * 32
    settings = build(encryption_key=SEAL, encryption_key_fallbacks=[older])
    assert settings.encryption_keys == (bytes.fromhex(SEAL), older)


def test_the_defaults_are_those_of_the_design_and_log_no_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert dataclasses.asdict(build()) == {
        **{name: value for name, value in config.DEFAULTS.items() if "encryption" not in name},
        "secret_key": KEY,
        "encryption_keys": (),
    }
    assert [(record.levelname, record.getMessage()[:5]) for record in caplog.records] == [
        ("INFO", "SW007"),
        ("INFO", "SW016"),
    ]


WARNED: list[tuple[str, str, dict[str, Any]]] = [
    ("SW002", "secret_key", {"secret_key": "k9-short"}),
    ("SW002", "secret_key", {"secret_key": "ab" * 40}),
    *(
        ("SW003", "secret_key", {"secret_key": text})
        for text in ("changeme", "secret", "your-secret-key", "keyboard cat", b"super_secret_key")
    ),
    ("SW003", "secret_key", {"secret_key": f"django-insecure-{KEY}"}),
    ("SW002", "secret_key_fallbacks", {"secret_key_fallbacks": ["an older short one"]}),
    ("SW006", "secret_key_fallbacks", {"secret_key_fallbacks": [f"{OTHER}{n}" for n in range(11)]}),
    ("SW034", "encryption_key", {"encryption_key": "0" * 64}),
    (
        "SW034",
        "encryption_key_fallbacks",
        {"encryption_key": bytes(range(32)), "encryption_key_fallbacks": [b"k" * 32]},
    ),
    ("SW011", "domain", {"domain": "example.com"}),
    ("SW011", "domain", {"domain": ".example.com"}),
    ("SW015", "cache_ttl", {"cache_ttl": 61, "idle_timeout": 60}),
    ("SW017", "coherence", {"coherence": "bounded"}),
    ("SW037", "serializer", {"serializer": Json()}),
    ("SW042", "session_limit_action", {"session_limit_action": "refuse"}),
    ("SW042", "exclude", {"exclude": ["/static/*"]}),
    *(
        ("SW022", "store", {"store": url})
        for url in ("sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true")
    ),
    ("SW021", "store", {"store": "mssql+tested://h/d"}),
]


@pytest.fixture
def mssql(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind of database that sessionware doesn't know, with its driver installed."""
    from sqlalchemy.dialects import registry, sqlite

    monkeypatch.setitem(registry.impls, "mssql.tested", lambda: sqlite.dialect)


@pytest.mark.usefixtures("mssql")
@pytest.mark.parametrize(("code", "setting", "keywords"), WARNED)
def test_a_risk_is_a_warning_with_its_code_and_strict_refuses_it(
    code: str, setting: str, keywords: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    build(https_only=True, **keywords)
    assert codes(warned(caplog)) == [(code, setting)]
    (finding,) = refused(https_only=True, strict=True, **keywords)
    assert str(finding) == warned(caplog)[0]


@pytest.mark.parametrize(
    "quiet",
    [
        {"cache_ttl": 60, "idle_timeout": 60},
        {"idle_timeout": 34_560_000, "absolute_timeout": 34_560_000},
        {"session_limit_action": "refuse", "max_sessions_per_user": 1},
        {"idle_timeout": 0.001, "cache_ttl": 0.001, "store_timeout": 0.001},
        {"coherence": "bounded", "cache_ttl": 0},
        {"coherence": "bounded", "cache_max_bytes": 0},
        {"secret_key_fallbacks": [f"{OTHER}{n}" for n in range(10)]},
    ],
)
def test_just_short_of_a_risk_nothing_is_warned_of(
    quiet: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    build(https_only=True, **quiet)
    assert warned(caplog) == []


def test_strict_refuses_plain_http_but_not_a_missing_absolute_timeout() -> None:
    (finding,) = refused(strict=True)
    assert (finding.code, finding.setting) == ("SW007", "https_only")
    assert build(strict=True, https_only=True).absolute_timeout is None


@pytest.mark.parametrize("value", [0, None])
def test_expired_rows_that_nobody_of_ours_deletes_are_mentioned(
    value: object, caplog: pytest.LogCaptureFixture
) -> None:
    build(strict=True, https_only=True, purge_interval=value)
    assert "SW041 purge_interval" in caplog.text


def test_a_cookies_name_and_path_may_be_as_long_as_browsers_allow() -> None:
    settings = build(session_cookie="s" * 4009, path="/" + "a" * 1023)
    pair = CookieWriter(settings.session_cookie).set("t" * 87, None).split(";")[0]
    assert len(pair.replace("=", "")) == 4096


def test_a_warning_is_logged_once_in_a_process(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        build(secret_key="changeme", domain="example.com")
    lines = [record.getMessage() for record in caplog.records]
    assert sorted(codes(lines)) == [
        ("SW003", "secret_key"),
        ("SW007", "https_only"),
        ("SW011", "domain"),
        ("SW016", "absolute_timeout"),
    ]


def test_refused_settings_log_nothing_and_leave_their_warnings_for_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refused(secret_key="changeme", path="")
    assert caplog.records == []
    build(secret_key="changeme")
    assert codes(warned(caplog)) == [("SW003", "secret_key")]


def test_all_findings_come_at_once_each_with_its_own_line() -> None:
    wrong = {"secret_key": "", "path": "x", "max_age": True, "store": None, "https_onyl": True}
    with pytest.raises(ConfigurationError) as caught:
        build_settings(**wrong)
    assert sorted(codes(str(caught.value).splitlines())) == [
        ("SW001", "secret_key"),
        ("SW010", "path"),
        ("SW015", "max_age"),
        ("SW031", "store"),
        ("SW038", "https_onyl"),
    ]


def test_a_refused_https_only_does_not_add_findings_about_what_needs_it() -> None:
    findings = refused(https_only="yes", same_site="none", partitioned=True)
    assert [finding.setting for finding in findings] == ["https_only"]


def test_without_any_keyword_the_secret_is_asked_for() -> None:
    with pytest.raises(ConfigurationError, match="SW001 secret_key"):
        build_settings()


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("postgresql+psycopg://h/d", "psycopg", "postgres"),
        ("mysql+pymysql://h/d", "pymysql", "mysql"),
        ("mariadb+asyncmy://h/d", "asyncmy", "mysql"),
        ("sqlite+aiosqlite:///a.db", "aiosqlite", "aiosqlite"),
        ("sqlite+aiosqlite:///a.db", "greenlet", "aiosqlite"),
        ("postgresql+asyncpg://h/d", "greenlet", "postgres"),
    ],
)
def test_a_missing_driver_is_refused_with_the_extra_to_install(
    url: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (finding,) = refused(store=url)
    assert (finding.code, finding.setting) == ("SW021", "store")
    assert f'pip install "sessionware[{extra}]"' in finding.fix


def test_encryption_without_cryptography_is_refused_with_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    (finding,) = refused(encryption_key=SEAL)
    assert (finding.code, finding.fix) == ("SW034", 'pip install "sessionware[encryption]"')


def _own(engine: Engine) -> Engine:
    return engine


def _echoing(engine: Engine) -> Engine:
    engine.echo = True
    return engine


def _showing(engine: Engine) -> Engine:
    engine.hide_parameters = False
    return engine


@pytest.mark.parametrize("wrap", [_own, AsyncEngine], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("change", "expected"),
    [(_own, []), (_echoing, [("SW030", "store")]), (_showing, [("SW030", "store")])],
)
def test_an_engine_is_accepted_with_a_warning_if_it_logs_session_data(
    change: Callable[[Engine], Engine],
    expected: list[tuple[str, str]],
    wrap: Callable[[Engine], Any],
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # An AsyncEngine refuses a sync dialect; only the attribute that it checks is changed here.
    if wrap is AsyncEngine:
        engine.dialect.is_async = True
    store = wrap(change(engine))
    assert build(store=store).store is store
    assert codes(warned(caplog)) == expected


def test_an_engine_in_memory_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    build(store=create_engine("sqlite://", hide_parameters=True))
    assert codes(warned(caplog)) == [("SW022", "store")]


def test_a_connection_of_the_application_is_refused(engine: Engine) -> None:
    with engine.connect() as connection:
        (finding,) = refused(store=connection)
    assert (finding.code, finding.setting) == ("SW031", "store")


@pytest.mark.parametrize("method", ["load", "aload"])
def test_any_object_that_loads_is_a_store(method: str) -> None:
    store = SimpleNamespace(**{method: lambda: None})
    assert build(store=store).store is store


def test_repr_shows_no_secret_no_key_and_no_url() -> None:
    settings = build(
        secret_key_fallbacks=[OTHER],
        encryption_key=SEAL,
        store=f"postgresql+psycopg://u:{PASSWORD}@h/d",
        listen_url=f"postgresql+psycopg://u:{PASSWORD}@direct/d",
    )
    text = repr(settings)
    assert "session_cookie='session'" in text
    hidden = (KEY, OTHER, SEAL, repr(bytes.fromhex(SEAL)), PASSWORD, "psycopg")
    assert [each for each in hidden if each in text] == []


@pytest.mark.parametrize("setting", [name for name in config.DEFAULTS if name != "table_name"])
def test_no_message_echoes_a_secret_that_stands_in_the_wrong_place(
    setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    for misplaced in (
        f"{PASSWORD} {KEY}",
        f"x://{PASSWORD}",
        f"u:{PASSWORD}@h",
        [f"{PASSWORD} {KEY}"],
    ):
        found = outcome(**{setting: misplaced})
        assert PASSWORD not in str(found) or isinstance(found, Settings)
    assert PASSWORD not in caplog.text


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        build().path = "/x"  # type: ignore[misc]


def test_every_setting_has_a_default_a_field_and_a_type_for_the_adapters() -> None:
    starlette = {"secret_key", "session_cookie", "max_age", "path", "same_site"}
    starlette |= {"https_only", "domain", "partitioned"}
    fields = {each.name for each in dataclasses.fields(Settings)}
    hints = get_type_hints(Options, localns={"Channel": Channel, "URL": URL})
    assert set(hints) == set(config.DEFAULTS) - starlette
    assert fields - {"encryption_keys"} == {n for n in config.DEFAULTS if "encryption" not in n}


def test_settings_are_built_in_a_running_loop_without_blocking_or_warnings_warn() -> None:
    async def construct() -> None:
        build(domain="example.com", encryption_key=SEAL)
        refused(store="nosuch://h/d")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(construct())
    assert caught == []


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.decimals()
    | st.timedeltas()
    | st.sampled_from([10**4000, -(10**4000), float("nan"), Nothing(), Nothing, json, pickle, len])
    | st.builds(Hostile)
    | st.builds(HostileSecret)
    | st.from_regex(r"[a-z+]{0,12}://[a-z@:/?=\[\]0-9]{0,12}", fullmatch=True)
    | st.sampled_from(["sqlite+__doc__://", "mysql+types://", "x://h:" + "9" * 5000, "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)


@given(st.sampled_from([*config.DEFAULTS, "nonsense", "a\nb", "ß" * 999]), JUNK)
def test_junk_in_any_setting_gives_settings_or_a_configuration_error(name: str, junk: Any) -> None:
    found = outcome(**{name: junk})
    if isinstance(found, ConfigurationError):
        assert len(str(found).splitlines()) == len(found.findings) > 0
    else:
        assert name in config.DEFAULTS


@pytest.mark.parametrize("name", config.DEFAULTS)
def test_an_object_that_fails_at_whatever_one_does_with_it_is_refused(name: str) -> None:
    assert isinstance(outcome(**{name: Hostile()}), ConfigurationError)
