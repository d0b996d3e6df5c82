"""Notices that no provider sent: forged, stale, changed, oversized; refused, and nothing is left of them."""

from __future__ import annotations

import json
import time

import httpx2
import pytest
import stripe
from pydantic import SecretStr
from starlette.requests import Request

from tritium_platform.api.webhooks import receive_notice
from tritium_platform.errors import ValidationError

SECRET = "whsec_of_the_attacked"
NOTICES = "/webhooks/stripe"
EVENT = {
    "id": "evt_1",
    "object": "event",
    "type": "payment_intent.succeeded",
    "data": {"object": {"object": "payment_intent", "id": "pi_1", "metadata": {}}},
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory, harness):
    """A platform with Stripe turned on; nothing of it is asked for."""
    config = harness.platform_config(
        tmp_path_factory.mktemp("platform"),
        stripe_secret_key=SecretStr("sk_test_attacked"),
        stripe_webhook_secret=SecretStr(SECRET),
        stripe_api_base="http://127.0.0.1:1",
    )
    platform, stop = harness.serve(config)
    yield platform
    stop()


def signed(body, *, secret=SECRET, at=None):
    return stripe.WebhookSignature.generate_signature_header(
        body, secret, timestamp=int(time.time() if at is None else at)
    )


def send(shop, body, signature):
    headers = {"stripe-signature": signature} if signature is not None else {}
    return httpx2.post(f"{shop.url}{NOTICES}", content=body, headers=headers, timeout=30)


def kept(shop):
    return shop.run(shop.platform.desk.payments.inbox.events.pending(limit=100))


GOOD = json.dumps(EVENT)
NOW = time.time()
FORGED = {
    "no signature": (GOOD, None),
    "an empty one": (GOOD, ""),
    "nonsense": (GOOD, "t=now,v1=\u00df".encode("latin-1").decode("ascii", "ignore")),
    "letters that no signature has": (GOOD, "t=1,v1=\u00df".encode()),
    "another secret": (GOOD, signed(GOOD, secret="whsec_guessed")),
    "another body": (GOOD.replace("pi_1", "pi_2"), signed(GOOD)),
    "another scheme": (GOOD, signed(GOOD).replace("v1=", "v0=")),
    "another time": (GOOD, signed(GOOD, at=NOW - 100).replace(f"t={int(NOW - 100)}", f"t={int(NOW)}")),
    "an old one": (GOOD, signed(GOOD, at=NOW - 400)),
    "a future one": (GOOD, signed(GOOD, at=NOW + 4000)),
    "bytes that are no text": (b"\xff\xfe", signed("x")),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_stripe_did_not_sign_just_now_leaves_nothing(shop, name):
    answer = send(shop, *FORGED[name])
    assert answer.status_code == 403, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert SECRET not in answer.text
    assert kept(shop) == []


@pytest.mark.parametrize(
    "body", ["[]", "{}", "null", '"x"', '{"id": 1}', "{" * 1000, '{"id":"e","type":"t","data":[]}']
)
def test_what_is_signed_and_no_event_is_refused(shop, body):
    assert send(shop, body, signed(body)).status_code == 422
    assert kept(shop) == []


def test_a_sender_that_hangs_up_before_the_end_is_no_fault_of_ours(shop):
    async def hung_up():
        return {"type": "http.disconnect"}

    request = Request({"type": "http", "headers": []}, hung_up)
    with pytest.raises(ValidationError):
        shop.run(receive_notice(shop.platform, request))


def test_an_oversized_notice_is_refused_before_it_is_read(shop):
    body = json.dumps(EVENT | {"padding": "x" * 300_000})
    assert send(shop, body, signed(body)).status_code == 413
    assert kept(shop) == []


def test_a_true_notice_is_kept_once_and_answered_every_time(shop):
    for _ in range(3):
        assert send(shop, GOOD, signed(GOOD)).status_code == 200
    (event,) = kept(shop)
    assert (event.event_id, event.reference, event.attempt_id) == ("evt_1", "pi_1", None)


def test_other_methods_and_an_account_without_stripe_have_nothing_there(shop, running):
    assert httpx2.get(f"{shop.url}{NOTICES}").status_code == 405
    assert send(running, GOOD, signed(GOOD)).status_code == 404


def test_no_secret_is_shown_by_the_configuration(shop):
    shown = repr(shop.platform.config) + str(shop.platform.config.model_dump())
    assert "sk_test_attacked" not in shown
    assert SECRET not in shown
