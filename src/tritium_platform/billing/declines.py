"""Which declines may pass later, and which never will."""

from __future__ import annotations

from tritium_platform.billing.payment import Decline

# What banks say when money or their own machines are short; the words are those of card networks by Stripe.
SOFT = frozenset(
    {
        "approve_with_id",
        "card_declined",
        "card_velocity_exceeded",
        "do_not_honor",
        "generic_decline",
        "insufficient_funds",
        "issuer_not_available",
        "not_received",
        "processing_error",
        "reenter_transaction",
        "try_again_later",
        "withdrawal_count_limit_exceeded",
    }
)


def classify_decline(code: str) -> Decline:
    """Return the class of a decline; one that nobody knows is hard, so nobody is charged on a guess."""
    return Decline.SOFT if code in SOFT else Decline.HARD
