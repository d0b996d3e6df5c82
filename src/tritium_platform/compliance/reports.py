"""Runs the checks, writes down what they found, and leaves the report's digest in the audit log."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tritium_platform.audit.model import (
    ActionOutcome,
    AuditIntent,
    ComplianceImpact,
    ResourceIdentifier,
    canonical_json,
    format_time,
)
from tritium_platform.compliance.model import CheckOutcome, CheckResult, judge
from tritium_platform.errors import BitNetServiceError
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.compliance.model import Check, Framework
    from tritium_platform.values import Clock

REMARK = (
    "Evidence that controls were seen to operate at the time given. It is not an audit opinion: "
    "whether requirements are met is for a qualified person to judge."
)


class AuditTrail(Protocol):
    """Takes intents for the audit log (its outbox does)."""

    async def add(self, intent: AuditIntent) -> None:
        """Keep an intent until it is logged."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ComplianceReport:
    """The results of one run of the checks; `framework` is None for all of them."""

    id: UUID
    framework: Framework | None
    generated_at: datetime
    results: tuple[CheckResult, ...]

    @property
    def violations(self) -> tuple[CheckResult, ...]:
        """Return what failed or could not be checked: nothing unknown counts as good."""
        good = {CheckOutcome.PASS, CheckOutcome.NOT_APPLICABLE}
        return tuple(result for result in self.results if result.outcome not in good)

    def counts(self) -> dict[str, int]:
        """Return how many checks had each outcome, every outcome named."""
        found = Counter(result.outcome for result in self.results)
        return {outcome.value: found[outcome] for outcome in CheckOutcome}


class ComplianceService:
    """Runs checks on demand."""

    def __init__(self, *, checks: Sequence[Check], trail: AuditTrail, clock: Clock) -> None:
        self._checks = tuple(checks)
        self._trail = trail
        self._clock = clock

    async def run(self, *, framework: Framework | None = None) -> ComplianceReport:
        """Run the checks of a framework, or all; a check that breaks is an error in the report."""
        chosen = [
            check
            for check in self._checks
            if framework is None or framework in {requirement.framework for requirement in check.maps_to}
        ]
        results = tuple([await self._run_one(check) for check in chosen])
        report = ComplianceReport(
            id=uuid7(self._clock), framework=framework, generated_at=self._clock.now(), results=results
        )
        await self._trail.add(_intent(report))
        return report

    async def _run_one(self, check: Check) -> CheckResult:
        try:
            evidence = await check.collect()
        except (BitNetServiceError, OSError) as error:
            return _broken(check, error)
        judgement = judge(check, evidence, now=self._clock.now())
        return CheckResult(
            check_id=check.id,
            check_version=check.version,
            title=check.title,
            maps_to=check.maps_to,
            outcome=judgement.outcome,
            reason=judgement.reason,
            problems=judgement.problems,
            evidence=evidence,
        )


def report_to_dict(report: ComplianceReport) -> dict[str, Any]:
    """Spell a report in plain JSON values, evidence and digests included."""
    return {
        "id": str(report.id),
        "framework": report.framework.value if report.framework else None,
        "generated_at": format_time(report.generated_at),
        "remark": REMARK,
        "outcomes": report.counts(),
        "results": [_result_to_dict(result) for result in report.results],
    }


def render_report(report: ComplianceReport) -> str:
    """Write a report for a human, one line per check and one per problem."""
    lines = [
        f"Checks of {report.framework or 'all frameworks'}, {format_time(report.generated_at)}",
        REMARK,
        "",
    ]
    for result in report.results:
        lines.append(f"{result.outcome.value:>14}  {result.check_id}: {result.reason}")
        lines += [f"{'':>16}{problem}" for problem in result.problems]
    return "\n".join(lines) + "\n"


def _broken(check: Check, error: Exception) -> CheckResult:
    return CheckResult(
        check_id=check.id,
        check_version=check.version,
        title=check.title,
        maps_to=check.maps_to,
        outcome=CheckOutcome.ERROR,
        reason=f"no evidence could be gathered: {error}",
        problems=(),
        evidence=None,
    )


def _result_to_dict(result: CheckResult) -> dict[str, Any]:
    evidence = result.evidence
    return {
        "check": result.check_id,
        "version": result.check_version,
        "title": result.title,
        "maps_to": [f"{each.framework.value}:{each.identifier}" for each in result.maps_to],
        "outcome": result.outcome.value,
        "reason": result.reason,
        "problems": list(result.problems),
        "evidence": None
        if evidence is None
        else {
            "method": evidence.method,
            "population": evidence.population,
            "collected_at": format_time(evidence.collected_at),
            "facts": dict(evidence.facts),
            "sha256": evidence.digest(),
        },
    }


def _intent(report: ComplianceReport) -> AuditIntent:
    digest = hashlib.sha256(canonical_json(report_to_dict(report))).hexdigest()
    return AuditIntent(
        id=report.id,
        event_id=report.id,
        occurred_at=report.generated_at,
        action="compliance.check",
        resource_affected=ResourceIdentifier("compliance_report", str(report.id)),
        outcome=ActionOutcome.FAILURE if report.violations else ActionOutcome.SUCCESS,
        compliance_impact=ComplianceImpact.SECURITY,
        details={"report_sha256": digest, **report.counts()},
    )
