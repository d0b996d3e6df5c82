"""Each check passes on a sound platform and fails, alone, when its own control is broken."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.sql.audit_outbox import SqlAuditOutbox
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.evidence import SqlCensus
from tritium_platform.adapters.sql.migrate import migrate
from tritium_platform.adapters.sql.tenancy_store import SqlTenantStore
from tritium_platform.audit.log import AuditLog
from tritium_platform.audit.model import ActionOutcome, AuditIntent, ResourceIdentifier
from tritium_platform.audit.note import NoteSigner
from tritium_platform.compliance.checks.api_keys import ApiKeysAreHashed
from tritium_platform.compliance.checks.audit_log import AuditLogIsIntact
from tritium_platform.compliance.checks.isolation import TenantTablesCarryTheirTenant
from tritium_platform.compliance.model import CheckOutcome, Framework, judge
from tritium_platform.compliance.reports import ComplianceService, render_report, report_to_dict
from tritium_platform.errors import PlatformError
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.tenancy.service import TenancyService

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Sound:
    """A platform's own state: a migrated database with tenants and keys, an audit log, and the checks."""

    database: Database
    tenancy: TenancyService
    outbox: SqlAuditOutbox
    audit_directory: Path
    token: str
    clock: ManualClock
    service: ComplianceService
    checks: list

    async def execute(self, *statements: str) -> None:
        async with self.database.write() as connection:
            for statement in statements:
                await connection.execute(text(statement))

    async def outcomes(self) -> dict[str, CheckOutcome]:
        report = await self.service.run()
        return {result.check_id: result.outcome for result in report.results}


@pytest.fixture(scope="module")
def empty_books(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("template") / "books.sqlite3"
    migrate(f"sqlite+aiosqlite:///{path}")
    return path.read_bytes()


@pytest.fixture
async def sound(tmp_path, empty_books):
    (tmp_path / "books.sqlite3").write_bytes(empty_books)
    url = f"sqlite+aiosqlite:///{tmp_path / 'books.sqlite3'}"
    database, clock = Database(url), ManualClock()
    tenancy = TenancyService(store=SqlTenantStore(database), pepper=b"p" * 32, clock=clock)
    tenant = await tenancy.create_tenant(organization_name="Acme", tier=TenantTier.TEAM)
    for name in ("first", "second"):
        key, token = await tenancy.create_key(tenant.id, name=name)
    await tenancy.revoke_key(key.id, tenant_id=tenant.id)
    signer = NoteSigner("audit.test/log", private_key=Ed25519PrivateKey.generate())
    directory = tmp_path / "audit"
    log = AuditLog.open(directory, signer=signer, clock=clock)
    log.append([an_action(number, clock) for number in range(5)])
    log.close()
    outbox, census = SqlAuditOutbox(database), SqlCensus(database)
    checks = [
        AuditLogIsIntact(directory, vkey=signer.verifier.vkey, clock=clock),
        ApiKeysAreHashed(census=census, tenancy=tenancy, clock=clock),
        TenantTablesCarryTheirTenant(census=census, clock=clock),
    ]
    service = ComplianceService(checks=checks, trail=outbox, clock=clock)
    yield Sound(database, tenancy, outbox, directory, token, clock, service, checks)
    await database.close()


def an_action(number: int, clock: ManualClock) -> AuditIntent:
    return AuditIntent(
        id=UUID(int=number + 1),
        event_id=UUID(int=number + 1),
        occurred_at=clock.now(),
        action="tenant.create",
        resource_affected=ResourceIdentifier("tenant", str(number)),
        outcome=ActionOutcome.SUCCESS,
    )


async def test_a_sound_platform_passes_every_check(sound):
    assert set((await sound.outcomes()).values()) == {CheckOutcome.PASS}


async def flip_a_bit_of_the_log(sound):
    tile = sound.audit_directory / "tile/0/000.p/5"
    content = tile.read_bytes()
    tile.write_bytes(bytes([content[0] ^ 1]) + content[1:])


async def remove_the_log(sound):
    (sound.audit_directory / "checkpoint").unlink()


async def store_a_key_in_plain(sound):
    await sound.execute("UPDATE api_keys SET secret_hash = CAST('0123456789abcdef0123456789abcdef' AS BLOB)")


async def store_a_short_hash(sound):
    await sound.execute("UPDATE api_keys SET secret_hash = X'00FF'")


async def write_a_key_into_an_error_message(sound):
    await sound.execute(
        "INSERT INTO audit_outbox (id, entry_json, created_at, log_index) "
        f"""VALUES ('{UUID(int=9).hex}', '{{"note": "called with {sound.token}"}}', '2026-01-01', 1)"""
    )


async def accept_any_key(sound):
    async def welcome(token: str):
        return None

    sound.tenancy.authenticate_request = welcome


async def add_a_table_that_nobody_thought_of(sound):
    await sound.execute("CREATE TABLE prompts (id INTEGER PRIMARY KEY, body TEXT)")


async def make_the_tenant_optional(sound):
    await sound.execute("CREATE TABLE prompts (id INTEGER PRIMARY KEY, tenant_id CHAR(32))")


async def lose_a_tenant(sound):
    await sound.execute(
        "CREATE TABLE prompts (id INTEGER PRIMARY KEY, tenant_id CHAR(32))",
        "INSERT INTO prompts VALUES (1, NULL)",
    )


SABOTAGE = [
    (flip_a_bit_of_the_log, "audit-log-is-intact", "does not hold the hashes"),
    (remove_the_log, "audit-log-is-intact", "no checkpoint"),
    (store_a_key_in_plain, "api-keys-are-hashed", "not stored as a keyed hash"),
    (store_a_short_hash, "api-keys-are-hashed", "not stored as a keyed hash"),
    (write_a_key_into_an_error_message, "api-keys-are-hashed", "in plain in audit_outbox.entry_json"),
    (accept_any_key, "api-keys-are-hashed", "nobody made was accepted"),
    (add_a_table_that_nobody_thought_of, "tenant-tables-carry-their-tenant", "prompts: tenant_id is missing"),
    (make_the_tenant_optional, "tenant-tables-carry-their-tenant", "prompts: tenant_id may be empty"),
    (lose_a_tenant, "tenant-tables-carry-their-tenant", "1 rows have no tenant"),
]


@pytest.mark.parametrize(
    ("sabotage", "check_id", "problem"), SABOTAGE, ids=[sabotage.__name__ for sabotage, _, _ in SABOTAGE]
)
async def test_a_broken_control_fails_its_own_check_and_no_other(sabotage, check_id, problem, sound):
    await sabotage(sound)
    report = await sound.service.run()
    failed = [result for result in report.results if result.outcome is not CheckOutcome.PASS]
    assert [result.check_id for result in failed] == [check_id]
    assert failed[0].outcome is CheckOutcome.FAIL
    assert any(problem in text for text in failed[0].problems)
    assert [result.check_id for result in report.violations] == [check_id]


async def test_every_check_is_sabotaged(sound):
    assert {check.id for check in sound.checks} == {check_id for _, check_id, _ in SABOTAGE}


async def test_no_secret_gets_into_the_evidence(sound):
    await write_a_key_into_an_error_message(sound)
    report = await sound.service.run()
    assert sound.token not in str(report_to_dict(report))


async def test_a_log_that_was_rolled_back_fails_against_a_kept_checkpoint(sound, tmp_path):
    kept = (sound.audit_directory / "checkpoint").read_bytes()
    check = sound.checks[0]
    with_kept = AuditLogIsIntact(check._directory, vkey=check._vkey, clock=sound.clock, saved_checkpoint=kept)
    evidence = await with_kept.collect()
    assert with_kept.evaluate(evidence).outcome is CheckOutcome.PASS
    assert evidence.facts["is_compared_with_saved_checkpoint"]


async def test_the_same_evidence_gives_the_same_judgement_and_digest(sound):
    for check in sound.checks:
        evidence = await check.collect()
        again = replace(evidence, collected_at=sound.clock.now())
        assert check.evaluate(evidence) == check.evaluate(again)
        assert evidence.digest() == again.digest()


async def test_stale_evidence_is_not_checked_and_never_a_pass(sound):
    evidence = await sound.checks[0].collect()
    judgement = judge(sound.checks[0], evidence, now=sound.clock.now() + timedelta(hours=25))
    assert judgement.outcome is CheckOutcome.NOT_CHECKED


async def test_a_check_that_breaks_is_an_error_and_the_others_run(sound, monkeypatch):
    async def fail(self):
        raise PlatformError("The database is away.")

    monkeypatch.setattr(TenantTablesCarryTheirTenant, "collect", fail)
    outcomes = await sound.outcomes()
    assert outcomes["tenant-tables-carry-their-tenant"] is CheckOutcome.ERROR
    assert outcomes["audit-log-is-intact"] is CheckOutcome.PASS


async def test_a_framework_runs_the_checks_that_map_to_it(sound):
    report = await sound.service.run(framework=Framework.HIPAA)
    assert len(report.results) == 3
    assert all(Framework.HIPAA in {r.framework for r in result.maps_to} for result in report.results)


async def test_a_report_is_logged_by_its_digest_and_never_claims_compliance(sound):
    report = await sound.service.run()
    (intent,) = await sound.outbox.pending(limit=9)
    assert intent.action == "compliance.check"
    assert len(intent.details["report_sha256"]) == 64
    assert intent.details["pass"] == 3
    shown = render_report(report) + str(report_to_dict(report))
    assert "compliant" not in shown.lower()
    assert "certified" not in shown.lower()
    assert "pass  audit-log-is-intact: 5 entries" in shown
