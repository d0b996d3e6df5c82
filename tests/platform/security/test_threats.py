from __future__ import annotations

import random
from uuid import UUID

import pytest

from tritium_platform.security.model import SecurityEventType, ThreatLevel
from tritium_platform.security.threats import LONGEST_WINDOW, RULES, analyze_security_threat

FAILURE = SecurityEventType.AUTHENTICATION_FAILURE
VIOLATION = SecurityEventType.AUTHORIZATION_VIOLATION
INTRUSION = SecurityEventType.SYSTEM_INTRUSION_ATTEMPT
TENANT = UUID(int=7)


def rules_of(assessment) -> list[str]:
    return [match.rule_id for match in assessment.matches]


# One attack per rule: the events that must fire it, as (type, fields of the n-th event).
ATTACKS = {
    "authentication-burst-address": (20, FAILURE, lambda n: {"source_ip": "192.0.2.1", "at": n}),
    "authentication-burst-key": (
        10,
        FAILURE,
        lambda n: {"key_id": "K1", "source_ip": f"192.0.2.{n}", "at": n},
    ),
    "authentication-spraying": (8, FAILURE, lambda n: {"source_ip": "192.0.2.1", "key_id": f"K{n}", "at": n}),
    "cross-tenant-probing": (20, VIOLATION, lambda n: {"key_id": "K1", "resource": f"{n}", "at": n}),
    "cross-tenant-enumeration": (
        200,
        VIOLATION,
        lambda n: {"key_id": "K1", "resource": f"model:{n}", "at": n},
    ),
    "malicious-model-file": (1, INTRUSION, lambda n: {"tenant_id": TENANT, "at": n}),
    "malicious-model-files-repeated": (5, INTRUSION, lambda n: {"tenant_id": TENANT, "at": n}),
}


def test_every_rule_has_an_attack():
    assert ATTACKS.keys() == {rule.id for rule in RULES}


@pytest.mark.parametrize("rule_id", ATTACKS)
def test_an_attack_fires_its_rule_exactly_at_the_threshold(rule_id, make_event):
    count, event_type, fields = ATTACKS[rule_id]
    events = [make_event(event_type, **fields(n)) for n in range(count)]
    rule = next(rule for rule in RULES if rule.id == rule_id)
    before = analyze_security_threat(events[-2], past=events[:-2]) if count > 1 else None
    assert before is None or rule_id not in rules_of(before)
    assessment = analyze_security_threat(events[-1], past=events[:-1])
    match = next(match for match in assessment.matches if match.rule_id == rule_id)
    assert (match.count, match.threshold) == (count, rule.threshold)
    assert str(count) in match.explanation
    assert assessment.level >= rule.level


@pytest.mark.parametrize("rule_id", [rule for rule, (count, _, _) in ATTACKS.items() if count > 1])
def test_the_same_events_spread_over_more_than_the_window_fire_nothing(rule_id, make_event):
    count, event_type, fields = ATTACKS[rule_id]
    rule = next(rule for rule in RULES if rule.id == rule_id)
    step = rule.window.total_seconds() / (count - 1)
    events = [make_event(event_type, **fields(n) | {"at": n * step}) for n in range(count)]
    assert rule_id not in rules_of(analyze_security_threat(events[-1], past=events[:-1]))


def test_a_script_with_an_old_key_is_not_spraying(make_event):
    events = [make_event(FAILURE, source_ip="192.0.2.1", key_id="K1", at=n) for n in range(9)]
    assert rules_of(analyze_security_threat(events[-1], past=events[:-1])) == []


def test_one_missing_model_asked_for_again_and_again_is_not_probing(make_event):
    events = [make_event(VIOLATION, key_id="K1", resource="model:old", at=n) for n in range(300)]
    assert analyze_security_threat(events[-1], past=events[:-1]).level is ThreatLevel.LOW


def test_many_customers_behind_different_addresses_are_no_burst(make_event):
    events = [make_event(FAILURE, source_ip=f"198.51.100.{n}", key_id=f"K{n}", at=n) for n in range(100)]
    assert rules_of(analyze_security_threat(events[-1], past=events[:-1])) == []


def test_the_order_of_the_past_does_not_matter_and_the_answer_is_always_the_same(make_event):
    events = [make_event(FAILURE, source_ip="192.0.2.1", key_id=f"K{n % 9}", at=n) for n in range(30)]
    expected = analyze_security_threat(events[-1], past=events[:-1])
    for seed in range(10):
        shuffled = events[:]
        random.Random(seed).shuffle(shuffled)
        assert analyze_security_threat(events[-1], past=shuffled) == expected


def test_the_level_is_never_below_the_severity_of_the_event(make_event):
    event = make_event(SecurityEventType.COMPLIANCE_VIOLATION, severity=ThreatLevel.CRITICAL)
    assert analyze_security_threat(event, past=[]).level is ThreatLevel.CRITICAL


def test_no_rule_looks_back_further_than_is_promised():
    assert max(rule.window for rule in RULES) == LONGEST_WINDOW
