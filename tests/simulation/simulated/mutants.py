"""What is wrong in a mutant: production code with one mistake, put in its place while a seed runs."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from unittest.mock import patch

from simulated.disk import DiskFiles
from tritium_platform.adapters import spool
from tritium_platform.adapters.memory.database import _writing
from tritium_platform.adapters.memory.invoice_store import MemoryBilledUsageStore, MemoryInvoiceStore
from tritium_platform.adapters.memory.metering_store import MemoryUsageStore
from tritium_platform.adapters.memory.quota_store import MemoryReservationStore
from tritium_platform.adapters.settlement_store import GroupSettlement
from tritium_platform.adapters.spool import Spool, encode_frame
from tritium_platform.adapters.spooled_settlements import SpooledSettlements
from tritium_platform.audit.log import AuditLog
from tritium_platform.audit.service import AuditService
from tritium_platform.billing.books import BillingBooks, invoice_not_found
from tritium_platform.billing.invoice import InvoiceStatus
from tritium_platform.billing.invoices import InvoiceService
from tritium_platform.billing.settlement import SettlementService
from tritium_platform.passage import Passage
from tritium_platform.quotas.leases import QuotaLeases
from tritium_platform.quotas.model import QuotaCounter, ReservationState
from tritium_platform.quotas.service import QuotaService


def settles_before_the_sync():
    def append(self, payload):
        frame = encode_frame(payload, offset=self.size)
        written = 0
        while written < len(frame):
            written += spool.os.write(self._descriptor, frame[written:])
        self.size += len(frame)
        return self.size

    return patch.object(Spool, "append", append)


def forgets_the_name_of_a_new_spool():
    """The file is synced, and its directory is not."""

    def begin(self, path):
        self.path, self.size = path, 0
        self._descriptor = spool.os.open(path, spool.os.O_WRONLY | spool.os.O_CREAT | spool.os.O_EXCL)

    return patch.object(Spool, "__init__", begin)


def answers_before_it_is_written():
    async def append(self, settlement):
        self._start()
        kept = asyncio.get_running_loop().create_future()
        self._arrived.append((settlement, kept))
        self._wake.notify()

    return patch.object(SpooledSettlements, "append", append)


def applies_a_group_again():
    """Deduplication is forgotten: the position of the spool is written and not looked at."""

    async def position(self, spool_id):
        return 0

    async def apply(self, settlements, *, spool_id, position):
        async with self._stores.unit_of_work():
            await self._stores.positions.put(spool_id, position=position)
            await self._stores.usage.insert_all([each.record for each in settlements])
            await self._stores.intents.add_all([each.intent() for each in settlements])
            await self._end_reservations(settlements)
            await self._count_outcomes(settlements)

    stack = contextlib.ExitStack()
    stack.enter_context(patch.object(GroupSettlement, "apply", apply))
    stack.enter_context(patch.object(GroupSettlement, "position", position))
    return stack


def takes_in_more_on_a_second_attempt():
    """As it was before the simulation found it: a group whose answer was lost grew."""
    original = SpooledSettlements._apply_some

    async def apply_some(self):
        self._group = None
        await original(self)

    return patch.object(SpooledSettlements, "_apply_some", apply_some)


def removes_the_spool_before_it_is_in_the_books():
    original = SpooledSettlements._apply_some

    async def apply_some(self):
        await self._discard(self._frames[0].path)
        await original(self)

    return patch.object(SpooledSettlements, "_apply_some", apply_some)


def writes_the_position_in_another_transaction():
    original = GroupSettlement.apply

    async def apply(self, settlements, *, spool_id, position):
        if await self._stores.positions.get(spool_id) < position:
            await self._stores.positions.put(spool_id, position=position)
            await original(self, settlements, spool_id=spool_id, position=position + 1)

    return patch.object(GroupSettlement, "apply", apply)


def counts_every_run_of_one_event():
    """What may run twice is counted twice: the unique key is forgotten."""

    async def insert(self, record):
        async with self._database.write():
            self._records[record.tenant_id, record.source, record.event_id, record.id] = record

    return patch.object(MemoryUsageStore, "insert", insert)


def gives_a_lease_back_after_it_was_used():
    original = QuotaService.finish

    def finish(self, context, *, admission, tokens, is_counted):
        lease = self._admitted.get(admission)
        original(self, context, admission=admission, tokens=tokens, is_counted=is_counted)
        if lease is not None and is_counted:
            self._leases.put_back(lease)

    return patch.object(QuotaService, "finish", finish)


def puts_a_request_back_twice():
    original = QuotaLeases.put_back

    def put_back(self, lease):
        original(self, lease)
        original(self, lease)

    return patch.object(QuotaLeases, "put_back", put_back)


def holds_what_a_crash_left_for_ever():
    async def expire(self, *, at, limit):
        return []

    return patch.object(MemoryReservationStore, "expire", expire)


def posts_nothing_for_what_expired():
    def refuse(original):
        async def end(self, reservation_id, *, tenant_id, amount, at):
            found = self._find(reservation_id, tenant_id=tenant_id)
            if found is not None and found.state is ReservationState.EXPIRED:
                return False
            return await original(self, reservation_id, tenant_id=tenant_id, amount=amount, at=at)

        return end

    stack = contextlib.ExitStack()
    for name in ("use", "settle"):
        original = getattr(MemoryReservationStore, name)
        stack.enter_context(patch.object(MemoryReservationStore, name, refuse(original)))
    return stack


def admits_beyond_the_limit():
    async def hold(self, reservation, *, limit):
        async with self._database.write():
            key = (reservation.tenant_id, reservation.meter, reservation.period)
            counter = self._counters.get(key, QuotaCounter(limit))
            counter = replace(counter, limit=limit, held=counter.held + reservation.amount)
            self._counters[key] = counter
            self._reservations[reservation.id] = reservation
        return True, counter

    return patch.object(MemoryReservationStore, "hold", hold)


def settles_only_while_the_client_stays():
    """Whoever hangs up while the end is written down takes it along."""

    async def settle(self, outcome, *, error=None):
        if self._settlement is None:
            self.request.release()
            self._settlement = asyncio.get_running_loop().create_task(
                self._road.settle(self, outcome=outcome, error=error)
            )
        await self._settlement

    return patch.object(Passage, "_settle", settle)


def logs_money_outside_of_the_transaction():
    """The audit entry of a change follows in a transaction of its own."""
    original = BillingBooks.note_invoice

    async def note_invoice(self, action, invoice, **details):
        asyncio.get_running_loop().create_task(self._late(original, action, invoice, details))

    async def late(self, note, action, invoice, details):
        _writing.set(None)  # a task inherits it
        await note(self, action, invoice, **details)

    stack = contextlib.ExitStack()
    stack.enter_context(patch.object(BillingBooks, "_late", late, create=True))
    stack.enter_context(patch.object(BillingBooks, "note_invoice", note_invoice))
    return stack


def takes_a_number_outside_of_the_transaction():
    """A number that was taken for what did not happen is gone: the counter is a sequence's."""

    async def next_number(self, series):
        numbers = self._database.committed["number_series"]
        numbers[series] = self._database.tables["number_series"][series] = numbers.get(series, 0) + 1
        return numbers[series]

    return patch.object(MemoryInvoiceStore, "next_number", next_number)


def pays_again_under_the_same_key():
    async def begin(self, key, *, request, subject_id):
        return None

    return patch.object(BillingBooks, "begin", begin)


def finalizes_again_what_is_final():
    """The status is not looked at: a second call writes another document."""

    async def finalize(self, invoice_id, *, actor):
        async with self._books.unit_of_work():
            invoice = await self._books.locked(invoice_id)
            if invoice.status is InvoiceStatus.VOID:
                raise invoice_not_found()
            self._books.invoices._documents.pop(invoice_id, None)
            return await self._finalization.write(invoice, actor=actor)

    original = SettlementService._open

    async def again(self, invoice_id):
        found = await original(self, invoice_id)
        documents = self._books.invoices._documents
        documents[invoice_id] = replace(documents[invoice_id], body=documents[invoice_id].body + b" ")
        return found

    stack = contextlib.ExitStack()
    stack.enter_context(patch.object(InvoiceService, "finalize", finalize))
    stack.enter_context(patch.object(SettlementService, "_open", again))
    return stack


def bills_a_use_twice():
    """Uses that another invoice charged are charged again."""
    return patch.object(MemoryBilledUsageStore, "_billed", lambda self: set())


def keeps_the_uses_of_a_void_invoice():
    async def release(self, invoice_id):
        """They stay where they are."""

    return patch.object(MemoryBilledUsageStore, "release", release)


def shows_an_invoice_to_anybody():
    async def get(self, invoice_id, *, tenant_id=None):
        invoice = await self._books.invoices.get(invoice_id)
        if invoice is None:
            raise invoice_not_found()
        return invoice

    return patch.object(InvoiceService, "get", get)


def does_not_look_for_what_is_logged_already():
    """After a crash between the log and its mark, an intent is logged again."""
    original = AuditService.__init__

    def begin(self, log, *, outbox):
        original(self, log, outbox=outbox)
        self._searched = True

    return patch.object(AuditService, "__init__", begin)


def forgets_the_first_of_two_failures_of_the_disk():
    """As it was before the simulation found it: what one failure left was forgotten at the next."""
    original = AuditLog.append

    def append(self, intents):
        try:
            return original(self, intents)
        finally:
            self._found = {}

    return patch.object(AuditLog, "append", append)


def leaves_the_names_of_the_log_unsynced():
    """Its files are synced, and the directories that they are renamed in are not."""
    return patch.object(DiskFiles, "sync_directory", lambda self, directory: None)


MUTANTS = {
    mutant.__name__: mutant
    for mutant in (
        settles_before_the_sync,
        forgets_the_name_of_a_new_spool,
        answers_before_it_is_written,
        applies_a_group_again,
        takes_in_more_on_a_second_attempt,
        removes_the_spool_before_it_is_in_the_books,
        writes_the_position_in_another_transaction,
        counts_every_run_of_one_event,
        gives_a_lease_back_after_it_was_used,
        puts_a_request_back_twice,
        holds_what_a_crash_left_for_ever,
        posts_nothing_for_what_expired,
        admits_beyond_the_limit,
        settles_only_while_the_client_stays,
        logs_money_outside_of_the_transaction,
        takes_a_number_outside_of_the_transaction,
        pays_again_under_the_same_key,
        finalizes_again_what_is_final,
        bills_a_use_twice,
        keeps_the_uses_of_a_void_invoice,
        shows_an_invoice_to_anybody,
        does_not_look_for_what_is_logged_already,
        forgets_the_first_of_two_failures_of_the_disk,
        leaves_the_names_of_the_log_unsynced,
    )
}
