"""Rows of tenants on PostgreSQL: seen and written only by whoever said for which tenant it acts."""

from __future__ import annotations

from alembic import op

from tritium_platform.adapters.sql.migrations.versions.v0016_invoices import _NEXT
from tritium_platform.adapters.sql.migrations.versions.v0017_journal import CLOSED, TOO_FEW, UNBALANCED

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

OWN = (
    *("aliases", "api_keys", "batches", "buyers", "contracts", "credit_draws", "credit_grants"),
    *("deployments", "fair_use_measures", "fair_use_refusals", "files", "health_outcomes", "health_scores"),
    *("idempotency_keys", "invoice_documents", "invoice_events", "invoice_lines", "invoice_payments"),
    *("invoices", "journal_groups", "models", "payment_attempts", "payment_disputes", "payment_methods"),
    *("payment_refunds", "quantization_jobs", "quota_counters", "reconciliation_differences"),
    *("reservations", "security_events", "spend_caps", "spend_marks", "usage_records"),
)
# Rows of these belong to the tenant of the row they hang on.
PARENTS = {
    "batch_lines": ("batch_id", "batches"),
    "journal_entries": ("group_id", "journal_groups"),
    "quantization_layers": ("job_id", "quantization_jobs"),
}
# Asked once per statement, not per row, as it stands in a query of its own. NULL or '' is nobody.
ACTING = "(SELECT current_setting('tritium.tenant', true))"
EVERYBODY = f"{ACTING} = '*'"
_UNEQUAL = "the entries of a group sum to zero in every currency"
# Triggers that judge a row by those of all tenants, or by entries whose group is not there yet: what is wrong
# and how it is said, as in migrations 16 and 17.
JUDGES = {
    "tritium_next_number": (f"NEW.sequence <> {_NEXT}", "the numbers of invoices have no gap"),
    "tritium_journal_close_group": (f"{UNBALANCED.format(group='NEW.id')} OR {TOO_FEW}", _UNEQUAL),
    "tritium_journal_open_group": (CLOSED, "the group of this entry is closed"),
    "tritium_journal_balance": (UNBALANCED.format(group="NEW.group_id"), _UNEQUAL),
}


def upgrade() -> None:
    """Let every table of tenants ask who acts, its owner too."""
    if op.get_bind().dialect.name != "postgresql":
        return
    for table in OWN:
        secure(table, f"{EVERYBODY} OR tenant_id::text = {ACTING}")
    secure("tenants", f"{EVERYBODY} OR id::text = {ACTING}")
    for table, (column, parent) in PARENTS.items():
        # The policy of the parent holds inside, too.
        is_own = f"EXISTS (SELECT FROM {parent} WHERE {parent}.id = {table}.{column})"
        # Entries come before the head of their group, and without one of the same transaction they fall.
        may_be_added = f"{ACTING} <> ''" if table == "journal_entries" else None
        secure(table, f"{EVERYBODY} OR {is_own}", may_be_added=may_be_added)
    for name, (wrong, message) in JUDGES.items():
        _judge(name, f"({wrong})", message, before=_WIDE, after=_NARROW)


def downgrade() -> None:
    """Show the rows to whoever may read the tables, as before."""
    if op.get_bind().dialect.name != "postgresql":
        return
    for name, (wrong, message) in JUDGES.items():
        _judge(name, f"({wrong})", message)
    for table in (*OWN, "tenants", *PARENTS):
        op.execute(f"DROP POLICY rows_of_tenant ON {table}")
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")


_WIDE = "PERFORM set_config('tritium.tenant', '*', true);"
_NARROW = "PERFORM set_config('tritium.tenant', COALESCE(acting, ''), true);"


def _judge(name: str, wrong: str, message: str, *, before: str = "", after: str = "") -> None:
    op.execute(
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "DECLARE acting text := current_setting('tritium.tenant', true); is_wrong boolean; "
        f"BEGIN {before} is_wrong := {wrong}; {after} "
        f"IF is_wrong THEN RAISE EXCEPTION '{message}' "
        "USING ERRCODE = 'integrity_constraint_violation'; END IF; RETURN NEW; END $$"
    )


def secure(table: str, is_visible: str, *, may_be_added: str | None = None) -> None:
    """Give a table its policy, which binds its owner, too."""
    op.execute(
        f"CREATE POLICY rows_of_tenant ON {table} USING ({is_visible}) "
        f"WITH CHECK ({may_be_added or is_visible})"
    )
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
