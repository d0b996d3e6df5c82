"""Bank transfers: the payer moves the money, and the operator says that it came."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_platform.billing.payment import (
    AttemptState,
    ChargeOutcome,
    Decline,
    RefundOutcome,
    RefundState,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tritium_platform.billing.payment import (
        DisputeOutcome,
        PaymentAttempt,
        PaymentRefund,
        ProviderEvent,
        StatementItem,
    )


class ManualProvider:
    """Waits for transfers; a refund is what the operator has sent back."""

    name = "manual"

    async def charge(self, attempt: PaymentAttempt, *, description: str) -> ChargeOutcome:  # noqa: ARG002
        """Wait for a transfer that names the invoice."""
        return ChargeOutcome(state=AttemptState.REQUIRES_ACTION, code="bank_transfer")

    async def find_charge(self, attempt: PaymentAttempt) -> ChargeOutcome | None:  # noqa: ARG002
        """Go on waiting: only the operator sees the account."""
        return ChargeOutcome(state=AttemptState.REQUIRES_ACTION, code="bank_transfer")

    async def cancel(self, attempt: PaymentAttempt) -> ChargeOutcome:  # noqa: ARG002
        """Wait no more."""
        return ChargeOutcome(state=AttemptState.FAILED, decline=Decline.HARD, code="canceled")

    async def refund(self, attempt: PaymentAttempt, refund: PaymentRefund) -> RefundOutcome:  # noqa: ARG002
        """Take the operator's word."""
        return _sent(refund)

    async def find_refunds(
        self,
        attempt: PaymentAttempt,  # noqa: ARG002
        known: Sequence[PaymentRefund],
    ) -> Sequence[RefundOutcome]:
        """Return what the operator said."""
        return [_sent(each) for each in known if each.state is not RefundState.FAILED]

    async def find_disputes(self, attempt: PaymentAttempt) -> Sequence[DisputeOutcome]:  # noqa: ARG002
        """Return none: a transfer is not disputed."""
        return ()

    async def statement(self, *, start: datetime, end: datetime) -> Sequence[StatementItem] | None:  # noqa: ARG002
        """Return None: what the operator recorded is all that is known of an account at a bank."""
        return None

    async def find_events(self, *, since: datetime) -> Sequence[ProviderEvent]:  # noqa: ARG002
        """Return none."""
        return ()


def _sent(refund: PaymentRefund) -> RefundOutcome:
    return RefundOutcome(
        state=RefundState.SUCCEEDED,
        reference=f"manual:{refund.id}",
        amount_minor=refund.amount_minor,
        refund_id=refund.id,
    )
