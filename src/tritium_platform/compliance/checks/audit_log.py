"""The audit log is whole: every entry rehashed, every signature checked, without its writer's help."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tritium_platform.audit.verify import verify_log
from tritium_platform.compliance.model import CheckOutcome, Evidence, Framework, Judgement, Requirement

if TYPE_CHECKING:
    from pathlib import Path

    from tritium_platform.values import Clock


class AuditLogIsIntact:
    """Verifies the log's files; `saved_checkpoint` is a signed note from earlier, if one was kept."""

    id = "audit-log-is-intact"
    version = 1
    title = "The audit log is append-only: all entries, hashes and signatures agree with its signed head."
    maps_to = (
        Requirement(Framework.SOC2, "CC7.2"),
        Requirement(Framework.HIPAA, "164.312(b)"),
        Requirement(Framework.HIPAA, "164.312(c)(1)"),
        Requirement(Framework.GDPR, "5(2)"),
    )

    def __init__(
        self, directory: Path, *, vkey: str, clock: Clock, saved_checkpoint: bytes | None = None
    ) -> None:
        self._directory = directory
        self._vkey = vkey
        self._clock = clock
        self._saved = saved_checkpoint

    async def collect(self) -> Evidence:
        """Rehash the whole log."""
        report = await asyncio.to_thread(
            verify_log, self._directory, self._vkey, saved_checkpoint=self._saved
        )
        return Evidence(
            method="verify_log rehashes every entry and tile and checks every signature",
            population=report.entries,
            collected_at=self._clock.now(),
            facts={
                "origin": report.origin,
                "size": report.size,
                "root": report.root,
                "entries_rehashed": report.entries,
                "is_compared_with_saved_checkpoint": self._saved is not None,
                "problems": list(report.problems),
            },
        )

    def evaluate(self, evidence: Evidence) -> Judgement:
        """Pass if nothing is wrong and every entry that the head claims was rehashed."""
        facts = evidence.facts
        problems = tuple(facts["problems"])
        if not problems and facts["entries_rehashed"] != facts["size"]:
            problems = (f"only {facts['entries_rehashed']} of {facts['size']} entries were rehashed",)
        if problems:
            return Judgement(outcome=CheckOutcome.FAIL, reason="the log is damaged", problems=problems)
        return Judgement(
            outcome=CheckOutcome.PASS, reason=f"{facts['size']} entries agree with the signed root"
        )
