"""Requests in every order that hypothesis can think of, held against the rules of the house."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessionware import clock
from tests.byhand import Clock
from tests.concurrency.world import Op, Visit, World

KEYS = st.sampled_from(["a", "b", "otp"])
WRITE = st.tuples(st.sampled_from(["set", "set", "del"]), KEYS)
LOGIN = st.tuples(st.just("login"), st.sampled_from(["alice", "bob"]))
BARRIER = st.tuples(st.sampled_from(["clear", "rotate", "invalidate", "logout"]), st.just(""))
OTHER = st.tuples(st.sampled_from(["take", "save", "fail"]), st.just(""))
SCRIPTS = st.lists(st.one_of(WRITE, LOGIN, BARRIER, OTHER), max_size=4)
SET: Op = ("set", "a")
STARTS: list[list[Op]] = [[], [SET, ("set", "otp")], [SET, ("login", "alice")]]
LIFETIMES: list[dict[str, Any]] = [{}, {"rolling": True}, {"idle_timeout": 1800}]
CRASH, TICK = "crash", "tick"


def play(data: st.DataObject) -> None:
    """One browser, a few requests at the same time, workers that crash, and time that passes."""
    settings = data.draw(st.sampled_from(LIFETIMES), label="lifetimes")
    coherence = data.draw(st.sampled_from(["validate", "bounded"]), label="coherence")
    began = time.now
    world = World(coherence=coherence, max_age=3600, **settings)
    visits = [Visit(0, 0, data.draw(st.sampled_from(STARTS), label="before"))]
    while not visits[0].done:
        world.step(visits[0])
    for number, ops in enumerate(data.draw(st.lists(SCRIPTS, min_size=2, max_size=4)), start=1):
        visits.append(Visit(number, number % 2, ops))
    accidents = [CRASH, TICK] if data.draw(st.booleans(), label="accidents") else []
    while pending := [visit for visit in visits if not visit.done]:
        chosen = data.draw(st.sampled_from([*pending, *accidents]))
        if isinstance(chosen, Visit):
            world.step(chosen)
        elif chosen == CRASH:
            accidents.remove(CRASH)
            world.crash(data.draw(st.integers(0, 1)), visits)
        else:
            time.tick(1000)
            accidents.remove(TICK)
    # A response that renews the cookie can be overtaken on its way by one that changes the ID.
    world.check_end(visits, overtaken=time.now != began)


time = Clock()


@given(st.data())
@settings(max_examples=500, deadline=None, derandomize=True)
def test_whatever_the_order_no_rule_is_broken(data: st.DataObject) -> None:
    with patch.object(clock, "now", time):
        play(data)


@pytest.mark.soak
@given(st.data())
@settings(max_examples=50_000, deadline=None)
def test_whatever_the_order_no_rule_is_broken_in_a_long_search(data: st.DataObject) -> None:
    with patch.object(clock, "now", time):
        play(data)
