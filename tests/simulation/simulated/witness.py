"""What clients were told, and whether the books say the same."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass


@dataclass
class Request:
    """One attempt of a customer, as the customer knows it.

    `state` is `sent`, `refused`, `admitted`, or `ended`: then its settlement was waited for. `tokens` were
    handed out; `event_id` is given if the call may run twice.
    """

    label: str
    tenant_id: object
    event_id: object = None
    state: str = "sent"
    tokens: int = 0
    is_complete: bool = False


class Witness:
    """Collects what was told; it outlives every process."""

    def __init__(self):
        self.requests = {}
        self.payments = {}  # key -> (invoice, amount) that was acknowledged
        self.grants = {}  # key -> grant that was acknowledged
        self.documents = {}  # invoice -> bytes that somebody has read
        self.leaks = []

    def begin(self, label, tenant_id, *, event_id=None):
        """Note that a request is sent."""
        request = self.requests[label] = Request(label, tenant_id, event_id)
        return request

    def check(self, tables, *, is_final):
        """Compare with what is committed; before the end, the spool may hold what the tables lack."""
        assert not self.leaks, f"I10: {self.leaks}"
        uses = defaultdict(list)
        for intent, _ in tables["audit_outbox"].values():
            if intent.action.startswith("completion.") and intent.action != "completion.refuse":
                uses[intent.details["request_id"]].append(intent)
        by_id = {record.id: record for record in tables["usage_records"].values()}
        for label in uses:
            assert label in self.requests, f"I2: the books know {label}, which nobody asked for"
        for request in self.requests.values():
            self._check_request(request, uses.get(request.label, []), by_id, is_final=is_final)
        self._check_events(tables, is_final=is_final)
        self._check_money(tables)

    def _check_request(self, request, intents, by_id, *, is_final):
        assert len(intents) <= 1, f"I1: {request} is in the books {len(intents)} times"
        if request.state == "refused":
            assert not intents, f"I2: {request} was refused and counted"
        if request.state == "ended" and is_final:
            assert intents, f"I1: {request} was acknowledged and is not in the books"
        if not intents or request.event_id is not None:
            return
        record = by_id.get(intents[0].id)
        assert record is not None, f"I1: {request} has a leaf and no record"
        said = (record.tenant_id, record.quantities.output_tokens)
        if request.state == "ended":
            assert said == (request.tenant_id, request.tokens), f"I1: {request} is recorded as {record}"
            assert not request.is_complete or record.outcome == "success", f"I1: {request} is {record}"
        assert record.quantities.output_tokens >= request.tokens, f"I1: {request} is recorded as {record}"

    def _check_events(self, tables, *, is_final):
        """What may run twice is counted once, with the tokens of one of its attempts."""
        attempts = defaultdict(list)
        for request in self.requests.values():
            if request.event_id is not None:
                attempts[request.event_id.hex].append(request)
        records = defaultdict(list)
        for record in tables["usage_records"].values():
            if record.event_id in attempts and record.quantities.output_tokens:
                records[record.event_id].append(record)
        for event_id, mine in attempts.items():
            found = records.get(event_id, [])
            assert len(found) <= 1, f"I1: {mine} is counted {len(found)} times"
            has_ended = any(each.state == "ended" and each.tokens for each in mine)
            assert found or not (has_ended and is_final), f"I1: {mine} is not counted"

    def _check_money(self, tables):
        payments = Counter(
            (each.invoice_id, each.amount_minor, each.reference)
            for each in tables["invoice_payments"].values()
        )
        for key, (invoice_id, amount) in self.payments.items():
            assert payments[invoice_id, amount, key] == 1, f"I7: payment {key} was acknowledged"
        assert not payments or max(payments.values()) == 1, f"I7: a payment was recorded twice: {payments}"
        grants = Counter(each.reason for each in tables["credit_grants"].values())
        for key in self.grants:
            assert grants[key] == 1, f"I1: credit {key} was acknowledged and is there {grants[key]} times"
        for invoice_id, body in self.documents.items():
            assert tables["invoice_documents"][invoice_id].body == body, "I6: a document has changed"
