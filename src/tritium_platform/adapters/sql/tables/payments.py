"""Payments: how tenants are charged, attempts, refunds, disputes, and the inbox of providers' events.

An invoice has at most one attempt that is not resolved (a partial unique index), so nobody is charged twice
at a time; triggers (migration 19) keep what was asked for, and that what was paid stays paid.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from tritium_platform.adapters.sql.tables.base import UtcDateTime, metadata

IS_UNRESOLVED = text("state IN ('created', 'unknown', 'requires_action')")
# Two transfers may have the same words on them.
IS_A_PROVIDERS = text("provider <> 'manual'")
IS_PENDING = text("processed_at IS NULL")

payment_methods = Table(
    "payment_methods",
    metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("provider", String(20), nullable=False),
    Column("customer", String(200), nullable=False),
    Column("method", String(200), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

payment_attempts = Table(
    "payment_attempts",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("invoice_id", Uuid, ForeignKey("invoices.id"), nullable=False),
    Column("tenant_id", Uuid, nullable=False),
    Column("number", Integer, nullable=False),
    Column("provider", String(20), nullable=False),
    Column("idempotency_key", String(64), nullable=False, unique=True),
    Column("state", String(20), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("customer", String(200), nullable=False),
    Column("method", String(200), nullable=False),
    Column("reference", String(200)),
    Column("received_minor", BigInteger, nullable=False),
    Column("refunded_minor", BigInteger, nullable=False),
    Column("fee_minor", BigInteger),
    Column("decline", String(10)),
    Column("code", String(100), nullable=False),
    UniqueConstraint("invoice_id", "number"),
    Index(
        "uq_payment_attempts_provider_reference",
        "provider",
        "reference",
        unique=True,
        sqlite_where=IS_A_PROVIDERS,
        postgresql_where=IS_A_PROVIDERS,
    ),
    Index("ix_payment_attempts_tenant_id_id", "tenant_id", "id"),
    Index("ix_payment_attempts_state", "state"),
    Index(
        "uq_payment_attempts_invoice_id",
        "invoice_id",
        unique=True,
        sqlite_where=IS_UNRESOLVED,
        postgresql_where=IS_UNRESOLVED,
    ),
    CheckConstraint("number >= 1 AND amount_minor > 0", name="asks_for_something"),
    CheckConstraint(
        "refunded_minor >= 0 AND refunded_minor <= received_minor", name="refunded_within_received"
    ),
)

payment_refunds = Table(
    "payment_refunds",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("attempt_id", Uuid, ForeignKey("payment_attempts.id"), nullable=False),
    Column("invoice_id", Uuid, ForeignKey("invoices.id"), nullable=False),
    Column("tenant_id", Uuid, nullable=False),
    Column("number", Integer, nullable=False),
    Column("idempotency_key", String(64), nullable=False, unique=True),
    Column("state", String(20), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("reason", String(200), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("from_credit_minor", BigInteger, nullable=False),
    Column("credit_note_id", Uuid, ForeignKey("invoices.id")),
    Column("reference", String(200)),
    UniqueConstraint("attempt_id", "number"),
    Index("ix_payment_refunds_state", "state"),
    CheckConstraint("number >= 1 AND amount_minor > 0", name="gives_something_back"),
    CheckConstraint(
        "from_credit_minor >= 0 AND from_credit_minor <= amount_minor", name="credit_within_amount"
    ),
)

payment_disputes = Table(
    "payment_disputes",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("attempt_id", Uuid, ForeignKey("payment_attempts.id"), nullable=False),
    Column("tenant_id", Uuid, nullable=False),
    Column("provider", String(20), nullable=False),
    Column("reference", String(200), nullable=False),
    Column("state", String(10), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("cash_minor", BigInteger, nullable=False),
    Column("fee_minor", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    UniqueConstraint("provider", "reference"),
    Index("ix_payment_disputes_attempt_id", "attempt_id"),
)

dunning_notices = Table(
    "dunning_notices",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("invoice_id", Uuid, ForeignKey("invoices.id"), nullable=False),
    Column("attempt_number", Integer, nullable=False),
    Column("kind", String(10), nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("invoice_id", "attempt_number", "kind"),
    Index("ix_dunning_notices_tenant_id_id", "tenant_id", "id"),
)

provider_events = Table(
    "provider_events",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("provider", String(20), nullable=False),
    Column("event_id", String(200), nullable=False),
    Column("kind", String(100), nullable=False),
    Column("reference", String(200), nullable=False),
    Column("attempt_id", Uuid),
    Column("received_at", UtcDateTime, nullable=False),
    Column("processed_at", UtcDateTime),
    UniqueConstraint("provider", "event_id"),
    Index("ix_provider_events_pending", "id", sqlite_where=IS_PENDING, postgresql_where=IS_PENDING),
)

provider_cursors = Table(
    "provider_cursors",
    metadata,
    Column("provider", String(20), primary_key=True),
    Column("seen_until", UtcDateTime, nullable=False),
)
