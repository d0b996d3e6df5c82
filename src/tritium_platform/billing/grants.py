"""Prepaid credit: granted when it is paid for, used up by invoices, and what is left when it expires."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.billing.invoice import CreditGrant
from tritium_platform.billing.journal import JournalGroup, entries_of
from tritium_platform.billing.settlement import require_text
from tritium_platform.errors import ValidationError
from tritium_platform.values import CURRENCY_DIGITS, uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.billing.books import BillingBooks

LARGEST_AMOUNT = 2**53 - 1
MOST_PRIORITY = 1000
AT_ONCE = 100


class GrantService:
    """Grants prepaid credit and takes it back when it expires."""

    def __init__(self, *, books: BillingBooks) -> None:
        self._books = books

    async def grant(
        self,
        tenant_id: UUID,
        *,
        currency: str,
        amount_minor: int,
        reason: str,
        priority: int = 0,
        expires_at: datetime | None = None,
        key: str | None,
        actor: str,
    ) -> CreditGrant:
        """Grant credit that was paid for; a second call with its key returns what the first one made.

        Raises:
            ValidationError: the amount, the currency, the priority or the expiry cannot be.
        """
        _require(currency, amount_minor=amount_minor, priority=priority)
        require_text(reason, field="reason")
        now = self._books.clock.now()
        grant = CreditGrant(
            id=uuid7(self._books.clock),
            tenant_id=tenant_id,
            currency=currency,
            amount_minor=amount_minor,
            remaining_minor=amount_minor,
            reason=reason,
            created_at=now,
            priority=priority,
            expires_at=expires_at,
        )
        request = (
            "grant",
            str(tenant_id),
            currency,
            str(amount_minor),
            reason,
            str(priority),
            str(expires_at),
        )
        async with self._books.unit_of_work():
            earlier = await self._books.begin(key, request=request, subject_id=grant.id)
            if earlier is not None:
                return next(each for each in await self.list(tenant_id) if each.id == earlier)
            if expires_at is not None and (expires_at.tzinfo is None or expires_at <= now):
                raise ValidationError(
                    "Credit expires at an instant to come, with a time zone.", field="expires_at"
                )
            await self._books.credits.add(grant)
            await self._post(grant, "grant", cash_clearing=amount_minor, customer_credit=-amount_minor)
            await self._note("credit.grant", grant, amount_minor=amount_minor, actor=actor)
        return grant

    async def list(
        self, tenant_id: UUID, *, limit: int | None = None, after: UUID | None = None
    ) -> Sequence[CreditGrant]:
        """Return a tenant's grants, oldest first, those after `after`; no limit: all."""
        return await self._books.credits.list(tenant_id, limit=limit, after=after)

    async def expire(self) -> int:
        """Take what is left of grants that expired: it is income now; return of how many."""
        count = 0
        while True:
            async with self._books.unit_of_work():
                expired = await self._books.credits.expire(at=self._books.clock.now(), limit=AT_ONCE)
                for grant in expired:
                    left = grant.remaining_minor
                    await self._post(grant, "expire", customer_credit=left, breakage=-left)
                    await self._note("credit.expire", grant, amount_minor=left, actor="calendar")
            count += len(expired)
            if len(expired) < AT_ONCE:
                return count

    async def _post(self, grant: CreditGrant, operation: str, **amounts: int) -> None:
        identity = uuid7(self._books.clock)
        # What a void invoice gives back can expire once more: only granting happens once per grant.
        suffix = grant.id if operation == "grant" else f"{grant.id}:{identity}"
        await self._books.journal.post(
            JournalGroup(
                id=identity,
                operation_id=f"{operation}:{suffix}",
                tenant_id=grant.tenant_id,
                description=f"credit: {operation}",
                occurred_at=self._books.clock.now(),
                entries=entries_of(grant.currency, **amounts),
            )
        )

    async def _note(self, action: str, grant: CreditGrant, *, amount_minor: int, actor: str) -> None:
        await self._books.note(
            action,
            subject=ResourceIdentifier("credit_grant", str(grant.id)),
            tenant_id=grant.tenant_id,
            actor=actor,
            currency=grant.currency,
            amount_minor=str(amount_minor),
        )


def _require(currency: str, *, amount_minor: int, priority: int) -> None:
    if currency not in CURRENCY_DIGITS:
        raise ValidationError(f"The currency '{currency[:10]}' is not known.", field="currency")
    if type(amount_minor) is not int or not 0 < amount_minor <= LARGEST_AMOUNT:
        raise ValidationError("Credit is a whole number of minor units above 0.", field="amount_minor")
    if type(priority) is not int or not 0 <= priority <= MOST_PRIORITY:
        raise ValidationError(f"A priority lies between 0 and {MOST_PRIORITY}.", field="priority")
