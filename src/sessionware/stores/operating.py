"""Carrying out operations with an executor: one by itself, or many in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from ..errors import DuplicateKey
from ..flows import Call
from .executing import Executor, run_script
from .faults import is_locked
from .statements import Text
from .steps import Steps

# None of them waits for other writers.
READS: Final = frozenset(
    {"load", "reload", "stamp", "user_rows", "count", "is_empty", "spent", "checkpoint"}
    | {"last_id", "next_id"}
)
STEPS: Final = frozenset(
    {"load", "reload", "stamp", "insert", "replace", "rotate", "alter", "touch", "remove"}
    | {"purge", "purge_retired", "checkpoint", "last_id", "next_id", "remove_range"}
)
IN_TRANSACTION: Final = frozenset({"rotate", "alter"})
# Done as a whole or not at all. Of a purge's two statements the first one stands.
WHOLE: Final = STEPS - {"purge"}


def run_method(
    steps: Steps,
    method: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    executor: Executor,
    isolated: bool = False,
) -> Any:
    """Run one of the ``Steps``, in a transaction if it needs one or is to have one."""
    script = getattr(steps, method)(*args, **kwargs)
    if not isolated and method not in IN_TRANSACTION:
        return run_script(script, executor)
    with executor.transaction():
        return run_script(script, executor)


def run_together(
    steps: Steps, calls: Sequence[Call], executor: Executor, begun: Callable[[], None]
) -> list[Any]:
    """Run several in one transaction; an answer may be an exception. ``begun`` is called when the
    database is ours.
    """
    many = steps.in_one_statement(calls) if executor.dialect.name == "sqlite" else []
    if len(many) == 1 and len(many[0]) == len(calls):
        # One statement is a transaction by itself.
        try:
            return _replaced(steps, calls, many[0], executor)
        except Exception as error:
            if not is_locked(error):
                begun()
            raise
    with executor.transaction():
        begun()
        answers: dict[int, Any] = {}
        for places in many:
            answers.update(zip(places, _replaced(steps, calls, places, executor), strict=True))
        return [
            answers[place] if place in answers else _answer(steps, call, executor)
            for place, call in enumerate(calls)
        ]


def _replaced(
    steps: Steps, calls: Sequence[Call], places: list[int], executor: Executor
) -> list[Any]:
    return run_script(steps.replace_many([calls[place].args for place in places]), executor)


def _answer(steps: Steps, call: Call, executor: Executor) -> Any:
    """A key that is taken undoes only the statement that found it so, and here what came before."""
    script = getattr(steps, call.method)(*call.args)
    several = call.method in IN_TRANSACTION
    if several:
        executor.perform(Text("SAVEPOINT several"))
    answer: Any
    try:
        answer = run_script(script, executor)
    except DuplicateKey as error:
        answer = error
        if several:
            executor.perform(Text("ROLLBACK TO several"))
    if several:
        executor.perform(Text("RELEASE several"))
    return answer


def hashes_before(method: str, args: tuple[Any, ...]) -> tuple[bytes, ...] | None:
    """The hashes of what a method is about to change; None: of any row."""
    match method:
        case "remove_all" | "remove_range" | "remove_user":
            return None
        case _:
            return (args[0].sid_hash,)


def hashes_after(method: str, args: tuple[Any, ...], answer: Any) -> tuple[bytes, ...] | None:
    """The hashes of what a method has changed; without an answer of what it may have changed."""
    if method == "remove_user":
        return None if answer is None else tuple(answer)
    return hashes_before(method, args)
