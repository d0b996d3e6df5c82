"""Security in the running platform: addresses behind a proxy on this machine, as uvicorn reads them."""

from __future__ import annotations

import io
import itertools
import zipfile

import httpx2
import pytest

from tritium_platform.tenancy.keys import generate_token

ADDRESSES = (f"198.51.100.{number}" for number in itertools.count(1))


@pytest.fixture
def address():
    """An address that no other test uses."""
    return next(ADDRESSES)


@pytest.fixture
def ask(running, address):
    """Ask for the models with a key, from the test's address or another; return the answer."""
    with httpx2.Client(base_url=running.url, timeout=30) as client:

        def get(key, *, path="/v1/models", source=address):
            headers = {"authorization": f"Bearer {key}", "x-forwarded-for": source}
            return client.get(path, headers=headers)

        yield get


def events_from(running, address):
    with running.admin() as operator:
        events = operator.get("/api/v1/security/events?limit=1000").raise_for_status().json()
    return [event for event in events if event["source_ip"] == address]


def guess_until_blocked(ask, harness, **where):
    def is_refused() -> bool:
        return ask(generate_token().plaintext, **where).status_code == 429

    harness.wait_until(is_refused)


def test_a_guesser_is_refused_with_a_time_to_retry_in_both_forms(running, harness, ask, address):
    guess_until_blocked(ask, harness)
    answer = ask("wrong")
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 15 * 60
    assert answer.headers["x-request-id"]
    assert answer.json()["error"]["code"] == "source_blocked"
    problem = ask("wrong", path="/api/v1/account")
    assert problem.headers["content-type"] == "application/problem+json"
    assert (problem.status_code, problem.json()["code"]) == (429, "source_blocked")
    assert ask("wrong", source="203.0.113.200").status_code == 401
    kinds = {(event["event_type"], event["reason"]) for event in events_from(running, address)}
    assert kinds == {("authentication_failure", "invalid_token")}


def test_whoever_worked_behind_that_address_before_goes_on(running, harness, ask):
    _, colleague = running.tenant(name="Colleague")
    _, newcomer = running.tenant(name="Newcomer")
    assert ask(colleague).status_code == 200
    guess_until_blocked(ask, harness)
    assert ask(colleague).status_code == 200
    assert ask(colleague, path="/api/v1/account").status_code == 200
    assert ask(newcomer).status_code == 429
    # A key id is no secret: to name it is not to have it.
    assert ask(colleague[:-12] + "0" * 12).status_code in {401, 429}


def test_health_and_the_operator_are_never_refused(running, harness, ask, address):
    guess_until_blocked(ask, harness)
    assert ask("none", path="/health/live").status_code == 200
    assert ask("none", path="/health/ready").status_code == 200
    assert ask(running.platform.admin_token, path="/api/v1/tenants").status_code == 200


def test_the_operator_sees_blocks_and_lifts_them(running, harness, ask, address):
    guess_until_blocked(ask, harness)
    with running.admin() as operator:
        blocks = operator.get("/api/v1/security/blocks").raise_for_status().json()
        assert address in {block["address"] for block in blocks}
        assert operator.delete(f"/api/v1/security/blocks/{address}").status_code == 204
        assert operator.delete(f"/api/v1/security/blocks/{address}").status_code == 404
    assert ask("wrong").status_code == 401


def test_an_attacker_of_ipv6_is_one_network(running, harness, ask):
    numbers = itertools.count(1)

    def is_refused() -> bool:
        source = f"2001:db8:7:7::{next(numbers):x}"
        return ask(generate_token().plaintext, source=source).status_code == 429

    harness.wait_until(is_refused)
    assert ask("wrong", source="2001:db8:7:7:ffff::1").status_code == 429
    assert ask("wrong", source="2001:db8:7:8::1").status_code == 401
    with running.admin() as operator:
        assert operator.delete("/api/v1/security/blocks/2001:db8:7:7::/64").status_code == 204


def test_the_machine_itself_is_never_blocked(running, ask):
    for _ in range(40):
        assert ask(generate_token().plaintext, source="127.0.0.1").status_code == 401


def test_a_key_that_reaches_for_what_is_not_its_own_is_noted_and_in_the_end_revoked(
    running, harness, ask, address
):
    tenant_id, key = running.tenant(name="Prober")
    _, bystander = running.tenant(name="Bystander")
    numbers = itertools.count()

    def is_revoked() -> bool:
        return ask(key, path=f"/api/v1/models/model-{next(numbers)}").status_code == 401

    assert ask(bystander).status_code == 200
    harness.wait_until(is_revoked)
    assert next(numbers) > 200
    violations = [event for event in events_from(running, address) if event["tenant_id"] == tenant_id]
    assert {event["event_type"] for event in violations} == {"authorization_violation"}
    assert "/api/v1/models/model-1" in {event["resource"] for event in violations}
    assert ask(bystander).status_code == 200


def escaping_archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("../../etc/cron.d/evil", b"x")
    return content.getvalue()


def test_files_that_attack_their_reader_are_told_and_cost_the_key_when_they_go_on(running, harness, address):
    tenant_id, key = running.tenant(name="Malicious")
    with running.http(key) as client:
        client.headers["x-forwarded-for"] = address
        answer = client.post("/api/v1/uploads", content=escaping_archive())
        assert (answer.status_code, answer.json()["threat"]) == (422, "path_traversal")
        assert client.post("/api/v1/uploads", content=b"no archive").status_code == 422
        harness.wait_until(lambda: events_from(running, address))
        (event,) = events_from(running, address)
        assert (event["event_type"], event["reason"]) == ("system_intrusion_attempt", "path_traversal")
        assert (event["tenant_id"], event["resource"]) == (tenant_id, "/api/v1/uploads")
        harness.wait_until(
            lambda: client.post("/api/v1/uploads", content=escaping_archive()).status_code == 401
        )
    attacks = [each for each in events_from(running, address) if each["reason"] == "path_traversal"]
    assert len(attacks) >= 5


def test_asking_again_and_again_for_one_missing_model_is_one_event(running, harness, ask, address):
    tenant_id, key = running.tenant(name="Clumsy", requests_per_minute=1000)
    with running.http(key) as client:
        client.headers["x-forwarded-for"] = address
        for _ in range(30):
            body = {"model": "mispelt \x00 model", "prompt": "x", "max_tokens": 1}
            assert client.post("/v1/completions", json=body).status_code == 404
    harness.wait_until(lambda: events_from(running, address))
    (event,) = events_from(running, address)
    assert (event["tenant_id"], event["resource"]) == (tenant_id, "model:mispelt%20%00%20model")


def test_strangers_at_addresses_that_do_not_exist_are_not_written_down(running, ask, address):
    for number in range(30):
        assert ask("none", path=f"/api/v1/nothing/{number}").status_code == 404
    assert events_from(running, address) == []


def test_events_are_for_the_operator_alone(running, ask):
    _, key = running.tenant()
    for path in ("/api/v1/security/events", "/api/v1/security/blocks"):
        assert ask(key, path=path).status_code == 403
        assert ask("none", path=path).status_code == 401


def test_what_was_contained_is_in_the_audit_log(running, harness, ask):
    guess_until_blocked(ask, harness)
    entries = running.platform.config.audit_dir

    def is_logged() -> bool:
        return any(b"security.respond" in path.read_bytes() for path in entries.rglob("*") if path.is_file())

    harness.wait_until(is_logged)
