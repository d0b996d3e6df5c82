"""Attacks on what takes in uses that others counted: nothing is counted twice, for others, or by mistake."""

from __future__ import annotations

import gzip
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest

from tritium_platform.api.event_json import MOST_EVENTS

OWN, OPERATORS = "/api/v1/usage/events", "/api/v1/billing/events"
NOW = datetime.now(UTC).replace(microsecond=0)
IN_TWO_HOURS = (NOW + timedelta(hours=2)).isoformat()
CLOUD = {"content-type": "application/cloudevents+json"}
CLOUD_BATCH = {"content-type": "application/cloudevents-batch+json"}


def an_event(**changes):
    fields = {
        "source": "engine-7",
        "id": uuid.uuid4().hex,
        "meter": "output_tokens",
        "quantity": 7,
        "event_time": NOW.isoformat(),
    }
    return {name: value for name, value in {**fields, **changes}.items() if value is not None}


def a_cloud_event(**changes):
    event = {
        "specversion": "1.0",
        "type": "tritium.usage",
        "source": "https://example.com/engine-7",
        "id": uuid.uuid4().hex,
        "time": NOW.isoformat(),
        "data": {"meter": "output_tokens", "quantity": 7},
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    return {**event, **changes}


@pytest.fixture(scope="module")
def victim(running):
    return running.tenant(name="Victim")


@pytest.fixture
def tenant(running):
    """A tenant of its own for a test: (tenant id, a client with its key)."""
    tenant_id, key = running.tenant()
    with running.http(key) as http:
        yield tenant_id, http


def answered(*, accepted=0, duplicates=()):
    return {"accepted": accepted, "duplicates": list(duplicates), "deferred": [], "refused": []}


def used(http):
    return {
        each["meter"]: each["quantity"]
        for each in http.get("/api/v1/usage").raise_for_status().json()["totals"]
    }


def test_events_count_once_and_the_answer_names_what_does_not(tenant):
    tenant_id, http = tenant
    first, second = an_event(), an_event(tenant_id=tenant_id)
    answer = http.post(OWN, json={"events": [first, second, first]})
    assert (answer.status_code, answer.json()) == (200, answered(accepted=2, duplicates=[2]))
    changed, third = {**first, "quantity": 8}, an_event()
    answer = http.post(OWN, json={"events": [changed, third, second]})
    assert answer.status_code == 207
    assert answer.json()["accepted"] == 1
    assert answer.json()["duplicates"] == [2]
    (refused,) = answer.json()["refused"]
    assert (refused["index"], refused["id"], refused["status"], refused["code"]) == (
        0,
        first["id"],
        409,
        "conflict",
    )
    assert (refused["category"], refused["recovery"]) == ("permanent", "fix_request")
    assert used(http) == {"output_tokens": 21}
    records = http.get("/api/v1/usage").json()["records"]
    (record,) = [each for each in records if each["event_id"] == first["id"]]
    assert (record["operation"], record["source"]) == ("external", "engine-7")
    assert http.post(OWN, json={"events": []}).json() == answered()


def test_the_same_event_in_another_form_is_the_same(tenant):
    tenant_id, http = tenant
    event = a_cloud_event(
        subject=tenant_id, data={"meter": "input_tokens", "quantity": 5, "dimensions": {"model": "m"}}
    )
    assert http.post(OWN, json=event, headers=CLOUD).json()["accepted"] == 1
    assert http.post(OWN, json=[event, a_cloud_event()], headers=CLOUD_BATCH).json() == answered(
        accepted=1, duplicates=[0]
    )
    own = an_event(source=event["source"], id=event["id"], **event["data"])
    assert http.post(OWN, json={"events": [own]}).json()["duplicates"] == [0]
    conflict = http.post(OWN, json={**event, "time": (NOW - timedelta(1)).isoformat()}, headers=CLOUD)
    assert conflict.status_code == 409
    assert conflict.headers["content-type"] == "application/problem+json"
    assert conflict.json()["event_id"] == event["id"]


def test_a_tenant_that_reports_too_fast_is_told_when_to_come_back(running):
    _, key = running.tenant(name="Fast", events_per_minute=6)
    with running.http(key) as http:
        first = [an_event() for _ in range(4)]
        answer = http.post(OWN, json={"events": first})
        assert (answer.status_code, answer.json()["accepted"]) == (200, 4)
        said = answer.headers
        assert (said["x-ratelimit-limit-events"], said["x-ratelimit-remaining-events"]) == ("6", "2")
        assert said["ratelimit-policy"] == '"events-per-minute";q=6;w=60;qu="events"'
        assert said["ratelimit"].startswith('"events-per-minute";r=2;t=')
        refused = http.post(OWN, json={"events": [an_event() for _ in range(4)]})
        problem = refused.json()
        assert (refused.status_code, problem["code"]) == (429, "rate_limit_exceeded")
        assert (problem["category"], problem["recovery"]) == ("rate_limited", "retry_after")
        assert (problem["limit_name"], problem["limit"]) == ("events per minute", 6)
        assert 15 <= int(refused.headers["retry-after"]) <= 20  # two are missing at one per ten seconds
        assert problem["reset_time"] > NOW.isoformat()
        assert refused.headers["x-ratelimit-remaining-events"] == "2"
        assert used(http) == {"output_tokens": 28}  # a batch goes in whole or not at all
        too_many = http.post(OWN, json={"events": [an_event() for _ in range(7)]})
        assert (too_many.status_code, too_many.json()["limit"]) == (413, 6)
        assert "retry-after" not in too_many.headers
        again = http.post(OWN, json={"events": first[:2]})  # duplicates count as well
        assert (again.json()["duplicates"], again.headers["x-ratelimit-remaining-events"]) == ([0, 1], "0")
        one = a_cloud_event()
        assert http.post(OWN, json=one["data"], headers=in_headers(one)).status_code == 429
        tenant_id = http.get("/api/v1/account").json()["tenant_id"]
        with running.admin() as operator:  # has none
            theirs = [an_event(tenant_id=tenant_id) for _ in range(9)]
            assert operator.post(OPERATORS, json={"events": theirs}).json()["accepted"] == 9


def in_headers(event, **changes):
    """Return the headers and the data of a CloudEvent in binary mode."""
    attributes = {f"ce-{name}": quote(value, safe=":/") for name, value in event.items() if name != "data"}
    headers = {"content-type": "application/json; charset=utf-8", **attributes, **changes}
    return {name: value for name, value in headers.items() if value is not None}


def test_an_event_in_headers_is_the_same_as_one_in_json(tenant):
    tenant_id, http = tenant
    event = a_cloud_event(subject=tenant_id, source="https://example.com/Euro€ %25", id='a "b" ü')
    answer = http.post(OWN, json=event["data"], headers=in_headers(event))
    assert (answer.status_code, answer.json()["accepted"]) == (200, 1)
    for headers, body in (
        (CLOUD, event),
        (in_headers(event), event["data"]),
        # As older senders write it: quotes and spaces as they are, in quotes.
        (in_headers(event, **{"ce-id": '"a \\"b\\" %C3%BC"'}), event["data"]),
        (in_headers(event, **{"content-type": CLOUD["content-type"], "ce-id": "another"}), event),
    ):
        assert http.post(OWN, json=body, headers=headers).json()["duplicates"] == [0]
    records = http.get("/api/v1/usage").json()["records"]
    assert [(each["source"], each["event_id"]) for each in records] == [(event["source"], event["id"])]
    later = (NOW - timedelta(1)).isoformat()
    conflict = http.post(OWN, json=event["data"], headers=in_headers(event, **{"ce-time": quote(later)}))
    assert (conflict.status_code, conflict.json()["event_id"]) == (409, event["id"])
    assert used(http) == {"output_tokens": 7}


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"ce-id": None}, 400, "The header ce-id is missing."),
        ({"ce-specversion": None}, 400, "The header ce-specversion is missing."),
        ({"ce-time": None}, 400, "The header ce-time is missing."),
        ({"ce-specversion": "0.3"}, 400, "`ce-specversion`"),
        ({"ce-type": "com.example.other"}, 400, "`ce-type`"),
        ({"ce-time": "yesterday"}, 400, "`ce-time`"),
        ({"ce-subject": "acme"}, 400, "`ce-subject`"),
        ({"ce-id": "100%"}, 400, "The header ce-id must be percent-encoded"),
        ({"ce-id": "%C3%28"}, 400, "header ce-id are not UTF-8"),
        ({"ce-id": '"never ends'}, 400, "The header ce-id has a quote that does not end."),
        ({"ce-id": b"\xc3\xbc"}, 400, "The header ce-id must be percent-encoded"),
        ({"content-type": "text/plain"}, 415, "application/json"),
    ],
)
def test_wrong_headers_of_an_event_are_named(tenant, changes, status, said):
    _, http = tenant
    event = a_cloud_event()
    answer = http.post(OWN, json=event["data"], headers=in_headers(event, **changes))
    assert answer.status_code == status
    assert said in answer.json()["detail"]
    assert (answer.json()["category"], answer.json()["recovery"]) == ("permanent", "fix_request")
    assert used(http) == {}


def test_a_header_that_is_there_twice_and_data_that_is_none_are_refused(tenant):
    _, http = tenant
    event = a_cloud_event()
    twice = [*in_headers(event).items(), ("CE-ID", "other")]
    assert "ce-id is there twice" in http.post(OWN, json=event["data"], headers=twice).json()["detail"]
    for content, said in ((b"", "valid JSON"), (b"{", "valid JSON"), (b"[]", "object"), (b"{}", "meter")):
        answer = http.post(OWN, content=content, headers=in_headers(event))
        assert answer.status_code == (400 if said == "valid JSON" else 422)  # as data in a body of events
        assert said in answer.json()["detail"]
    assert used(http) == {}


def test_another_tenants_id_in_the_body_is_nobodys(running, victim, tenant):
    victim_id, victim_key = victim
    _, http = tenant
    told = []
    for name in (victim_id, str(uuid.UUID(int=7))):
        answer = http.post(OWN, json={"events": [an_event(id="1", tenant_id=name), an_event()]})
        assert (answer.status_code, answer.json()["accepted"]) == (207, 1)
        (refused,) = answer.json()["refused"]
        assert (refused["status"], refused["code"]) == (404, "not_found")
        told.append(json.dumps(refused).replace(name, ""))
        single = http.post(OWN, json=a_cloud_event(subject=name), headers=CLOUD)
        assert single.status_code == 404
    assert told[0] == told[1]
    with running.http(victim_key) as theirs:
        assert used(theirs) == {}


def test_the_operator_names_tenants_and_may_say_the_tier(running, victim, tenant):
    tenant_id, http = tenant
    victim_id, _ = victim
    events = [
        an_event(tenant_id=tenant_id, dimensions={"tier": "business"}),
        an_event(tenant_id=victim_id),
        an_event(),
        an_event(tenant_id=str(uuid.UUID(int=7))),
        an_event(tenant_id=tenant_id, dimensions={"tier": "free"}),
    ]
    with running.admin() as admin:
        answer = admin.post(OPERATORS, json={"events": events})
        assert (answer.status_code, answer.json()["accepted"]) == (207, 2)
        assert [(each["index"], each["status"]) for each in answer.json()["refused"]] == [
            (2, 422),
            (3, 404),
            (4, 422),
        ]
    (total,) = http.get("/api/v1/usage").json()["totals"]
    assert (total["tier"], total["quantity"]) == ("business", 7)
    # A tenant does not choose what it pays.
    answer = http.post(OWN, json={"events": [an_event(dimensions={"tier": "developer"})]})
    assert answer.json()["refused"][0]["field"] == "dimensions"


def test_the_doors_have_their_own_keys(running, tenant):
    tenant_id, http = tenant
    assert http.post(OPERATORS, json={"events": [an_event(tenant_id=tenant_id)]}).status_code == 403
    with running.admin() as admin:
        assert admin.post(OWN, json={"events": [an_event()]}).status_code == 401
        for scopes, status in ((["usage"], 403), (["metering"], 200)):
            wish = {"name": "k", "scopes": scopes}
            key = admin.post(f"/api/v1/tenants/{tenant_id}/keys", json=wish).raise_for_status().json()["key"]
            with running.http(key) as with_scope:
                assert with_scope.post(OWN, json={"events": [an_event()]}).status_code == status
                assert (with_scope.get("/api/v1/usage").status_code == 200) == (scopes == ["usage"])


def test_ids_of_the_service_itself_cannot_be_taken(tenant):
    """Whoever took the id of a coming use would have it for nothing."""
    _, http = tenant
    for source in ("gateway", "quantization"):
        answer = http.post(OWN, json={"events": [an_event(source=source)]})
        assert answer.json()["refused"][0]["field"] == "source"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"quantity": -1}, "quantity"),
        ({"quantity": 10**12 + 1}, "quantity"),
        ({"quantity": 2**63}, "quantity"),
        ({"quantity": 10**400}, "quantity"),
        ({"meter": "seconds"}, "meter"),
        ({"meter": ""}, "meter"),
        ({"id": ""}, "id"),
        ({"id": "x" * 201}, "id"),
        ({"id": "a\0b"}, "id"),
        ({"id": "a\nb"}, "id"),
        ({"id": "\u202eb"}, "id"),
        ({"source": "a\0b"}, "source"),
        ({"source": "\ud7ff\t"}, "source"),
        ({"event_time": "2026-01-01T00:00:00"}, "event_time"),
        ({"event_time": "1970-01-01T00:00:00Z"}, "event_time"),
        ({"event_time": "0001-01-01T00:00:00+14:00"}, "event_time"),
        ({"event_time": "9999-12-31T23:59:59-12:00"}, "event_time"),
        ({"event_time": IN_TWO_HOURS}, "event_time"),
        ({"dimensions": {"model": "a\0"}}, "dimensions"),
        ({"dimensions": {"model": ""}}, "dimensions"),
        ({"dimensions": {"": "a"}}, "dimensions"),
        ({"dimensions": {"model": "x" * 201}}, "dimensions"),
        ({"dimensions": {"x" * 41: "a"}}, "dimensions"),
        ({"dimensions": {str(each): "a" for each in range(17)}}, "dimensions"),
    ],
    ids=lambda each: "in two hours" if each == {"event_time": IN_TWO_HOURS} else str(each),
)
def test_what_an_event_says_wrongly_is_refused_by_name_and_the_rest_is_counted(tenant, changes, field):
    _, http = tenant
    body = {"events": [an_event(), an_event(**changes), an_event()]}
    answer = http.post(OWN, json=body)
    assert (answer.status_code, answer.json()["accepted"]) == (207, 2)
    (refused,) = answer.json()["refused"]
    assert (refused["index"], refused["status"], refused["field"]) == (1, 422, field)
    assert used(http) == {"output_tokens": 14}


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"quantity": 7.0}, "quantity"),
        ({"quantity": 7.5}, "quantity"),
        ({"quantity": True}, "quantity"),
        ({"quantity": "7"}, "quantity"),
        ({"quantity": None}, "quantity"),
        ({"quantity": [7]}, "quantity"),
        ({"id": 7}, "id"),
        ({"id": None}, "id"),
        ({"event_time": None}, "event_time"),
        ({"event_time": 1_790_000_000}, "event_time"),
        ({"event_time": "yesterday"}, "event_time"),
        ({"tenant_id": "../victim"}, "tenant_id"),
        ({"dimensions": {"model": {"a": 1}}}, "dimensions"),
        ({"dimensions": [["model", "a"]]}, "dimensions"),
        ({"qantity": 7}, "qantity"),
        ({"body_sha256": "00"}, "body_sha256"),
        ({"tier": "developer"}, "tier"),
    ],
    ids=str,
)
def test_what_is_not_of_the_form_is_refused_as_a_whole_with_its_place(tenant, changes, place):
    _, http = tenant
    event = an_event()
    wrong = {**event, **changes} if None not in changes.values() else an_event(**changes)
    answer = http.post(OWN, json={"events": [an_event(), wrong]})
    assert answer.status_code == 422
    assert place in answer.json()["detail"]
    assert "$.events[1]" in answer.json()["detail"] or place in ("qantity", "body_sha256", "tier")
    assert used(http) == {}


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"\xff", 400),
        (b'{"events": [' + b"[" * 100_000, 422),
        (b'{"events": [{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}", 422),
        (b'{"events": [], "' + b"x" * 1_000_000 + b'": 1}', 422),
        (b'{"events": [{"id": "\\ud800"}]}', 400),
        (b'{"events": [{"quantity": ' + b"9" * 1_000_000 + b"}]}", 422),
        (b"[]", 422),
        (b"null", 422),
        (b"{}", 422),
        (b"1" * 1_000_000, 422),
    ],
    ids=range(11),
)
def test_bodies_that_are_no_batch_get_a_short_answer(tenant, content, status):
    _, http = tenant
    answer = http.post(OWN, content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (status, 400)
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 1000
    assert used(http) == {}


def test_deep_attributes_of_cloud_events_do_not_break_the_reader(tenant):
    _, http = tenant
    event = json.dumps(a_cloud_event(extra="@")).replace('"@"', "[" * 100_000 + "]" * 100_000)
    answer = http.post(OWN, content=event, headers=CLOUD)
    assert answer.status_code == 400
    assert answer.json()["code"] == "invalid_json"


@pytest.mark.parametrize(
    "changes",
    [
        {"specversion": "0.3"},
        {"type": "com.example.other"},
        {"data": None},
        {"data": "eyJ9"},
        {"subject": "victim"},
        {"time": None},
        {"data": {"meter": "output_tokens", "quantity": 7, "tenant_id": str(uuid.UUID(int=7))}},
    ],
    ids=str,
)
def test_other_cloud_events_are_refused(tenant, changes):
    _, http = tenant
    assert http.post(OWN, json=a_cloud_event(**changes), headers=CLOUD).status_code == 422
    assert used(http) == {}


def test_other_media_types_are_named(tenant):
    _, http = tenant
    for kind in ("text/plain", "application/xml", "multipart/form-data"):
        answer = http.post(OWN, content=b"{}", headers={"content-type": kind})
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
        assert "application/cloudevents+json" in answer.json()["detail"]


def test_too_many_events_are_too_many(tenant):
    _, http = tenant
    line = json.dumps(an_event(event_time=NOW.strftime("%Y-%m-%dT%H:%M:%SZ")), separators=(",", ":"))
    for count, status in ((MOST_EVENTS + 1, 413), (MOST_EVENTS, 200)):
        answer = http.post(OWN, content='{"events":[' + ",".join([line] * count) + "]}")
        assert answer.status_code == status, answer.text[:300]
    assert (answer.json()["accepted"], len(answer.json()["duplicates"])) == (1, MOST_EVENTS - 1)
    assert http.post(OWN, content=b" " * 4_000_001).status_code == 413


def test_compressed_batches_are_read_and_bombs_are_not(tenant):
    _, http = tenant
    body = json.dumps({"events": [an_event() for _ in range(100)]}).encode()
    coded = {"content-encoding": "gzip"}
    assert http.post(OWN, content=gzip.compress(body), headers=coded).json()["accepted"] == 100
    for bomb in (gzip.compress(bytes(2**26)), gzip.compress(b" " * 4_000_001)):
        assert http.post(OWN, content=bomb, headers=coded).status_code == 413
    assert http.post(OWN, content=gzip.compress(body)[:-9], headers=coded).status_code in (400, 422)
    assert http.post(OWN, content=body, headers={"content-encoding": "br"}).status_code == 415
    assert used(http) == {"output_tokens": 700}


def test_clients_that_send_the_same_at_once_count_it_once(tenant):
    _, http = tenant
    events = [an_event() for _ in range(200)]
    halves = [events, events[::-1], events[:100], events[100:]] * 2
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda part: http.post(OWN, json={"events": part}), halves))
    assert {each.status_code for each in answers} == {200}
    assert sum(each.json()["accepted"] for each in answers) == 200
    assert used(http) == {"output_tokens": 1400}
