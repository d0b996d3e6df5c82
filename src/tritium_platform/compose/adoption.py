"""Gives a database the audit log of another data directory, when the former one is lost."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from tritium_platform.adapters.sql.audit_outbox import SqlAuditOutbox
from tritium_platform.adapters.sql.audit_owner import SqlAuditOwner
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.migrate import migrate
from tritium_platform.audit.identity import identify
from tritium_platform.audit.log import lock_for_writing
from tritium_platform.audit.model import ActionOutcome, AuditIntent, ComplianceImpact, ResourceIdentifier
from tritium_platform.errors import ConflictError
from tritium_platform.values import SystemClock, uuid7

if TYPE_CHECKING:
    from uuid import UUID

    from tritium_platform.audit.identity import LogIdentity
    from tritium_platform.config import PlatformConfig


async def adopt_audit_log(config: PlatformConfig, *, instead_of: UUID) -> LogIdentity:
    """Make the log of the data directory the database's own; an entry of it says so.

    Raises:
        ConflictError: the log of the database is not `instead_of`.
        ResourceError: a server runs on the data directory.
    """
    clock = SystemClock()
    config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    await asyncio.to_thread(migrate, config.resolved_database_url)
    database = Database(config.resolved_database_url)
    lock = lock_for_writing(config.audit_dir)
    try:
        ours, owner = identify(config.audit_dir), SqlAuditOwner(database, clock=clock)
        async with database.unit_of_work():
            former = await owner.bind(ours)
            if former.id != instead_of:
                raise ConflictError(
                    f"The audit log of the database is {former.id} in {former.directory}, not {instead_of}."
                )
            await owner.replace(ours)
            intent = AuditIntent(
                id=uuid7(clock),
                event_id=uuid7(clock),
                occurred_at=clock.now(),
                action="audit.adopt",
                resource_affected=ResourceIdentifier("audit_log", str(ours.id)),
                outcome=ActionOutcome.SUCCESS,
                compliance_impact=ComplianceImpact.SECURITY,
                details={"instead_of": str(former.id), "directory": former.directory},
            )
            await SqlAuditOutbox(database).add(intent)
    finally:
        os.close(lock)
        await database.close()
    return ours
