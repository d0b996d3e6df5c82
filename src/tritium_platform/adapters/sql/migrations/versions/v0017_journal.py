"""The journal: nothing that does not balance is ever committed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tritium_platform.adapters.sql.tables.base import UtcDateTime

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

UNBALANCED = (
    "EXISTS (SELECT 1 FROM journal_entries e WHERE e.group_id = {group} "
    "GROUP BY e.currency HAVING SUM(e.amount_minor) <> 0)"
)
TOO_FEW = "(SELECT COUNT(*) FROM journal_entries e WHERE e.group_id = NEW.id) < 2"
CLOSED = "EXISTS (SELECT 1 FROM journal_groups g WHERE g.id = NEW.group_id)"
TABLES = ("journal_groups", "journal_entries")


def upgrade() -> None:
    """Make the tables, and the triggers that refuse."""
    op.create_table(
        "journal_groups",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("operation_id", sa.String(length=200), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("occurred_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_journal_groups")),
        sa.UniqueConstraint("operation_id", name=op.f("uq_journal_groups_operation_id")),
    )
    op.create_index("ix_journal_groups_tenant_id_id", "journal_groups", ["tenant_id", "id"], unique=False)
    op.create_table(
        "journal_entries",
        sa.Column("group_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("account", sa.String(length=40), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.CheckConstraint("amount_minor <> 0", name=op.f("ck_journal_entries_amount_not_zero")),
        sa.ForeignKeyConstraint(
            ["group_id"],
            ["journal_groups.id"],
            name=op.f("fk_journal_entries_group_id_journal_groups"),
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.PrimaryKeyConstraint("group_id", "position", name=op.f("pk_journal_entries")),
    )
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    (_refuse_on_sqlite if is_sqlite else _refuse_on_postgresql)()


def downgrade() -> None:
    """Drop them."""
    for table in reversed(TABLES):
        op.drop_table(table)
    if op.get_bind().dialect.name != "sqlite":
        for function in ("close_group", "open_group", "balance"):
            op.execute(f"DROP FUNCTION tritium_journal_{function}()")


def _refuse_on_sqlite() -> None:
    for table in TABLES:
        for event in ("update", "delete"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{event} BEFORE {event.upper()} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is written once'); END"
            )
    op.execute(
        f"CREATE TRIGGER journal_groups_balance BEFORE INSERT ON journal_groups "
        f"WHEN {UNBALANCED.format(group='NEW.id')} OR {TOO_FEW} "
        "BEGIN SELECT RAISE(ABORT, 'the entries of a group sum to zero in every currency'); END"
    )
    op.execute(
        f"CREATE TRIGGER journal_entries_open BEFORE INSERT ON journal_entries WHEN {CLOSED} "
        "BEGIN SELECT RAISE(ABORT, 'the group of this entry is closed'); END"
    )


def _refuse_on_postgresql() -> None:
    for table in TABLES:
        op.execute(
            f"CREATE TRIGGER {table}_written_once BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION tritium_refuse()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_stays BEFORE TRUNCATE ON {table} EXECUTE FUNCTION tritium_refuse()"
        )
    unequal = "the entries of a group sum to zero in every currency"
    _function("close_group", f"{UNBALANCED.format(group='NEW.id')} OR {TOO_FEW}", unequal)
    op.execute(
        "CREATE TRIGGER journal_groups_balance BEFORE INSERT ON journal_groups "
        "FOR EACH ROW EXECUTE FUNCTION tritium_journal_close_group()"
    )
    _function("open_group", CLOSED, "the group of this entry is closed")
    op.execute(
        "CREATE TRIGGER journal_entries_open BEFORE INSERT ON journal_entries "
        "FOR EACH ROW EXECUTE FUNCTION tritium_journal_open_group()"
    )
    # Another transaction does not see a group before its commit: what it puts in is judged at its own.
    _function("balance", UNBALANCED.format(group="NEW.group_id"), unequal)
    op.execute(
        "CREATE CONSTRAINT TRIGGER journal_entries_balance AFTER INSERT ON journal_entries "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tritium_journal_balance()"
    )


def _function(name: str, wrong: str, message: str) -> None:
    op.execute(
        f"CREATE FUNCTION tritium_journal_{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF {wrong} THEN RAISE EXCEPTION '{message}' "
        "USING ERRCODE = 'integrity_constraint_violation'; END IF; RETURN NEW; END $$"
    )
