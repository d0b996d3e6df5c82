"""Runs of the reconciliation in SQL."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy import select

from tritium_platform.adapters.sql.tables.reconciliation import (
    reconciliation_differences,
    reconciliation_runs,
)
from tritium_platform.billing.reconciliation.model import Check, Difference, ReconciliationRun

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tritium_platform.adapters.sql.database import Database


class SqlRunStore:
    """Keeps runs of the reconciliation and the differences that they found."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, run: ReconciliationRun) -> None:
        """Keep a run."""
        rows = [
            asdict(each) | {"check": each.check.value, "run_id": run.id, "number": number}
            for number, each in enumerate(run.differences)
        ]
        async with self._database.write() as connection:
            await connection.execute(
                self._database.insert(reconciliation_runs).values(
                    id=run.id,
                    started_at=run.started_at,
                    finished_at=run.finished_at,
                    counted=dict(run.counted),
                    num_differences=run.num_differences,
                )
            )
            if rows:
                await connection.execute(self._database.insert(reconciliation_differences), rows)

    async def list(self, *, limit: int, after: UUID | None = None) -> Sequence[ReconciliationRun]:
        """Return runs, newest first, those older than `after`."""
        newest = select(reconciliation_runs).order_by(reconciliation_runs.c.id.desc()).limit(limit)
        if after is not None:
            newest = newest.where(reconciliation_runs.c.id < after)
        table = reconciliation_differences
        differences: dict[UUID, list[Difference]] = defaultdict(list)
        async with self._database.read() as connection:
            runs = (await connection.execute(newest)).all()
            found = (
                select(table)
                .where(table.c.run_id.in_([run.id for run in runs]))
                .order_by(table.c.run_id, table.c.number)
            )
            for row in await connection.execute(found):
                fields = row._asdict()
                run_id = fields.pop("run_id")
                del fields["number"]
                differences[run_id].append(Difference(**fields | {"check": Check(row.check)}))
        return [
            ReconciliationRun(
                id=run.id,
                started_at=run.started_at,
                finished_at=run.finished_at,
                counted=run.counted,
                num_differences=run.num_differences,
                differences=tuple(differences[run.id]),
            )
            for run in runs
        ]
