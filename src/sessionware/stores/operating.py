"""Carrying out operations with an executor: one by itself, or many in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from ..errors import DuplicateKey
from .executing import Executor, run_script
from .grouping import Operation
from .protocol import Row
from .statements import Statement, Text
from .steps import Steps

# None of them waits for other writers.
READS: Final = frozenset(
    {"load", "reload", "stamp", "user_rows", "count", "is_empty", "spent", "checkpoint"}
)
STEPS: Final = frozenset(
    {"load", "reload", "stamp", "insert", "replace", "rotate", "alter", "touch", "remove"}
    | {"purge", "checkpoint"}
)
IN_TRANSACTION: Final = frozenset({"rotate", "alter"})


def run_method(
    steps: Steps, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], executor: Executor
) -> Any:
    """Run one of the ``Steps``, in a transaction if it needs one."""
    script = getattr(steps, method)(*args, **kwargs)
    if method not in IN_TRANSACTION:
        return run_script(script, executor)
    with executor.transaction():
        return run_script(script, executor)


def run_together(
    steps: Steps, operations: Sequence[Operation], executor: Executor, begun: Callable[[], None]
) -> list[Any]:
    """Run several in one transaction; an answer may be an exception. ``begun`` is called when the
    database is ours.
    """
    with executor.transaction():
        begun()
        answers = _replaced(steps, operations, executor)
        return [
            answers[place] if place in answers else _answer(steps, operation, executor)
            for place, operation in enumerate(operations)
        ]


def _replaced(steps: Steps, operations: Sequence[Operation], executor: Executor) -> dict[int, bool]:
    """The answers of all replacements, by their places: most of what there is, and for each way to
    write one a single trip into the driver.
    """
    chosen: dict[Statement, list[tuple[int, tuple[Any, ...]]]] = {}
    for place, operation in enumerate(operations):
        if operation.method == "replace":
            statement, values = steps.replacement(*operation.args)
            chosen.setdefault(statement, []).append((place, values))
    answers: dict[int, bool] = {}
    for statement, rows in chosen.items():
        hits = executor.perform_many(statement, [values for _, values in rows])
        if hits is None:
            continue
        all_hit = hits == len(rows)
        for place, _ in rows:
            new: Row = operations[place].args[1]
            answers[place] = all_hit or _is_there(steps, new, executor)
    return answers


def _is_there(steps: Steps, new: Row, executor: Executor) -> bool:
    """Whether this is what stands in the row now; no two writes have the same bytes."""
    found = run_script(steps.reload(new.id), executor)
    return found is not None and found.data == new.data


def _answer(steps: Steps, operation: Operation, executor: Executor) -> Any:
    """A key that is taken undoes only the statement that found it so, and here what came before."""
    script = getattr(steps, operation.method)(*operation.args)
    several = operation.method in IN_TRANSACTION
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
        case "remove_all" | "remove_user":
            return None
        case _:
            return (args[0].sid_hash,)


def hashes_after(method: str, args: tuple[Any, ...], answer: Any) -> tuple[bytes, ...] | None:
    """The hashes of what a method has changed; without an answer of what it may have changed."""
    if method == "remove_user":
        return None if answer is None else tuple(answer)
    return hashes_before(method, args)
