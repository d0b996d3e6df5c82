from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tritium_platform.audit.log import AuditLog
from tritium_platform.audit.service import AuditService
from tritium_platform.audit.verify import verify_log
from tritium_platform.errors import PlatformError


class MemoryOutbox:
    """Intents as a database would keep them: committed at once, marked when told."""

    def __init__(self) -> None:
        self.rows: dict = {}
        self.indices: dict = {}
        self.is_down = False

    def commit(self, *intents) -> None:
        self.rows.update({intent.id: intent for intent in intents})

    async def pending(self, *, limit):
        await asyncio.sleep(0)
        return [row for identity, row in self.rows.items() if identity not in self.indices][:limit]

    async def mark(self, indices):
        await asyncio.sleep(0)
        if self.is_down:
            raise PlatformError("The database is away.")
        self.indices.update({identity: index for identity, index in indices.items() if identity in self.rows})


@pytest.fixture
def outbox():
    return MemoryOutbox()


@pytest.fixture
async def service(open_log, outbox, tmp_path):
    service = AuditService(open_log(tmp_path), outbox=outbox)
    yield service
    await service.close()


async def test_an_appended_intent_is_in_the_signed_log_and_marked(service, outbox, signer, intent, tmp_path):
    outbox.commit(intent(0))
    assert await service.append(intent(0)) == 0
    assert service.head().size == 1
    assert verify_log(tmp_path, signer.verifier.vkey).is_intact
    assert await service.recover() == 0
    assert outbox.indices == {intent(0).id: 0}


async def test_many_tasks_share_few_commits(service, signer, intent, tmp_path):
    indices = await asyncio.gather(*(service.append(intent(n)) for n in range(300)))
    assert sorted(indices) == list(range(300))
    assert verify_log(tmp_path, signer.verifier.vkey).is_intact
    commits = len(list((tmp_path / "tile/entries/001.p").iterdir()))
    assert commits <= 3


async def test_several_intents_keep_their_order(service, intent):
    await service.append_many([intent(n) for n in (5, 3, 4)])
    assert await service.append_many([intent(n) for n in (9, 8)]) == [3, 4]


async def test_what_a_crash_left_in_the_outbox_is_logged_once(open_log, outbox, signer, intent, tmp_path):
    log = open_log(tmp_path)
    log.append([intent(0), intent(1)])  # logged, but the process died before it could mark them
    log.close()
    outbox.commit(*(intent(n) for n in range(5)))
    service = AuditService(open_log(tmp_path), outbox=outbox)
    assert await service.recover() == 5
    assert await service.recover() == 0
    assert outbox.indices == {intent(n).id: n for n in range(5)}
    await service.close()
    report = verify_log(tmp_path, signer.verifier.vkey)
    assert (report.problems, report.entries) == ((), 5)


async def test_the_log_is_not_looked_through_for_what_came_after_an_outbox_that_was_empty(
    service, outbox, intent, monkeypatch
):
    assert await service.recover() == 0
    monkeypatch.setattr(service._log, "find", lambda _: pytest.fail("the whole log was read"))
    outbox.commit(intent(0))
    assert await service.recover() == 1
    assert outbox.indices == {intent(0).id: 0}


async def test_an_outbox_longer_than_a_group_is_drained(service, outbox, intent):
    outbox.commit(*(intent(n) for n in range(2500)))
    assert await service.recover() == 2500
    assert service.head().size == 2500


async def test_intents_that_keep_coming_are_left_to_the_next_turn(service, outbox, intent):
    """Each look at the outbox brings one more, as each look at the books brings in what was settled."""
    read = outbox.pending

    async def pending(*, limit):
        outbox.commit(intent(len(outbox.rows)))
        return await read(limit=limit)

    outbox.pending = pending
    async with asyncio.timeout(30):
        assert [await service.recover() for _ in range(3)] == [1, 1, 1]
    assert service.head().size == 3


async def test_appending_and_recovering_at_once_doubles_nothing(service, outbox, signer, intent, tmp_path):
    async def author(number: int) -> int:
        await asyncio.sleep(number % 7 / 1000)
        outbox.commit(intent(number))
        return await service.append(intent(number))

    async def sweeper() -> None:
        for _ in range(20):
            await service.recover()
            await asyncio.sleep(0.001)

    await asyncio.gather(sweeper(), *(author(n) for n in range(200)))
    await service.recover()
    report = verify_log(tmp_path, signer.verifier.vkey)
    assert (report.problems, report.entries) == ((), 200)
    assert len(outbox.indices) == 200


async def test_while_the_outbox_is_away_entries_are_logged_and_marked_later(service, outbox, intent):
    outbox.commit(intent(0))
    outbox.is_down = True
    assert await service.append(intent(0)) == 0
    with pytest.raises(PlatformError, match="away"):
        await service.recover()
    outbox.is_down = False
    assert await service.append(intent(0)) == 0
    assert await service.recover() in {0, 1}
    assert service.head().size == 1
    assert outbox.indices == {intent(0).id: 0}


async def test_a_disk_that_refuses_is_an_error_for_every_caller_and_not_for_the_next(
    service, signer, intent, tmp_path, monkeypatch
):
    original = AuditLog.append

    def refuse(self, intents):
        raise PlatformError("The audit log cannot be written: No space left on device.")

    monkeypatch.setattr(AuditLog, "append", refuse)
    results = await asyncio.gather(*(service.append(intent(n)) for n in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [PlatformError] * 3
    monkeypatch.setattr(AuditLog, "append", original)
    assert sorted(await asyncio.gather(*(service.append(intent(n)) for n in range(3)))) == [0, 1, 2]
    assert verify_log(tmp_path, signer.verifier.vkey).is_intact


async def test_a_cancelled_caller_does_not_take_back_the_entry_of_others(service, intent):
    first = asyncio.create_task(service.append(intent(0)))
    second = asyncio.create_task(service.append(intent(1)))
    await asyncio.sleep(0)
    first.cancel()
    assert await second in {0, 1}
    with pytest.raises(asyncio.CancelledError):
        await first
    await service.append(intent(2))
    assert service.head().size == 3


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["commit", "append", "log-only", "recover", "restart"]), st.integers(0, 9)),
        max_size=12,
    )
)
async def test_after_any_history_each_committed_intent_is_in_the_log_exactly_once(
    steps, signer, clock, intent, tmp_path_factory
):
    directory, outbox = tmp_path_factory.mktemp("log"), MemoryOutbox()
    service = AuditService(AuditLog.open(directory, signer=signer, clock=clock), outbox=outbox)
    for step, number in steps:
        one = intent(number)
        if step == "recover":
            await service.recover()
        elif step == "restart":
            await service.close()
            service = AuditService(AuditLog.open(directory, signer=signer, clock=clock), outbox=outbox)
        elif one.id not in outbox.rows:
            outbox.commit(one)
            outbox.is_down = step == "log-only"  # logged, and then the process dies before it marks
            if step != "commit":
                await service.append(one)
            if step == "log-only":
                await service.close()
                outbox.is_down = False
                service = AuditService(AuditLog.open(directory, signer=signer, clock=clock), outbox=outbox)
    await service.recover()
    await service.close()
    report = verify_log(directory, signer.verifier.vkey)
    assert (report.problems, report.entries) == ((), len(outbox.rows))
    assert outbox.indices.keys() == outbox.rows.keys()
