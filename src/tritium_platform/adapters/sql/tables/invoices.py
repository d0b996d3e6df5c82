"""Plans, contracts, invoices and what they are made of; triggers (migration 16) keep what is written."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from tritium_platform.adapters.sql.tables.base import UtcDateTime, metadata

price_plans = Table(
    "price_plans",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("currency", String(3), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

# Who a tenant is on its invoices; changes, and a finalized invoice keeps what it said.
buyers = Table(
    "buyers",
    metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)

contracts = Table(
    "contracts",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("plan_id", String(32), ForeignKey("price_plans.id"), nullable=False),
    Column("starts_at", UtcDateTime, nullable=False),
    Column("ends_at", UtcDateTime),
    Column("payment_days", Integer, nullable=False),
    Column("tax_jurisdiction", String(200), nullable=False),
    Column("is_reverse_charge", Boolean, nullable=False),
    Column("tax_id", String(200), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("tenant_id", "starts_at"),
    CheckConstraint("payment_days >= 0", name="payment_days_not_negative"),
)

invoices = Table(
    "invoices",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("status", String(20), nullable=False),
    Column("period", String(7), nullable=False),
    Column("currency", String(3), nullable=False),
    Column("plan_id", String(32), ForeignKey("price_plans.id"), nullable=False),
    Column("number", String(40)),
    Column("contract_id", Uuid, ForeignKey("contracts.id")),
    Column("credits_invoice_id", Uuid, ForeignKey("invoices.id")),
    Column("created_at", UtcDateTime, nullable=False),
    Column("finalized_at", UtcDateTime),
    Column("due_at", UtcDateTime),
    Column("total_minor", BigInteger, nullable=False),
    Column("drawn_minor", BigInteger, nullable=False),
    Column("paid_minor", BigInteger, nullable=False),
    Column("credited_minor", BigInteger, nullable=False),
    Index("ix_invoices_tenant_id_id", "tenant_id", "id"),
    Index("ix_invoices_status", "status"),
    # A month of a tenant is billed once per currency, whoever tries twice.
    Index(
        "uq_invoices_tenant_id_period_currency",
        "tenant_id",
        "period",
        "currency",
        unique=True,
        sqlite_where=text("kind = 'invoice' AND status <> 'void'"),
        postgresql_where=text("kind = 'invoice' AND status <> 'void'"),
    ),
    CheckConstraint(
        "drawn_minor >= 0 AND paid_minor >= 0 AND credited_minor >= 0", name="settled_not_negative"
    ),
    CheckConstraint(
        "drawn_minor + paid_minor + credited_minor = 0 "
        "OR drawn_minor + paid_minor + credited_minor <= total_minor",
        name="settled_within_total",
    ),
)

number_series = Table(
    "number_series",
    metadata,
    Column("name", String(20), primary_key=True),
    Column("last", BigInteger, nullable=False),
)

invoice_documents = Table(
    "invoice_documents",
    metadata,
    Column("invoice_id", Uuid, ForeignKey("invoices.id"), primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("series", String(20), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("number", String(40), nullable=False, unique=True),
    Column("body", LargeBinary, nullable=False),
    Column("sha256", LargeBinary(32), nullable=False),
    Column("note", LargeBinary, nullable=False),
    Column("verifier_key", String(300), nullable=False),
    UniqueConstraint("series", "sequence"),
    CheckConstraint("sequence >= 1", name="sequence_from_one"),
)

invoice_lines = Table(
    "invoice_lines",
    metadata,
    Column("invoice_id", Uuid, ForeignKey("invoices.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("tenant_id", Uuid, nullable=False),
    Column("period", String(7), nullable=False),
    Column("charge", String(100), nullable=False),
    Column("cell", Text, nullable=False),
    Column("plan_id", String(32), ForeignKey("price_plans.id"), nullable=False),
    Column("quantity", String(40), nullable=False),
    Column("net_minor", BigInteger, nullable=False),
    Column("tax_minor", BigInteger, nullable=False),
    # The part of the month that the line is about; nothing: the month is not cut.
    Column("starts_at", UtcDateTime),
    Column("ends_at", UtcDateTime),
    Index("ix_invoice_lines_tenant_id_period", "tenant_id", "period"),
)

invoice_events = Table(
    "invoice_events",
    metadata,
    Column("invoice_id", Uuid, ForeignKey("invoices.id"), primary_key=True),
    Column("usage_id", Uuid, ForeignKey("usage_records.id"), primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("is_void", Boolean, nullable=False),
    # A use is billed at most once, and again only if its invoice was void.
    Index(
        "uq_invoice_events_usage_id",
        "usage_id",
        unique=True,
        sqlite_where=text("is_void = 0"),  # as the queries say it: else the index is not used
        postgresql_where=text("NOT is_void"),
    ),
)

invoice_payments = Table(
    "invoice_payments",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("invoice_id", Uuid, ForeignKey("invoices.id"), nullable=False),
    Column("tenant_id", Uuid, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("reference", String(200), nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Index("ix_invoice_payments_invoice_id", "invoice_id"),
    CheckConstraint("amount_minor > 0", name="amount_positive"),
)

credit_grants = Table(
    "credit_grants",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("remaining_minor", BigInteger, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("reason", String(200), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("ix_credit_grants_tenant_id_id", "tenant_id", "id"),
    CheckConstraint("amount_minor > 0", name="amount_positive"),
    CheckConstraint(
        "remaining_minor >= 0 AND remaining_minor <= amount_minor", name="remaining_within_amount"
    ),
)

credit_draws = Table(
    "credit_draws",
    metadata,
    Column("invoice_id", Uuid, ForeignKey("invoices.id"), primary_key=True),
    Column("grant_id", Uuid, ForeignKey("credit_grants.id"), primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    CheckConstraint("amount_minor > 0", name="amount_positive"),
)

billing_operations = Table(
    "billing_operations",
    metadata,
    Column("id", String(300), primary_key=True),
    Column("fingerprint", LargeBinary(32), nullable=False),
    Column("subject_id", Uuid, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)
