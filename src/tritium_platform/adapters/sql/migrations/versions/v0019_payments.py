"""Payments: attempts, refunds, disputes, the inbox; what was asked for and what was paid stays as it is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tritium_platform.adapters.sql.tables.base import UtcDateTime

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

IS_UNRESOLVED = sa.text("state IN ('created', 'unknown', 'requires_action')")
IS_A_PROVIDERS = sa.text("provider <> 'manual'")
IS_PENDING = sa.text("processed_at IS NULL")
FIXED = {
    "payment_attempts": (
        *("id", "invoice_id", "tenant_id", "number", "provider", "idempotency_key", "amount_minor"),
        *("currency", "created_at", "customer", "method"),
    ),
    "payment_refunds": (
        *("id", "attempt_id", "invoice_id", "tenant_id", "number", "idempotency_key", "amount_minor"),
        *("reason", "created_at", "credit_note_id"),
    ),
    "payment_disputes": ("id", "attempt_id", "tenant_id", "provider", "reference", "created_at"),
    "provider_events": ("id", "provider", "event_id", "kind", "reference", "attempt_id", "received_at"),
}
# What came in may go back, but it has come in.
TAKEN_BACK = {
    "payment_attempts": (
        "OLD.state IN ('succeeded', 'refunded') AND (NEW.state NOT IN ('succeeded', 'refunded') "
        "OR NEW.received_minor < OLD.received_minor)"
    ),
    "payment_disputes": "NEW.version < OLD.version",
}


def upgrade() -> None:
    """Make the tables, and the triggers that refuse."""
    _make_attempts()
    _make_refunds()
    _make_disputes()
    _make_inbox()
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    (_refuse_on_sqlite if is_sqlite else _refuse_on_postgresql)()


def downgrade() -> None:
    """Drop them."""
    for table in (
        "provider_cursors",
        "provider_events",
        "payment_disputes",
        "payment_refunds",
        "payment_attempts",
        "payment_methods",
    ):
        op.drop_table(table)


def _make_attempts() -> None:
    op.create_table(
        "payment_methods",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("provider", sa.String(length=20), nullable=False),
        sa.Column("customer", sa.String(length=200), nullable=False),
        sa.Column("method", sa.String(length=200), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_payment_methods")),
    )
    op.create_table(
        "payment_attempts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("invoice_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("provider", sa.String(length=20), nullable=False),
        sa.Column("idempotency_key", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.Column("customer", sa.String(length=200), nullable=False),
        sa.Column("method", sa.String(length=200), nullable=False),
        sa.Column("reference", sa.String(length=200), nullable=True),
        sa.Column("received_minor", sa.BigInteger(), nullable=False),
        sa.Column("refunded_minor", sa.BigInteger(), nullable=False),
        sa.Column("fee_minor", sa.BigInteger(), nullable=True),
        sa.Column("decline", sa.String(length=10), nullable=True),
        sa.Column("code", sa.String(length=100), nullable=False),
        sa.CheckConstraint(
            "number >= 1 AND amount_minor > 0", name=op.f("ck_payment_attempts_asks_for_something")
        ),
        sa.CheckConstraint(
            "refunded_minor >= 0 AND refunded_minor <= received_minor",
            name=op.f("ck_payment_attempts_refunded_within_received"),
        ),
        sa.ForeignKeyConstraint(
            ["invoice_id"], ["invoices.id"], name=op.f("fk_payment_attempts_invoice_id_invoices")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payment_attempts")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_payment_attempts_idempotency_key")),
        sa.UniqueConstraint("invoice_id", "number", name=op.f("uq_payment_attempts_invoice_id_number")),
    )
    op.create_index("ix_payment_attempts_tenant_id_id", "payment_attempts", ["tenant_id", "id"], unique=False)
    op.create_index(
        "uq_payment_attempts_provider_reference",
        "payment_attempts",
        ["provider", "reference"],
        unique=True,
        sqlite_where=IS_A_PROVIDERS,
        postgresql_where=IS_A_PROVIDERS,
    )
    op.create_index("ix_payment_attempts_state", "payment_attempts", ["state"], unique=False)
    op.create_index(
        "uq_payment_attempts_invoice_id",
        "payment_attempts",
        ["invoice_id"],
        unique=True,
        sqlite_where=IS_UNRESOLVED,
        postgresql_where=IS_UNRESOLVED,
    )


def _make_refunds() -> None:
    op.create_table(
        "payment_refunds",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("attempt_id", sa.Uuid(), nullable=False),
        sa.Column("invoice_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("idempotency_key", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.Column("from_credit_minor", sa.BigInteger(), nullable=False),
        sa.Column("credit_note_id", sa.Uuid(), nullable=True),
        sa.Column("reference", sa.String(length=200), nullable=True),
        sa.CheckConstraint(
            "number >= 1 AND amount_minor > 0", name=op.f("ck_payment_refunds_gives_something_back")
        ),
        sa.CheckConstraint(
            "from_credit_minor >= 0 AND from_credit_minor <= amount_minor",
            name=op.f("ck_payment_refunds_credit_within_amount"),
        ),
        sa.ForeignKeyConstraint(
            ["attempt_id"],
            ["payment_attempts.id"],
            name=op.f("fk_payment_refunds_attempt_id_payment_attempts"),
        ),
        sa.ForeignKeyConstraint(
            ["credit_note_id"], ["invoices.id"], name=op.f("fk_payment_refunds_credit_note_id_invoices")
        ),
        sa.ForeignKeyConstraint(
            ["invoice_id"], ["invoices.id"], name=op.f("fk_payment_refunds_invoice_id_invoices")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payment_refunds")),
        sa.UniqueConstraint("attempt_id", "number", name=op.f("uq_payment_refunds_attempt_id_number")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_payment_refunds_idempotency_key")),
    )
    op.create_index("ix_payment_refunds_state", "payment_refunds", ["state"], unique=False)


def _make_disputes() -> None:
    op.create_table(
        "payment_disputes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("attempt_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("provider", sa.String(length=20), nullable=False),
        sa.Column("reference", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("cash_minor", sa.BigInteger(), nullable=False),
        sa.Column("fee_minor", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["attempt_id"],
            ["payment_attempts.id"],
            name=op.f("fk_payment_disputes_attempt_id_payment_attempts"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payment_disputes")),
        sa.UniqueConstraint("provider", "reference", name=op.f("uq_payment_disputes_provider_reference")),
    )
    op.create_index("ix_payment_disputes_attempt_id", "payment_disputes", ["attempt_id"], unique=False)


def _make_inbox() -> None:
    op.create_table(
        "provider_events",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("provider", sa.String(length=20), nullable=False),
        sa.Column("event_id", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=100), nullable=False),
        sa.Column("reference", sa.String(length=200), nullable=False),
        sa.Column("attempt_id", sa.Uuid(), nullable=True),
        sa.Column("received_at", UtcDateTime(), nullable=False),
        sa.Column("processed_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_provider_events")),
        sa.UniqueConstraint("provider", "event_id", name=op.f("uq_provider_events_provider_event_id")),
    )
    op.create_index(
        "ix_provider_events_pending",
        "provider_events",
        ["id"],
        unique=False,
        sqlite_where=IS_PENDING,
        postgresql_where=IS_PENDING,
    )
    op.create_table(
        "provider_cursors",
        sa.Column("provider", sa.String(length=20), nullable=False),
        sa.Column("seen_until", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("provider", name=op.f("pk_provider_cursors")),
    )


def _forbidden(table: str, *, differs: str) -> str:
    """Say in SQL which change of a row is refused."""
    changed = " OR ".join(f"NEW.{name} {differs} OLD.{name}" for name in FIXED[table])
    return f"({changed})" + (f" OR ({TAKEN_BACK[table]})" if table in TAKEN_BACK else "")


def _refuse_on_sqlite() -> None:
    for table in FIXED:
        op.execute(
            f"CREATE TRIGGER {table}_stay BEFORE UPDATE ON {table} "
            f"WHEN {_forbidden(table, differs='IS NOT')} "
            f"BEGIN SELECT RAISE(ABORT, '{table}: what was asked for and what was paid stays'); END"
        )
        op.execute(
            f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} are never deleted'); END"
        )


def _refuse_on_postgresql() -> None:
    for table in FIXED:
        op.execute(
            f"CREATE TRIGGER {table}_stay BEFORE UPDATE ON {table} FOR EACH ROW "
            f"WHEN ({_forbidden(table, differs='IS DISTINCT FROM')}) EXECUTE FUNCTION tritium_refuse()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION tritium_refuse()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} EXECUTE FUNCTION tritium_refuse()"
        )
