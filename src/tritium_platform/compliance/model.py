"""The nouns of compliance: checks, evidence, results.

The words of a result are those of XCCDF. A result says that a control was seen to operate, or not; it never
says that anybody is compliant or certified: that is a person's judgement.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from tritium_platform.audit.model import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

# Evidence that is older says nothing about today.
FRESHNESS_LIMIT = timedelta(hours=24)


class CheckOutcome(StrEnum):
    """What came out of a check."""

    PASS = "pass"  # noqa: S105 - XCCDF's word, not a password
    FAIL = "fail"
    ERROR = "error"
    NOT_APPLICABLE = "not_applicable"
    NOT_CHECKED = "not_checked"


class Framework(StrEnum):
    """Whose requirements a check gives evidence for."""

    SOC2 = "SOC2"
    HIPAA = "HIPAA"
    GDPR = "GDPR"


@dataclass(frozen=True, slots=True)
class Requirement:
    """A requirement by its identifier, e.g. `Requirement(Framework.SOC2, "CC6.1")`."""

    framework: Framework
    identifier: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was looked at. `facts` are plain JSON values without secrets or personal data.

    Attributes:
        method: how the facts were gathered, so that an auditor can repeat it.
        population: how many things there are; all of them were looked at.
    """

    method: str
    population: int
    collected_at: datetime
    facts: Mapping[str, Any]

    def digest(self) -> str:
        """Return the SHA-256 of method, population and facts in canonical JSON, in hex."""
        plain = {"method": self.method, "population": self.population, "facts": dict(self.facts)}
        return hashlib.sha256(canonical_json(plain)).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a check makes of its evidence; `problems` is empty unless it fails."""

    outcome: CheckOutcome
    reason: str
    problems: tuple[str, ...] = ()


class Check(Protocol):
    """One control: gathers evidence, and judges it by a pure function that an auditor can repeat."""

    @property
    def id(self) -> str:
        """The check's name, which never changes."""
        ...

    @property
    def version(self) -> int:
        """Grows when the judgement changes."""
        ...

    @property
    def title(self) -> str:
        """The claim that is checked, in one sentence."""
        ...

    @property
    def maps_to(self) -> tuple[Requirement, ...]:
        """The requirements it gives evidence for."""
        ...

    async def collect(self) -> Evidence:
        """Look at the whole population."""
        ...

    def evaluate(self, evidence: Evidence) -> Judgement:
        """Judge evidence; the same evidence gives the same judgement."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """A check that was run; `evidence` is None if it could not be gathered."""

    check_id: str
    check_version: int
    title: str
    maps_to: tuple[Requirement, ...]
    outcome: CheckOutcome
    reason: str
    problems: tuple[str, ...]
    evidence: Evidence | None


def judge(check: Check, evidence: Evidence, *, now: datetime) -> Judgement:
    """Judge evidence if it is fresh; stale evidence is not_checked, never a pass."""
    if now - evidence.collected_at > FRESHNESS_LIMIT:
        reason = f"the evidence is older than {FRESHNESS_LIMIT.total_seconds() / 3600:.0f} hours"
        return Judgement(outcome=CheckOutcome.NOT_CHECKED, reason=reason)
    return check.evaluate(evidence)
