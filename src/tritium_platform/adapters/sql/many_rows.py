"""Many rows by one statement: PostgreSQL gets them as one JSON text, and not in a message for each."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Column, LargeBinary, Table, text
from sqlalchemy.dialects import postgresql

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import TextClause

    from tritium_platform.adapters.sql.database import Database

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


async def insert_new(
    database: Database, table: Table, rows: Sequence[Mapping[str, Any]], *, key: tuple[str, ...]
) -> None:
    """Insert rows, but for those whose key is taken; each says every column that must not be NULL."""
    if not rows:
        return
    async with database.write() as connection:
        if database.is_sqlite:
            statement = database.insert(table).on_conflict_do_nothing(index_elements=list(key))
            await connection.execute(statement, list(rows))
        else:
            said = msgspec.json.encode(rows).decode()
            await connection.execute(_insert_json(table, key), {"rows": said})


@cache
def _insert_json(table: Table, key: tuple[str, ...]) -> TextClause:
    names = ", ".join(column.name for column in table.columns)
    values = ", ".join(
        f"decode(r.{column.name}, 'base64')" if _is_binary(column) else f"r.{column.name}"
        for column in table.columns
    )
    types = ", ".join(
        f"{column.name} {'text' if _is_binary(column) else column.type.compile(_DIALECT)}"
        for column in table.columns
    )
    return text(
        f"INSERT INTO {table.name} ({names}) SELECT {values} "  # noqa: S608 - of our own names
        f"FROM json_to_recordset(CAST(:rows AS json)) AS r({types}) "
        f"ON CONFLICT ({', '.join(key)}) DO NOTHING"
    )


def _is_binary(column: Column[Any]) -> bool:
    """Tell whether JSON carries a column as base64."""
    return isinstance(column.type, LargeBinary)
