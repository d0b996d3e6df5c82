"""Stripe's SDK against a server of others that knows Stripe's API: pay, decline, refund, signed notices."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread

import httpx2
import pytest
import stripe
from pydantic import SecretStr

from tritium_platform.adapters.stripe import SignatureError, StripeProvider
from tritium_platform.billing.payment import (
    AttemptState,
    Decline,
    PaymentAttempt,
    PaymentRefund,
    RefundState,
    idempotency_key,
)
from tritium_platform.values import SystemClock, uuid7

HERE = Path(__file__).resolve().parents[2]
KEY = "sk_test_localstripe"
SECRET = "whsec_of_localstripe"
pytestmark = pytest.mark.toolchain


class _Listener(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.notices.put((body, self.headers["stripe-signature"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def notices():
    """A listener for notices; (its address, what came)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Listener)
    server.notices = Queue()
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", server.notices
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def address(notices, tmp_path_factory):
    """The program, in a process of its own; `make test` installs it beside the repository."""
    beside = HERE / ".venv-localstripe" / "bin" / "python"
    python = os.environ.get("TRITIUM_LOCALSTRIPE_PYTHON") or (str(beside) if beside.is_file() else None)
    if python is None:
        pytest.skip("localstripe is not installed: make .stamps/localstripe")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("localstripe") / "log").open("w")
    command = [python, "-m", "localstripe", "--from-scratch", "--port", str(port)]
    process = subprocess.Popen(
        command, stdout=log, stderr=log, cwd=log.name.rpartition("/")[0], env={"PATH": os.defpath}
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while True:
        try:
            told = {"url": notices[0], "secret": SECRET}
            httpx2.post(f"{url}/_config/webhooks/ours", data=told, timeout=5).raise_for_status()
            break
        except httpx2.TransportError:
            assert process.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
    yield url
    process.terminate()
    process.wait(10)
    log.close()


@pytest.fixture
def provider(address):
    return StripeProvider(
        secret_key=SecretStr(KEY), webhook_secret=SecretStr(SECRET), clock=SystemClock(), api_base=address
    )


def attempt_with(address, card):
    """Return an attempt of a customer who has left a card."""
    client = stripe.StripeClient(KEY, base_addresses={"api": address})
    customer = client.v1.customers.create({"description": "Acme"})
    number = {"number": card, "exp_month": 12, "exp_year": 2040, "cvc": "123"}
    method = client.v1.payment_methods.create({"type": "card", "card": number})
    client.v1.payment_methods.attach(method.id, {"customer": customer.id})
    invoice_id, now = uuid7(), datetime.now(UTC)
    return PaymentAttempt(
        id=uuid7(),
        invoice_id=invoice_id,
        tenant_id=uuid7(),
        number=1,
        provider="stripe",
        idempotency_key=idempotency_key(invoice_id, 1),
        state=AttemptState.CREATED,
        amount_minor=1234,
        currency="EUR",
        created_at=now,
        changed_at=now,
        customer=customer.id,
        method=method.id,
    )


def settled(attempt, outcome):
    return PaymentAttempt(
        **{name: getattr(attempt, name) for name in attempt.__slots__} | {"reference": outcome.reference}
    )


async def test_a_card_that_is_good_pays(address, provider):
    attempt = attempt_with(address, "4242424242424242")
    outcome = await provider.charge(attempt, description="INV-00000001")
    assert (outcome.state, outcome.received_minor) == (AttemptState.SUCCEEDED, 1234)
    # By its reference: localstripe cannot list the payments of a customer; the double can.
    found = await provider.find_charge(settled(attempt, outcome))
    assert (found.state, found.reference) == (AttemptState.SUCCEEDED, outcome.reference)


async def test_a_card_that_is_declined_says_why(address, provider):
    attempt = attempt_with(address, "4000000000000341")
    outcome = await provider.charge(attempt, description="INV-00000002")
    assert (outcome.state, outcome.code, outcome.decline) == (
        AttemptState.FAILED,
        "card_declined",
        Decline.SOFT,
    )


async def test_money_goes_back_in_parts_and_never_more_than_came(address, provider):
    attempt = attempt_with(address, "4242424242424242")
    attempt = settled(attempt, await provider.charge(attempt, description="INV-00000003"))
    made = []
    for number, amount in enumerate((1000, 234), start=1):
        refund = PaymentRefund(
            id=uuid7(),
            attempt_id=attempt.id,
            invoice_id=attempt.invoice_id,
            tenant_id=attempt.tenant_id,
            number=number,
            idempotency_key=idempotency_key(attempt.id, number),
            state=RefundState.CREATED,
            amount_minor=amount,
            reason="sorry",
            created_at=attempt.created_at,
            changed_at=attempt.created_at,
        )
        outcome = await provider.refund(attempt, refund)
        assert (outcome.state, outcome.refund_id) == (RefundState.SUCCEEDED, refund.id)
        made.append(outcome)
    found = await provider.find_refunds(attempt, [])
    assert sorted(found, key=lambda each: each.reference) == sorted(made, key=lambda each: each.reference)


async def test_a_notice_is_proven_by_its_signature_and_a_changed_one_is_refused(address, provider, notices):
    attempt = attempt_with(address, "4242424242424242")
    outcome = await provider.charge(attempt, description="INV-00000004")
    while True:
        body, signature = await asyncio.to_thread(notices[1].get, timeout=30)
        event = provider.read_event(body, signature=signature)
        if (event.kind, event.reference) == ("payment_intent.succeeded", outcome.reference):
            break
    assert event.attempt_id == attempt.id
    for wrong in (body.replace(b"1234", b"1235"), body + b" ", body[:-1], b""):
        with pytest.raises(SignatureError):
            provider.read_event(wrong, signature=signature)
    for wrong in ("", "t=1", signature.replace("v1=", "v1=0"), signature.replace("v1=", "v0=")):
        with pytest.raises(SignatureError):
            provider.read_event(body, signature=wrong)


def test_it_is_never_imported():
    assert "localstripe" not in sys.modules
