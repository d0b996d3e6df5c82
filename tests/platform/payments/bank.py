"""The money of a payment provider that never was: intents, refunds, disputes, fees, events.

Written from Stripe's public description of its API; as much of it as our adapter calls.
"""

from __future__ import annotations

from typing import Any

DISPUTE_FEE = 15
DECLINES = {
    "pm_poor": "insufficient_funds",
    "pm_stolen": "stolen_card",
    "pm_confused": "a_word_that_nobody_knows",
}


class RefusedError(Exception):
    """What is answered instead: a status and an error in Stripe's form."""

    def __init__(self, status: int, kind: str, code: str, **more: Any) -> None:
        super().__init__(code)
        self.status = status
        self.body = {"error": {"type": kind, "code": code, "message": code, **more}}


class Bank:
    """Keeps what every customer has paid; `money` is what is ours of it."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self.intents: dict[str, dict[str, Any]] = {}
        self.refunds: dict[str, dict[str, Any]] = {}
        self.disputes: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.money = 0
        self.is_fee_late = False
        self._made = 0

    def charge(self, wish: dict[str, str]) -> dict[str, Any]:
        amount, method = int(wish["amount"]), wish["payment_method"]
        intent: dict[str, Any] = {
            "id": self._name("pi"),
            "object": "payment_intent",
            "amount": amount,
            "amount_received": 0,
            "currency": wish["currency"],
            "customer": wish["customer"],
            "created": self._now(),
            "status": "requires_payment_method",
            "metadata": _metadata(wish),
            "latest_charge": None,
            "last_payment_error": None,
        }
        self.intents[intent["id"]] = intent
        if method == "pm_asks":
            intent["status"] = "requires_action"
            self.tell("payment_intent.requires_action", intent)
            return intent
        if method in DECLINES:
            code = DECLINES[method]
            intent["last_payment_error"] = {"code": "card_declined", "decline_code": code}
            self.tell("payment_intent.payment_failed", intent)
            raise RefusedError(402, "card_error", "card_declined", decline_code=code, payment_intent=intent)
        return self._take(intent)

    def confirm(self, reference: str) -> None:
        """Let the payer do what was asked of them."""
        if self.intents[reference]["status"] == "requires_action":
            self._take(self.intents[reference])

    def cancel(self, reference: str) -> dict[str, Any]:
        intent = self._intent(reference)
        if intent["status"] in {"succeeded", "canceled"}:
            raise RefusedError(400, "invalid_request_error", "payment_intent_unexpected_state")
        intent["status"] = "canceled"
        self.tell("payment_intent.canceled", intent)
        return intent

    def refund(self, wish: dict[str, str]) -> dict[str, Any]:
        intent = self._intent(wish["payment_intent"])
        amount = int(wish["amount"])
        if any(self._of(self.disputes, intent["id"])):
            raise RefusedError(400, "invalid_request_error", "charge_disputed")
        if amount > self.kept(intent["id"]):
            raise RefusedError(400, "invalid_request_error", "amount_too_large")
        refund = {
            "id": self._name("re"),
            "object": "refund",
            "payment_intent": intent["id"],
            "amount": amount,
            "currency": intent["currency"],
            "status": "succeeded",
            "created": self._now(),
            "metadata": _metadata(wish),
        }
        self.refunds[refund["id"]] = refund
        self.money -= amount
        self.tell("charge.refunded", {"object": "charge", "payment_intent": intent["id"], "metadata": {}})
        return refund

    def bounce(self, reference: str) -> None:
        """Let a refund that succeeded fail after all."""
        refund = self.refunds[reference]
        if refund["status"] == "succeeded":
            refund["status"] = "failed"
            self.money += refund["amount"]
            self.tell("refund.failed", refund)

    def dispute(self, reference: str) -> None:
        """Let the payer's bank take a payment back."""
        intent, amount = self.intents[reference], self.kept(reference)
        if intent["status"] != "succeeded" or not amount or any(self._of(self.disputes, reference)):
            return
        dispute = {
            "id": self._name("dp"),
            "object": "dispute",
            "payment_intent": reference,
            "amount": amount,
            "currency": intent["currency"],
            "status": "needs_response",
            "created": self._now(),
            "metadata": {},
            "balance_transactions": [
                {"amount": -amount, "fee": DISPUTE_FEE, "net": -amount - DISPUTE_FEE}
                | {"currency": intent["currency"]}
            ],
        }
        self.disputes[dispute["id"]] = dispute
        self.money -= amount + DISPUTE_FEE
        self.tell("charge.dispute.created", dispute)

    def decide(self, reference: str, *, is_won: bool) -> None:
        """End a dispute; who wins it gets the money back, and never the fee."""
        dispute = self.disputes[reference]
        if dispute["status"] != "needs_response":
            return
        dispute["status"] = "won" if is_won else "lost"
        if is_won:
            back = {"amount": dispute["amount"], "fee": 0, "net": dispute["amount"]}
            dispute["balance_transactions"].append(back | {"currency": dispute["currency"]})
            self.money += dispute["amount"]
        self.tell("charge.dispute.closed", dispute)

    def show_fees(self) -> None:
        """Name the fees that were not known yet."""
        for intent in self.intents.values():
            charge = intent["latest_charge"]
            if charge and charge["balance_transaction"] is None:
                charge["balance_transaction"] = {"fee": fee_of(intent["amount"])} | {
                    "currency": intent["currency"]
                }
                self.tell("charge.updated", {"object": "charge", "payment_intent": intent["id"]})

    def kept(self, reference: str) -> int:
        """Return what of a payment did not go back."""
        refunded = sum(
            each["amount"] for each in self._of(self.refunds, reference) if each["status"] == "succeeded"
        )
        return int(self.intents[reference]["amount_received"]) - refunded

    def tell(self, kind: str, about: dict[str, Any]) -> None:
        self.events.append(
            {
                "id": self._name("evt"),
                "object": "event",
                "type": kind,
                "created": self._now(),
                "data": {"object": dict(about)},
            }
        )

    def listed(self, kind: str, query: dict[str, str]) -> list[dict[str, Any]]:
        """Return what a list of the API shows, newest first."""
        found = {
            "payment_intents": list(self.intents.values()),
            "refunds": list(self.refunds.values()),
            "disputes": list(self.disputes.values()),
            "events": self.events,
        }[kind]
        return [
            each
            for each in reversed(found)
            if int(query.get("created[gte]", 0)) <= each["created"] < int(query.get("created[lt]", 2**62))
            and all(each.get(name) == query[name] for name in ("customer", "payment_intent") if name in query)
        ]

    def _take(self, intent: dict[str, Any]) -> dict[str, Any]:
        amount = intent["amount"]
        balance = {"fee": fee_of(amount), "currency": intent["currency"]}
        intent["status"], intent["amount_received"] = "succeeded", amount
        intent["latest_charge"] = {
            "id": self._name("ch"),
            "object": "charge",
            "balance_transaction": None if self.is_fee_late else balance,
        }
        self.money += amount - fee_of(amount)
        self.tell("payment_intent.succeeded", intent)
        return intent

    def _intent(self, reference: str) -> dict[str, Any]:
        if reference not in self.intents:
            raise RefusedError(404, "invalid_request_error", "resource_missing")
        return self.intents[reference]

    @staticmethod
    def _of(kept: dict[str, dict[str, Any]], reference: str) -> list[dict[str, Any]]:
        return [each for each in kept.values() if each["payment_intent"] == reference]

    def _name(self, prefix: str) -> str:
        self._made += 1
        return f"{prefix}_{self._made:08d}"

    def _now(self) -> int:
        return int(self._clock.now().timestamp())


def fee_of(amount: int) -> int:
    return amount * 29 // 1000 + 1


def _metadata(wish: dict[str, str]) -> dict[str, str]:
    return {name[9:-1]: value for name, value in wish.items() if name.startswith("metadata[")}
