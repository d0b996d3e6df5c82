"""What payment providers say they took: bank transfers here, others beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tritium_platform.billing.journal import Account

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from tritium_platform.billing.invoice import Payment
    from tritium_platform.billing.journal import JournalEntry


class Movements(Protocol):
    """Reads the journal."""

    async def movements(self, operations: Sequence[str]) -> Mapping[str, Sequence[JournalEntry]]:
        """Return the entries of operations that are in the journal."""


class ManualProvider:
    """Bank transfers: the operator saw the money come, so the cash account is the statement there is."""

    def __init__(self, journal: Movements) -> None:
        self._journal = journal

    async def taken(self, payments: Sequence[Payment]) -> Mapping[UUID, int]:
        """Return what the cash account took for payments."""
        names = {f"payment:{payment.id}": payment.id for payment in payments}
        found = await self._journal.movements(list(names))
        return {
            names[name]: sum(
                entry.amount_minor for entry in entries if entry.account is Account.CASH_CLEARING
            )
            for name, entries in found.items()
        }
