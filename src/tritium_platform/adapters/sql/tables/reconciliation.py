"""Runs of the reconciliation, and the first differences that each found."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Index, Integer, String, Table, Text, Uuid

from tritium_platform.adapters.sql.tables.base import UtcDateTime, metadata

reconciliation_runs = Table(
    "reconciliation_runs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime, nullable=False),
    Column("counted", JSON, nullable=False),
    Column("num_differences", BigInteger, nullable=False),
    Index("ix_reconciliation_runs_started_at", "started_at"),
)

reconciliation_differences = Table(
    "reconciliation_differences",
    metadata,
    Column("run_id", Uuid, ForeignKey("reconciliation_runs.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("check", String(20), nullable=False),
    Column("subject", Text, nullable=False),
    Column("expected", Text, nullable=False),
    Column("found", Text, nullable=False),
    Column("look", Text, nullable=False),
    Column("tenant_id", Uuid, nullable=False),
    Column("month", String(10), nullable=False),
    Column("account", String(100), nullable=False),
)
