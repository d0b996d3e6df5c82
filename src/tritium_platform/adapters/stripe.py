"""Stripe by its own SDK: every call has a deadline, and is tried again only under its idempotency key."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from tritium_platform.adapters.stripe_objects import (
    ATTEMPT,
    INVOICE,
    NAME,
    REFUND,
    charge_outcome,
    dispute_entry,
    dispute_outcome,
    payment_entry,
    provider_event,
    refund_entry,
    refund_outcome,
    refused_outcome,
)
from tritium_platform.billing.payment import (
    AttemptState,
    ChargeOutcome,
    Decline,
    RefundOutcome,
    RefundState,
)
from tritium_platform.breaker import Bulkhead, CircuitBreaker
from tritium_platform.errors import (
    AuthorizationError,
    MissingExtraError,
    OverloadedError,
    PlatformError,
    ValidationError,
)
from tritium_platform.resilience import Deadline, ResilientCaller
from tritium_platform.retry import RetryPolicy

try:
    import stripe
except ModuleNotFoundError as missing:
    raise MissingExtraError(extra="stripe", feature="Payments by Stripe") from missing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from pydantic import SecretStr

    from tritium_platform.billing.payment import (
        DisputeOutcome,
        PaymentAttempt,
        PaymentRefund,
        ProviderEvent,
        StatementItem,
    )
    from tritium_platform.values import Clock

Answer = TypeVar("Answer")
TOLERANCE = timedelta(seconds=300)
CALL_SECONDS = 30.0
ATTEMPT_SECONDS = 10.0
PLACES = 8
PAGE = 100
# Stripe counts these in other units than ISO 4217: ISK and UGX in hundredths, MGA whole.
COUNTED_OTHERWISE = frozenset({"ISK", "MGA", "UGX"})
# Two machines never agree on the time to the second.
CLOCKS_DIFFER = timedelta(minutes=10)


class RefusedByStripeError(ValidationError):
    """Stripe did not do it and never will: `body` is its error, `is_card` that the payer's bank refused."""

    def __init__(self, body: Mapping[str, Any], *, is_card: bool) -> None:
        super().__init__("Stripe refused the request.", code=str(body.get("code") or "")[:100])
        self.body = body
        self.is_card = is_card


class SignatureError(AuthorizationError):
    """A notice that Stripe did not sign, or did not sign just now."""


class StripeProvider:
    """Charges cards that tenants have left with Stripe.

    Args:
        secret_key: the account's secret or restricted key.
        webhook_secret: what signs the account's notices; None: none are taken.
        clock: the time.
        api_base: where the API is, if not at Stripe.
        attempt_seconds: how long one request may take.
    """

    name = NAME

    def __init__(
        self,
        *,
        secret_key: SecretStr,
        webhook_secret: SecretStr | None,
        clock: Clock,
        api_base: str | None = None,
        attempt_seconds: float = ATTEMPT_SECONDS,
    ) -> None:
        self._client = stripe.StripeClient(
            secret_key.get_secret_value(),
            base_addresses={"api": api_base} if api_base else {},
            max_network_retries=0,  # tried again by us, who know the deadline
            http_client=stripe.RequestsClient(timeout=attempt_seconds),
        )
        self._webhook_secret = webhook_secret
        self._clock = clock
        self._caller = ResilientCaller(
            neighbour="Stripe",
            clock=clock,
            policy=RetryPolicy(max_attempts=3, base_delay=0.2, attempt_seconds=attempt_seconds),
            breaker=CircuitBreaker(neighbour="Stripe", clock=clock),
            bulkhead=Bulkhead(neighbour="Stripe", places=PLACES),
        )

    async def charge(self, attempt: PaymentAttempt, *, description: str) -> ChargeOutcome:
        """Charge what an attempt asks for; under one idempotency key at most once."""
        if attempt.currency in COUNTED_OTHERWISE:
            return ChargeOutcome(
                state=AttemptState.FAILED, decline=Decline.HARD, code="currency_not_supported"
            )
        params: Any = {
            "amount": attempt.amount_minor,
            "currency": attempt.currency.lower(),
            "customer": attempt.customer,
            "payment_method": attempt.method,
            "confirm": True,
            "off_session": True,
            "metadata": {ATTEMPT: str(attempt.id), INVOICE: description},
            "expand": ["latest_charge.balance_transaction"],
        }
        options: Any = {"idempotency_key": attempt.idempotency_key}
        try:
            intent = await self._call(lambda: _plain(self._client.v1.payment_intents.create(params, options)))
        except RefusedByStripeError as error:
            return refused_outcome(error.body, is_card=error.is_card)
        return charge_outcome(intent, attempt=attempt)

    async def find_charge(self, attempt: PaymentAttempt) -> ChargeOutcome | None:
        """Return what became of an attempt; None if Stripe never heard of it."""
        intent = await self._find(attempt)
        return None if intent is None else charge_outcome(intent, attempt=attempt)

    async def cancel(self, attempt: PaymentAttempt) -> ChargeOutcome:
        """Give up an attempt that waits for the payer; return what became of it."""
        reference = attempt.reference or ""
        with suppress(RefusedByStripeError):  # it has come to an end meanwhile
            await self._call(lambda: _plain(self._client.v1.payment_intents.cancel(reference)))
        found = await self.find_charge(attempt)
        if found is None:
            raise PlatformError("Stripe has lost a payment.")
        return found

    async def refund(self, attempt: PaymentAttempt, refund: PaymentRefund) -> RefundOutcome:
        """Give money back; under one idempotency key at most once."""
        params: Any = {
            "payment_intent": attempt.reference,
            "amount": refund.amount_minor,
            "metadata": {REFUND: str(refund.id)},
        }
        options: Any = {"idempotency_key": refund.idempotency_key}
        try:
            made = await self._call(lambda: _plain(self._client.v1.refunds.create(params, options)))
        except RefusedByStripeError:
            return RefundOutcome(
                state=RefundState.FAILED,
                reference="",
                amount_minor=refund.amount_minor,
                refund_id=refund.id,
            )
        return refund_outcome(made)

    async def find_refunds(
        self,
        attempt: PaymentAttempt,
        known: Sequence[PaymentRefund],  # noqa: ARG002 - Stripe knows its own
    ) -> Sequence[RefundOutcome]:
        """Return every refund of an attempt."""
        params: Any = {"payment_intent": attempt.reference, "limit": PAGE}
        found = await self._call(lambda: _all(self._client.v1.refunds.list(params)))
        return [refund_outcome(each) for each in found]

    async def find_disputes(self, attempt: PaymentAttempt) -> Sequence[DisputeOutcome]:
        """Return every dispute of an attempt."""
        params: Any = {"payment_intent": attempt.reference, "limit": PAGE}
        found = await self._call(lambda: _all(self._client.v1.disputes.list(params)))
        return [dispute_outcome(each) for each in found]

    async def statement(self, *, start: datetime, end: datetime) -> Sequence[StatementItem]:
        """Return every payment, refund and dispute that began in a period, as Stripe lists them."""
        created = {"gte": int(start.timestamp()), "lt": int(end.timestamp())}
        params: Any = {"created": created, "limit": PAGE}
        v1 = self._client.v1
        lists = (
            (v1.payment_intents, payment_entry),
            (v1.refunds, refund_entry),
            (v1.disputes, dispute_entry),
        )
        found: list[StatementItem] = []
        for resource, read in lists:
            found += [read(each) for each in await self._listed(resource, params)]
        return found

    async def find_events(self, *, since: datetime) -> Sequence[ProviderEvent]:
        """Return what happened since a moment; Stripe keeps it for 30 days."""
        params: Any = {"created": {"gte": int(since.timestamp())}, "limit": PAGE}
        found = await self._call(lambda: _all(self._client.v1.events.list(params)))
        return [provider_event(each, clock=self._clock) for each in found]

    def read_event(self, body: bytes, *, signature: str) -> ProviderEvent:
        """Return the event in a notice.

        Raises:
            SignatureError: Stripe did not sign these bytes, or not within 300 s of now.
            ValidationError: what it signed is no event.
        """
        if self._webhook_secret is None:
            raise SignatureError("This account takes no notices.")
        secret = self._webhook_secret.get_secret_value()
        try:
            stripe.WebhookSignature.verify_header(body, signature, secret)
        except (stripe.SignatureVerificationError, UnicodeDecodeError, TypeError):  # text beyond ASCII
            raise SignatureError("The signature is not Stripe's.") from None
        # The SDK would judge the age by the machine's clock, and would take what is signed in the future.
        if abs(self._clock.now().timestamp() - _signed_at(signature)) > TOLERANCE.seconds:
            raise SignatureError("The signature is not of now.")
        try:
            return provider_event(_parse(body), clock=self._clock)
        except (KeyError, TypeError, AttributeError, ValueError):
            raise ValidationError("The body is not an event.") from None

    async def _find(self, attempt: PaymentAttempt) -> dict[str, Any] | None:
        expand = "latest_charge.balance_transaction"
        reference = attempt.reference
        if reference is not None:
            params: Any = {"expand": [expand]}
            return await self._call(
                lambda: _plain(self._client.v1.payment_intents.retrieve(reference, params))
            )
        # Listed, not searched: Stripe's search may be behind by minutes.
        query: Any = {
            "customer": attempt.customer,
            "created": {"gte": int((attempt.created_at - CLOCKS_DIFFER).timestamp())},
            "limit": PAGE,
            "expand": [f"data.{expand}"],
        }
        for intent in await self._call(lambda: _all(self._client.v1.payment_intents.list(query))):
            if (intent.get("metadata") or {}).get(ATTEMPT) == str(attempt.id):
                return intent
        return None

    async def _listed(self, resource: Any, params: dict[str, Any]) -> list[dict[str, Any]]:
        """Read a list to its end; each page is a call of its own, for a list may be long."""
        found: list[dict[str, Any]] = []
        while True:
            page, has_more = await self._call(partial(_page, resource, params))
            found += page
            if not (has_more and page):
                return found
            params = {**params, "starting_after": page[-1]["id"]}

    async def _call(self, ask: Callable[[], Answer]) -> Answer:
        """Ask Stripe on a thread; what it says wrong becomes an error of ours."""

        async def once(_: Deadline) -> Answer:
            return await asyncio.to_thread(_translated, ask)

        return await self._caller.call(once, deadline=Deadline.after(self._clock, seconds=CALL_SECONDS))


def _translated(ask: Callable[[], Answer]) -> Answer:
    """Run a call of the SDK; its own words are not passed on, for they may repeat a part of the key."""
    try:
        return ask()
    except (stripe.CardError, stripe.InvalidRequestError) as error:
        is_card = isinstance(error, stripe.CardError)
        raise RefusedByStripeError(_error_of(error.json_body), is_card=is_card) from None
    except (stripe.AuthenticationError, stripe.PermissionError):
        raise PlatformError("Stripe does not take our key, or it may not do this.") from None
    except stripe.IdempotencyError as error:
        if error.http_status == 409:  # noqa: PLR2004 - the first request under this key still runs
            raise OverloadedError("Stripe is still at it.") from None
        raise PlatformError("An idempotency key was used for another request.") from None
    except stripe.StripeError:
        raise OverloadedError("Stripe does not answer as it should.") from None


def _error_of(answer: Any) -> Mapping[str, Any]:
    error = answer.get("error") if isinstance(answer, dict) else None
    return error if isinstance(error, dict) else {}


def _plain(answer: stripe.StripeObject) -> dict[str, Any]:
    plain: dict[str, Any] = answer.to_dict()
    return plain


def _all(page: Any) -> list[dict[str, Any]]:
    return [_plain(each) for each in page.auto_paging_iter()]


def _page(resource: Any, params: Any) -> tuple[list[dict[str, Any]], bool]:
    page = resource.list(params)
    return [_plain(each) for each in page.data], bool(page.has_more)


def _parse(body: bytes) -> dict[str, Any]:
    event = json.loads(body)
    if not isinstance(event, dict):
        raise TypeError
    return event


def _signed_at(signature: str) -> int:
    """Return the timestamp of a header that was verified."""
    return next(int(part[2:]) for part in signature.split(",") if part.startswith("t="))
