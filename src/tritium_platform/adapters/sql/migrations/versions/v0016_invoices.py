"""Plans, contracts, invoices, credit; what is written once stays, and numbers have no gap."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tritium_platform.adapters.sql.tables.base import UtcDateTime

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

WRITTEN_ONCE = (
    "price_versions",
    "price_plans",
    "contracts",
    "invoice_documents",
    "invoice_lines",
    "invoice_payments",
    "credit_draws",
    "billing_operations",
)
# What an invoice that has left the draft may still change: its status, and how far it is settled.
SETTLING = ("status", "drawn_minor", "paid_minor", "credited_minor")
FIXED = (
    "id",
    "tenant_id",
    "kind",
    "period",
    "currency",
    "plan_id",
    "number",
    "contract_id",
    "credits_invoice_id",
    "created_at",
    "finalized_at",
    "due_at",
    "total_minor",
)
FINAL = ("void", "uncollectible")


def upgrade() -> None:
    """Make the tables, and the triggers that refuse."""
    _make_plans_and_contracts()
    _make_invoices()
    _make_documents()
    _make_credit()
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    (_refuse_on_sqlite if is_sqlite else _refuse_on_postgresql)()


def _make_plans_and_contracts() -> None:
    """Make what decides prices, and the numbers of invoices."""
    op.create_table(
        "billing_operations",
        sa.Column("id", sa.String(length=300), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(length=32), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_billing_operations")),
    )
    op.create_table(
        "number_series",
        sa.Column("name", sa.String(length=20), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_number_series")),
    )
    op.create_table(
        "price_plans",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_price_plans")),
    )
    op.create_table(
        "contracts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("plan_id", sa.String(length=32), nullable=False),
        sa.Column("starts_at", UtcDateTime(), nullable=False),
        sa.Column("ends_at", UtcDateTime(), nullable=True),
        sa.Column("payment_days", sa.Integer(), nullable=False),
        sa.Column("tax_jurisdiction", sa.String(length=200), nullable=False),
        sa.Column("is_reverse_charge", sa.Boolean(), nullable=False),
        sa.Column("tax_id", sa.String(length=200), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("payment_days >= 0", name=op.f("ck_contracts_payment_days_not_negative")),
        sa.ForeignKeyConstraint(
            ["plan_id"], ["price_plans.id"], name=op.f("fk_contracts_plan_id_price_plans")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contracts")),
        sa.UniqueConstraint("tenant_id", "starts_at", name=op.f("uq_contracts_tenant_id_starts_at")),
    )


def _make_invoices() -> None:
    """Make the heads of invoices."""
    op.create_table(
        "invoices",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("period", sa.String(length=7), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("plan_id", sa.String(length=32), nullable=False),
        sa.Column("number", sa.String(length=40), nullable=True),
        sa.Column("contract_id", sa.Uuid(), nullable=True),
        sa.Column("credits_invoice_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("finalized_at", UtcDateTime(), nullable=True),
        sa.Column("due_at", UtcDateTime(), nullable=True),
        sa.Column("total_minor", sa.BigInteger(), nullable=False),
        sa.Column("drawn_minor", sa.BigInteger(), nullable=False),
        sa.Column("paid_minor", sa.BigInteger(), nullable=False),
        sa.Column("credited_minor", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "drawn_minor + paid_minor + credited_minor = 0 "
            "OR drawn_minor + paid_minor + credited_minor <= total_minor",
            name=op.f("ck_invoices_settled_within_total"),
        ),
        sa.CheckConstraint(
            "drawn_minor >= 0 AND paid_minor >= 0 AND credited_minor >= 0",
            name=op.f("ck_invoices_settled_not_negative"),
        ),
        sa.ForeignKeyConstraint(
            ["contract_id"], ["contracts.id"], name=op.f("fk_invoices_contract_id_contracts")
        ),
        sa.ForeignKeyConstraint(
            ["credits_invoice_id"], ["invoices.id"], name=op.f("fk_invoices_credits_invoice_id_invoices")
        ),
        sa.ForeignKeyConstraint(
            ["plan_id"], ["price_plans.id"], name=op.f("fk_invoices_plan_id_price_plans")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invoices")),
    )
    op.create_index("ix_invoices_status", "invoices", ["status"], unique=False)
    op.create_index("ix_invoices_tenant_id_id", "invoices", ["tenant_id", "id"], unique=False)
    op.create_index(
        "uq_invoices_tenant_id_period_currency",
        "invoices",
        ["tenant_id", "period", "currency"],
        unique=True,
        sqlite_where=sa.text("kind = 'invoice' AND status <> 'void'"),
        postgresql_where=sa.text("kind = 'invoice' AND status <> 'void'"),
    )


def _make_documents() -> None:
    """Make what an invoice says, charges and is paid by."""
    op.create_table(
        "invoice_documents",
        sa.Column("invoice_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("series", sa.String(length=20), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.String(length=40), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("note", sa.LargeBinary(), nullable=False),
        sa.Column("verifier_key", sa.String(length=300), nullable=False),
        sa.CheckConstraint("sequence >= 1", name=op.f("ck_invoice_documents_sequence_from_one")),
        sa.ForeignKeyConstraint(
            ["invoice_id"], ["invoices.id"], name=op.f("fk_invoice_documents_invoice_id_invoices")
        ),
        sa.PrimaryKeyConstraint("invoice_id", name=op.f("pk_invoice_documents")),
        sa.UniqueConstraint("number", name=op.f("uq_invoice_documents_number")),
        sa.UniqueConstraint("series", "sequence", name=op.f("uq_invoice_documents_series_sequence")),
    )
    op.create_table(
        "invoice_lines",
        sa.Column("invoice_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("period", sa.String(length=7), nullable=False),
        sa.Column("charge", sa.String(length=100), nullable=False),
        sa.Column("cell", sa.Text(), nullable=False),
        sa.Column("plan_id", sa.String(length=32), nullable=False),
        sa.Column("quantity", sa.String(length=40), nullable=False),
        sa.Column("net_minor", sa.BigInteger(), nullable=False),
        sa.Column("tax_minor", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["invoice_id"], ["invoices.id"], name=op.f("fk_invoice_lines_invoice_id_invoices")
        ),
        sa.ForeignKeyConstraint(
            ["plan_id"], ["price_plans.id"], name=op.f("fk_invoice_lines_plan_id_price_plans")
        ),
        sa.PrimaryKeyConstraint("invoice_id", "number", name=op.f("pk_invoice_lines")),
    )
    op.create_index(
        "ix_invoice_lines_tenant_id_period", "invoice_lines", ["tenant_id", "period"], unique=False
    )
    op.create_table(
        "invoice_events",
        sa.Column("invoice_id", sa.Uuid(), nullable=False),
        sa.Column("usage_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("is_void", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["invoice_id"], ["invoices.id"], name=op.f("fk_invoice_events_invoice_id_invoices")
        ),
        sa.ForeignKeyConstraint(
            ["usage_id"], ["usage_records.id"], name=op.f("fk_invoice_events_usage_id_usage_records")
        ),
        sa.PrimaryKeyConstraint("invoice_id", "usage_id", name=op.f("pk_invoice_events")),
    )
    op.create_index(
        "uq_invoice_events_usage_id",
        "invoice_events",
        ["usage_id"],
        unique=True,
        sqlite_where=sa.text("is_void = 0"),
        postgresql_where=sa.text("NOT is_void"),
    )
    op.create_table(
        "invoice_payments",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("invoice_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("reference", sa.String(length=200), nullable=False),
        sa.Column("received_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("amount_minor > 0", name=op.f("ck_invoice_payments_amount_positive")),
        sa.ForeignKeyConstraint(
            ["invoice_id"], ["invoices.id"], name=op.f("fk_invoice_payments_invoice_id_invoices")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invoice_payments")),
    )
    op.create_index("ix_invoice_payments_invoice_id", "invoice_payments", ["invoice_id"], unique=False)


def _make_credit() -> None:
    """Make prepaid credit and what is drawn of it."""
    op.create_table(
        "credit_grants",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("remaining_minor", sa.BigInteger(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=True),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("amount_minor > 0", name=op.f("ck_credit_grants_amount_positive")),
        sa.CheckConstraint(
            "remaining_minor >= 0 AND remaining_minor <= amount_minor",
            name=op.f("ck_credit_grants_remaining_within_amount"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_grants")),
    )
    op.create_index("ix_credit_grants_tenant_id_id", "credit_grants", ["tenant_id", "id"], unique=False)
    op.create_table(
        "credit_draws",
        sa.Column("invoice_id", sa.Uuid(), nullable=False),
        sa.Column("grant_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount_minor > 0", name=op.f("ck_credit_draws_amount_positive")),
        sa.ForeignKeyConstraint(
            ["grant_id"], ["credit_grants.id"], name=op.f("fk_credit_draws_grant_id_credit_grants")
        ),
        sa.ForeignKeyConstraint(
            ["invoice_id"], ["invoices.id"], name=op.f("fk_credit_draws_invoice_id_invoices")
        ),
        sa.PrimaryKeyConstraint("invoice_id", "grant_id", name=op.f("pk_credit_draws")),
    )


def downgrade() -> None:
    """Drop them."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    if is_sqlite:
        for event in ("update", "delete"):
            op.execute(f"DROP TRIGGER price_versions_no_{event}")
    else:
        op.execute("DROP FUNCTION tritium_refuse() CASCADE")
    for table in (
        "billing_operations",
        "credit_draws",
        "credit_grants",
        "invoice_payments",
        "invoice_events",
        "invoice_lines",
        "invoice_documents",
        "number_series",
        "invoices",
        "contracts",
        "price_plans",
    ):
        op.drop_table(table)
    if not is_sqlite:
        op.execute("DROP FUNCTION tritium_next_number()")


def _refuse_on_sqlite() -> None:
    for table in WRITTEN_ONCE:
        for event in ("update", "delete"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{event} BEFORE {event.upper()} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is written once'); END"
            )
    changed = " OR ".join(f"NEW.{name} IS NOT OLD.{name}" for name in FIXED)
    op.execute(
        f"CREATE TRIGGER invoices_stay BEFORE UPDATE ON invoices WHEN {_is_closed('IS NOT')} "
        f"OR (OLD.status <> 'draft' AND (NEW.status = 'draft' OR {changed})) "
        "BEGIN SELECT RAISE(ABORT, 'a finalized invoice does not change'); END"
    )
    op.execute(
        "CREATE TRIGGER invoices_no_delete BEFORE DELETE ON invoices "
        "BEGIN SELECT RAISE(ABORT, 'an invoice is never deleted'); END"
    )
    op.execute(
        "CREATE TRIGGER invoice_documents_no_gap BEFORE INSERT ON invoice_documents "
        f"WHEN NEW.sequence <> {_NEXT} BEGIN SELECT RAISE(ABORT, 'the numbers of invoices have no gap'); END"
    )


def _refuse_on_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION tritium_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION '% is written once', TG_TABLE_NAME "
        "USING ERRCODE = 'integrity_constraint_violation'; END $$"
    )
    for table in WRITTEN_ONCE:
        op.execute(
            f"CREATE TRIGGER {table}_written_once BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION tritium_refuse()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_stays BEFORE TRUNCATE ON {table} EXECUTE FUNCTION tritium_refuse()"
        )
    changed = " OR ".join(f"NEW.{name} IS DISTINCT FROM OLD.{name}" for name in FIXED)
    op.execute(
        "CREATE TRIGGER invoices_stay BEFORE UPDATE ON invoices FOR EACH ROW "
        f"WHEN ({_is_closed('IS DISTINCT FROM')} "
        f"OR (OLD.status <> 'draft' AND (NEW.status = 'draft' OR {changed}))) "
        "EXECUTE FUNCTION tritium_refuse()"
    )
    op.execute(
        "CREATE TRIGGER invoices_no_delete BEFORE DELETE ON invoices "
        "FOR EACH ROW EXECUTE FUNCTION tritium_refuse()"
    )
    op.execute(
        "CREATE FUNCTION tritium_next_number() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF NEW.sequence <> {_NEXT} THEN RAISE EXCEPTION 'the numbers of invoices have no gap' "
        "USING ERRCODE = 'integrity_constraint_violation'; END IF; RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER invoice_documents_no_gap BEFORE INSERT ON invoice_documents "
        "FOR EACH ROW EXECUTE FUNCTION tritium_next_number()"
    )


_NEXT = "(SELECT COALESCE(MAX(d.sequence), 0) + 1 FROM invoice_documents d WHERE d.series = NEW.series)"


def _is_closed(differs: str) -> str:
    """Say in SQL that an invoice which has come to its end is changed after all."""
    states = ", ".join(f"'{state}'" for state in FINAL)
    changed = " OR ".join(f"NEW.{name} {differs} OLD.{name}" for name in SETTLING)
    return f"(OLD.status IN ({states}) AND ({changed}))"
