"""Codecs: data comes back equal and of the same type, or is refused with the path to it."""

from __future__ import annotations

import pickle
import sys
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import TZPATH, ZoneInfo

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markupsafe import Markup

from sessionware.codecs import CustomCodec, JSONCodec
from sessionware.errors import CorruptRecord, SerializationError
from sessionware.tags import BY_KIND, TAGS

Point = namedtuple("Point", "x y")
Level = IntEnum("Level", "LOW HIGH")
Colour = StrEnum("Colour", "RED GREEN")
OwnZone = type("OwnZone", (tzinfo,), {"utcoffset": lambda self, moment: timedelta(0)})
SECRET = "hunter2-hunter2"

BERLIN = ZoneInfo("Europe/Berlin")
CODEC = JSONCodec()

ZONES = (
    st.none()
    | st.sampled_from([UTC, BERLIN, ZoneInfo("America/New_York"), timezone(timedelta(0), "Zulu")])
    | st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**63 - 2, 2**64 + 2)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.binary(max_size=8)
    | st.datetimes(timezones=ZONES, allow_imaginary=True)
    | st.dates()
    | st.times(timezones=ZONES)
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
HASHABLE = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
KEYS = TEXT | st.sampled_from([tag.name for tag in TAGS]) | HASHABLE
VALUES = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(TEXT, inner, max_size=4)
        | st.sets(HASHABLE, max_size=4)
    ),
    max_leaves=12,
)
DATA = st.dictionaries(TEXT, VALUES, max_size=4) | st.dictionaries(KEYS, VALUES, max_size=4)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT | st.just("~tuple"), inner),
    max_leaves=10,
)
HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
    | st.sampled_from(["NaN", "Europe/Berlin", "../etc", "2024-01-01", "AA==", "a" * 300]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from([tag.name for tag in TAGS]), inner, max_size=1)
    | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same type at every depth, with all that ``==`` overlooks."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, set | frozenset):
        found = {member: member for member in right}
        return left == right and all(same(member, found[member]) for member in left)
    if isinstance(left, datetime | time):
        return (
            left == right
            and left.fold == right.fold
            and same(left.tzinfo, right.tzinfo)
            and left.tzname() == right.tzname()
        )
    if isinstance(left, float | Decimal):
        return repr(left) == repr(right)
    return bool(left == right)


def round_trip(data: dict[Any, Any], codec: JSONCodec = CODEC) -> dict[Any, Any]:
    return codec.decode(*codec.encode(data))


def follow(data: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        data = data[key]
    return data


def nested(depth: int, wrap: Callable[[Any], Any] = lambda inner: [inner]) -> dict[str, Any]:
    """A session with ``depth`` containers in each other, itself counted."""
    value: Any = "leaf"
    for _ in range(depth - 1):
        value = wrap(value)
    return {"deep": value}


@given(DATA)
def test_what_goes_in_comes_back_equal_and_of_the_same_type_at_every_depth(
    data: dict[Any, Any],
) -> None:
    assert same(round_trip(data), data)


@given(DATA)
def test_encoding_what_was_decoded_gives_the_same_bytes(data: dict[Any, Any]) -> None:
    assert CODEC.encode(round_trip(data)) == CODEC.encode(data)


@given(st.dictionaries(TEXT | st.just("~tuple"), PLAIN))
def test_plain_data_is_stored_exactly_as_msgspec_writes_it(data: dict[str, Any]) -> None:
    assert CODEC.encode(data) == (msgspec.json.encode(data), False)
    assert same(round_trip(data), data)


MOMENT = datetime(2024, 10, 27, 2, 30, 0, 5)


STORED = [
    ((1, [2]), '{"~tuple":[1,[2]]}'),
    ({2, 1, 3}, '{"~set":[1,2,3]}'),
    (frozenset({"b", "a"}), '{"~frozenset":["a","b"]}'),
    ({1: "a", "b": 2}, '{"~dict":[[1,"a"],["b",2]]}'),
    ({None: (), "x": 0}, '{"~dict":[[null,{"~tuple":[]}],["x",0]]}'),
    (2**64, '{"~int":"0x10000000000000000"}'),
    (b"\x00\xff", '{"~bytes":"AP8="}'),
    (MOMENT, '{"~datetime":"2024-10-27T02:30:00.000005"}'),
    (MOMENT.replace(fold=1), '{"~datetime":["2024-10-27T02:30:00.000005",1]}'),
    (MOMENT.replace(tzinfo=UTC), '{"~datetime":"2024-10-27T02:30:00.000005+00:00"}'),
    (
        MOMENT.replace(tzinfo=BERLIN, fold=1),
        '{"~datetime":["2024-10-27T02:30:00.000005",1,"Europe/Berlin"]}',
    ),
    (
        MOMENT.replace(tzinfo=timezone(timedelta(hours=1), "CET")),
        '{"~datetime":["2024-10-27T02:30:00.000005",0,3600000000,"CET"]}',
    ),
    (
        MOMENT.replace(tzinfo=timezone(timedelta(microseconds=1))),
        '{"~datetime":["2024-10-27T02:30:00.000005",0,1,"UTC+00:00:00.000001"]}',
    ),
    (date(2024, 2, 29), '{"~date":"2024-02-29"}'),
    (time(1, 2, 3, tzinfo=BERLIN), '{"~time":["01:02:03",0,"Europe/Berlin"]}'),
    (timedelta(-1, 2, 3), '{"~timedelta":[-1,2,3]}'),
    (Decimal("-0.00"), '{"~decimal":"-0.00"}'),
    (UUID(int=1), '{"~uuid":"00000000-0000-0000-0000-000000000001"}'),
    (Markup("<b>"), '{"~markup":"<b>"}'),
    (Markup("<b>"), '{"~markup":"<b>"}'),
]


@pytest.mark.parametrize(("value", "stored"), STORED)
def test_the_stored_form_of_a_type_stays_what_it_is(value: Any, stored: str) -> None:
    payload, rich = CODEC.encode({"v": value})
    assert (payload.decode(), rich) == (f'{{"v":{stored}}}', True)
    assert same(CODEC.decode(payload, rich), {"v": value})


def test_every_tag_has_a_case_above() -> None:
    assert {type(value) for value, _ in STORED} == {tag.kind for tag in TAGS}


@pytest.mark.parametrize("tag", [*(tag.name for tag in TAGS), "~", "~unknown"])
@pytest.mark.parametrize("beside", [0, (1,)], ids=["plain", "rich"])
def test_a_dict_that_looks_like_a_tag_comes_back_as_it_is(tag: str, beside: Any) -> None:
    data = {"v": {tag: [1]}, "w": beside}
    assert same(round_trip(data), data)
    assert same(round_trip({tag: [beside]}), {tag: [beside]})


def test_a_session_may_be_a_dict_subclass_and_is_not_set_off_by_being_saved() -> None:
    class Loud(dict[Any, Any]):
        def _loud(self, *args: Any) -> Any:
            raise AssertionError("the session was read through its own methods")

        __iter__ = __getitem__ = __len__ = items = keys = values = copy = _loud

    assert CODEC.encode(Loud(a=1)) == (b'{"a":1}', False)
    assert CODEC.encode(Loud(a={1}))[1] is True


def test_a_session_may_be_any_mapping() -> None:
    assert CODEC.encode(UserDict(a=1)) == (b'{"a":1}', False)


def test_sets_are_stored_in_one_order_whatever_their_own() -> None:
    orders = [CODEC.encode({"v": set(order)})[0] for order in ([0, 8, 16], [16, 8, 0], [8, 0, 16])]
    assert len({tuple({*o}) for o in ([0, 8, 16], [16, 8, 0])}) == 2, "the sets iterate alike"
    assert len(set(orders)) == 1


def test_a_shared_value_without_a_cycle_is_stored() -> None:
    shared = [(1,)]
    assert round_trip({"a": shared, "b": [shared, shared]}) == {"a": shared, "b": [shared, shared]}


REFUSED: dict[str, tuple[Any, str]] = {
    "object": (object(), "object cannot be stored"),
    "complex": (1j, "complex cannot be stored"),
    "bytearray": (bytearray(b"x"), "bytes(...)"),
    "ordered dict": (OrderedDict(a=1), "would come back as a plain dict"),
    "named tuple": (Point(1, 2), "would come back as a plain tuple"),
    "int enum": (Level.LOW, "store its .value"),
    "str enum": (Colour.RED, "store its .value"),
    "str subclass": (type("Name", (str,), {})("x"), "would come back as a plain str"),
    "datetime subclass": (type("Stamp", (datetime,), {})(2024, 1, 1), "plain datetime.datetime"),
    "nan": (float("nan"), "NaN and infinity"),
    "inf": (float("inf"), "NaN and infinity"),
    "-inf": (float("-inf"), "NaN and infinity"),
    "decimal nan": (Decimal("NaN"), "NaN is not equal"),
    "decimal snan": (Decimal("sNaN"), "NaN is not equal"),
    "surrogate": ("a\ud800", "lone surrogate"),
    "huge int": (10**4300, "4300 digits"),
    "huge negative int": (-(10**4300), "4300 digits"),
    "own zone": (datetime(2024, 1, 1, tzinfo=OwnZone()), "OwnZone"),
    "surrogate zone": (datetime(2024, 1, 1, tzinfo=timezone(timedelta(1) / 2, "\ud800")), "lone"),
}
UNHASHABLE = {"bytearray", "ordered dict", "decimal snan"}
WRAPPERS: list[tuple[Callable[[Any], Any], Any]] = [
    (lambda bad: [0, bad], 1),
    (lambda bad: (bad, "x"), 0),
    (lambda bad: {"a": 0, "k": bad}, "k"),
    (lambda bad: {1: bad}, 1),
    (lambda bad: {"~tuple": bad}, "~tuple"),
]


@given(st.sampled_from(sorted(REFUSED)), st.lists(st.sampled_from(WRAPPERS), max_size=6))
def test_a_refusal_names_the_path_to_the_value_and_why(name: str, wrappers: list[Any]) -> None:
    bad, reason = REFUSED[name]
    data, path = {"top": bad}, tuple[Any, ...](["top"])
    for wrap, key in wrappers:
        data, path = {"top": wrap(data["top"])}, ("top", key, *path[1:])
    with pytest.raises(SerializationError) as caught:
        CODEC.encode(data)
    assert follow(data, caught.value.path) is bad
    assert caught.value.path == path
    assert reason in caught.value.reason
    with pytest.raises(SerializationError) as caught:
        CODEC.fingerprint(data["top"])
    assert caught.value.path == path[1:]


@pytest.mark.parametrize("name", sorted(REFUSED.keys() - UNHASHABLE))
def test_a_bad_key_or_member_names_the_dict_or_set_that_holds_it(name: str) -> None:
    bad, reason = REFUSED[name]
    expected = ("v", 0, bad) if name == "surrogate" else ("v", 0)
    for holder, path in [({bad: 1}, expected), ({bad}, ("v", 0)), ({(bad,): 1}, ("v", 0))]:
        with pytest.raises(SerializationError) as caught:
            CODEC.encode({"v": [holder]})
        assert caught.value.path == path
        assert reason in caught.value.reason


def test_the_largest_ints_that_are_kept_have_4300_digits() -> None:
    data = {"v": [10**4300 - 1, 1 - 10**4300]}
    assert same(round_trip(data), data)


def test_ints_are_kept_under_the_strictest_digit_limit_of_the_interpreter() -> None:
    data = {"v": [10**3000, 2**64 - 1, -(2**63)]}
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        assert same(round_trip(data), data)
    finally:
        sys.set_int_max_str_digits(limit)


def _cycles() -> list[Any]:
    listed: list[Any] = []
    listed.append(listed)
    mapped: dict[Any, Any] = {}
    mapped["k"] = [mapped]
    tupled: tuple[Any, ...] = ([],)
    tupled[0].extend([1, tupled])
    return [(listed, (0,)), (mapped, ("k", 0)), (tupled, (0, 1))]


@pytest.mark.parametrize(("value", "path"), _cycles(), ids=["list", "dict", "tuple"])
def test_a_cycle_is_refused_as_a_cycle_where_it_closes(value: Any, path: tuple[Any, ...]) -> None:
    with pytest.raises(SerializationError, match="cycle") as caught:
        CODEC.encode({"v": value})
    assert caught.value.path == ("v", *path)


DEEP = {
    "list": lambda inner: [inner],
    "dict": lambda inner: {"k": inner},
    "odd dict": lambda inner: {1: inner},
    "tuple": lambda inner: (inner,),
    "frozenset": lambda inner: frozenset({inner}),
}


@pytest.mark.parametrize("wrap", DEEP.values(), ids=DEEP)
@pytest.mark.parametrize("limit", [1, 2, 32, 64])
def test_nesting_is_kept_up_to_max_depth_and_refused_beyond(
    wrap: Callable[[Any], Any], limit: int
) -> None:
    codec = JSONCodec(max_depth=limit)

    def beneath(frames: int) -> dict[str, Any]:
        return beneath(frames - 1) if frames else round_trip(nested(limit, wrap), codec)

    assert same(beneath(300), nested(limit, wrap))
    too_deep = nested(limit + 1, wrap)
    with pytest.raises(SerializationError, match="too deeply"):
        codec.encode(too_deep)
    with pytest.raises(SerializationError, match="too deeply"):
        codec.fingerprint(too_deep["deep"])


@pytest.mark.parametrize("limit", [0, 65])
def test_a_max_depth_that_the_stack_cannot_promise_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 64"):
        JSONCodec(max_depth=limit)


def test_a_stack_that_is_all_but_used_up_is_a_refusal_and_not_a_recursion_error() -> None:
    def beneath() -> Any:
        try:
            return beneath()
        except RecursionError:
            return CODEC.encode(nested(32, DEEP["tuple"]))

    with pytest.raises(SerializationError, match="no stack"):
        beneath()


def test_a_zone_that_its_key_does_not_lead_back_to_is_refused() -> None:
    source = next(file for path in TZPATH if (file := Path(path, "Asia/Tokyo")).exists())
    for key in (None, "Europe/Berlin", "No/Such", "../x"):
        with source.open("rb") as opened:
            zone = ZoneInfo.from_file(opened, key)
        with pytest.raises(SerializationError, match="time zone") as caught:
            CODEC.encode({"at": datetime(2024, 1, 1, tzinfo=zone)})
        assert caught.value.path == ("at",)


def test_a_refusal_never_quotes_a_value() -> None:
    class Quoting:
        def __repr__(self) -> str:
            return SECRET

    for value in (Quoting(), {Quoting()}, {Quoting(): 1}, f"{SECRET}\ud800", [{f"{SECRET}": 1j}]):
        with pytest.raises(SerializationError) as caught:
            CODEC.encode({"v": value})
        if not isinstance(value, list):
            assert SECRET not in str(caught.value)
        assert caught.value.__context__ is None


def test_data_that_changes_while_it_is_saved_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    grown: dict[Any, Any] = {"k": (1,)}
    tag = next(tag for tag in TAGS if tag.kind is UUID)
    racing = tag._replace(pack=lambda value: grown.update({len(grown): 1}) or str(value))
    monkeypatch.setitem(BY_KIND, UUID, racing)
    grown["u"] = UUID(int=1)
    grown["z"] = 1
    with pytest.raises(SerializationError, match="another thread"):
        CODEC.encode({"v": grown})


# Decoding


def outcome(payload: bytes, rich: bool, codec: Any = CODEC) -> type:
    try:
        return type(codec.decode(payload, rich))
    except CorruptRecord as error:
        # A cause may quote the data.
        return CorruptRecord if error.__context__ is None else type(error.__context__)


@given(st.binary() | HOSTILE.map(msgspec.json.encode), st.booleans())
@example(b"", False)
@example(b"[" * 100_000, False)
@example(b'{"a":' * 100_000, True)
@example(b'{"~tuple":[' * 900 + b"]}" * 900, True)
def test_hostile_bytes_give_a_dict_or_a_corrupt_record(payload: bytes, rich: bool) -> None:
    assert outcome(payload, rich) in (dict, CorruptRecord)


@given(DATA, st.data())
def test_damaged_records_give_a_dict_or_a_corrupt_record(
    data: dict[Any, Any], draw: st.DataObject
) -> None:
    payload, rich = CODEC.encode(data)
    at = draw.draw(st.integers(0, len(payload) - 1))
    damaged = payload[:at] + draw.draw(st.binary(max_size=3)) + payload[at + 1 :]
    assert outcome(damaged, rich) in (dict, CorruptRecord)


@pytest.mark.parametrize(
    "payload",
    [
        "[1]", "null", '"a"', "", "{", '{"a":1}x', '{"a":1}{"a":1}', '{"a":NaN}', '{"a":1e400}',
        '{"a":"\\ud800"}', '{"~tuple":[1]}', '{"a":{"~unknown":1}}', '{"a":{"~":1}}',
        '{"a":{"~tuple":1}}', '{"a":{"~tuple":{"b":1}}}', '{"a":{"~tuple":"ab"}}',
        '{"a":{"~set":[[1]]}}', '{"a":{"~set":[1,1]}}', '{"a":{"~set":[{"b":1}]}}',
        '{"a":{"~dict":[[1]]}}', '{"a":{"~dict":[[[],1]]}}', '{"a":{"~dict":[[1,2],[1,3]]}}',
        '{"a":{"~dict":{"a":1}}}', '{"a":{"~int":5}}', '{"a":{"~int":"x"}}',
        '{"a":{"~bytes":"*"}}', '{"a":{"~bytes":1}}', '{"a":{"~decimal":"NaN"}}',
        '{"a":{"~decimal":"sNaN"}}', '{"a":{"~decimal":[0,[1],2]}}', '{"a":{"~uuid":"1"}}',
        '{"a":{"~uuid":1}}', '{"a":{"~date":"2024-02-30"}}', '{"a":{"~datetime":[]}}',
        '{"a":{"~datetime":["2024-01-01",0,"No/Such"]}}',
        '{"a":{"~datetime":["2024-01-01",0,"../../etc/passwd"]}}',
        '{"a":{"~datetime":["2024-01-01",0,"Europe"]}}', '{"a":{"~datetime":["2024-01-01",2]}}',
        '{"a":{"~datetime":["2024-01-01",0,86400000000,"x"]}}', '{"a":{"~timedelta":[1]}}',
        '{"a":{"~timedelta":[1e300,0,0]}}',
    ],
)  # fmt: skip
def test_what_encode_never_writes_is_a_corrupt_record(payload: str) -> None:
    assert outcome(payload.encode(), True) is CorruptRecord


def test_bytes_that_are_not_utf8_are_a_corrupt_record() -> None:
    assert outcome(b'{"a":"\xff"}', False) is CorruptRecord


@pytest.mark.parametrize("sign", ["", "-"])
def test_a_stored_int_that_python_would_not_write_out_is_corrupt(sign: str) -> None:
    assert outcome(f'{{"a":{{"~int":"{sign}0x{"f" * 4000}"}}}}'.encode(), True) is CorruptRecord


def test_a_stored_pickle_is_not_run() -> None:
    assert outcome(pickle.dumps({"a": 1}), False) is CorruptRecord


# Fingerprints

ALIKE = [1, True, 1.0, "1", b"1", Decimal(1), Decimal("1.0"), [1], (1,), {1}, frozenset({1}),
         {"~tuple": [1]}, {"~int": "0x1"}, {1: 1}, {True: 1}, {"1": 1}, 0.0, -0.0, None, False, "",
         MOMENT, MOMENT.replace(fold=1), MOMENT.replace(tzinfo=UTC),
         MOMENT.replace(tzinfo=BERLIN)]  # fmt: skip


@pytest.mark.parametrize("index", range(len(ALIKE)))
def test_values_that_differ_in_type_only_have_different_fingerprints(index: int) -> None:
    prints = [CODEC.fingerprint(value) for value in ALIKE]
    assert prints.count(prints[index]) == 1


@given(st.tuples(VALUES, VALUES) | st.tuples(*[st.sampled_from(ALIKE)] * 2))
def test_fingerprints_are_equal_exactly_if_the_values_are_stored_alike(pair: Any) -> None:
    first, second = pair
    stored_alike = CODEC.encode({"v": first}) == CODEC.encode({"v": second})
    assert (CODEC.fingerprint(first) == CODEC.fingerprint(second)) is stored_alike


@given(VALUES)
def test_a_value_that_was_stored_and_read_keeps_its_fingerprint(value: Any) -> None:
    assert CODEC.fingerprint(round_trip({"v": value})["v"]) == CODEC.fingerprint(value)


# An application's own serializer


class Own:
    """A serializer whose results the test chooses; an exception is raised."""

    def __init__(self, dumped: Any = b"{}", loaded: Any = None) -> None:
        self.dumped, self.loaded = dumped, loaded
        self.seen: list[Any] = []

    def dumps(self, data: dict[Any, Any], /) -> Any:
        return self._give(data, self.dumped)

    def loads(self, payload: bytes, /) -> Any:
        return self._give(payload, self.loaded)

    def _give(self, given: Any, result: Any) -> Any:
        self.seen.append(given)
        if isinstance(result, Exception):
            raise result
        return result


def test_a_serializer_gets_an_exact_dict_and_its_bytes_are_stored_as_they_are() -> None:
    own = Own(b"\x00bytes", {"b": 2})
    codec = CustomCodec(own)
    assert codec.encode(type("Session", (dict,), {})(a=1)) == (b"\x00bytes", False)
    assert codec.decode(b"\x00bytes", False) == {"b": 2}
    assert codec.fingerprint(7) == b"\x00bytes"
    assert own.seen == [{"a": 1}, b"\x00bytes", {"": 7}]
    assert type(own.seen[0]) is dict


@pytest.mark.parametrize(
    ("dumped", "named"),
    [(KeyError(SECRET), "KeyError"), (SECRET, "str"), (bytearray(b"x"), "bytearray"), (None, "N")],
)
def test_what_a_serializer_cannot_dump_is_refused_without_quoting_it(
    dumped: Any, named: str
) -> None:
    codec = CustomCodec(Own(dumped))
    for attempt in (codec.encode, codec.fingerprint):
        with pytest.raises(SerializationError, match=named) as caught:
            attempt({"a": SECRET})
        assert (caught.value.path, caught.value.__context__) == ((), None)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("loaded", [ValueError(SECRET), [1], None, SECRET])
def test_what_a_serializer_cannot_load_is_a_corrupt_record(loaded: Any) -> None:
    assert outcome(b"x", False, CustomCodec(Own(loaded=loaded))) is CorruptRecord


def test_rich_json_is_never_given_to_a_serializer() -> None:
    own = Own(loaded={})
    assert outcome(b"{}", True, CustomCodec(own)) is CorruptRecord
    assert own.seen == []
