"""Sums of 64-bit integers, exact however large they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import UserDefinedType

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Dialect
    from sqlalchemy.sql.compiler import SQLCompiler

HALF = 32


class _Whole(UserDefinedType[int]):
    """A whole number of any size as a database gives it: PostgreSQL as a decimal, SQLite as two halves."""

    cache_ok = True

    def result_processor(
        self,
        dialect: Dialect,  # noqa: ARG002 - what comes tells which it is
        coltype: object,  # noqa: ARG002
    ) -> Callable[[Any], int | None]:
        return _whole


class ExactSum(FunctionElement[int]):
    """The sum of an expression over up to 2^31 rows as an `int` of any size; None over no rows.

    It is for results only: SQLite, whose own sum ends in an error beyond 64 bits, sums the upper and lower 32
    bits of each value apart, and what comes of that is a text.
    """

    name = "exact_sum"
    type = _Whole()
    inherit_cache = True


@compiles(ExactSum)
def _summed(element: ExactSum, compiler: SQLCompiler, **options: Any) -> str:
    return f"sum({compiler.process(element.clauses, **options)})"


@compiles(ExactSum, "sqlite")
def _summed_by_halves(element: ExactSum, compiler: SQLCompiler, **options: Any) -> str:
    value = compiler.process(element.clauses, **options)
    return f"(sum(({value}) >> {HALF}) || ':' || sum(({value}) & {2**HALF - 1}))"


def _whole(value: Any) -> int | None:
    if isinstance(value, str):
        upper, lower = value.split(":")
        return (int(upper) << HALF) + int(lower)
    return None if value is None else int(value)
