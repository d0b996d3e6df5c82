"""Admits a request before the work and settles it after: rates, concurrency, the month's quota."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

from tritium_platform.errors import ModelSizeExceededError
from tritium_platform.quotas.admission import Admission
from tritium_platform.quotas.leases import QuotaLeases
from tritium_platform.quotas.limiter import LocalLimiter, Refusal
from tritium_platform.quotas.model import QuotaCounter, QuotaMeter, Reservation, require_amount
from tritium_platform.quotas.refusals import refused_by_limit, refused_by_month
from tritium_platform.quotas.storage import StorageQuota
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tritium_platform.quotas.leases import QuotaLease
    from tritium_platform.quotas.limiter import Limiter
    from tritium_platform.quotas.model import Allowance
    from tritium_platform.quotas.reservations import ReservationStore
    from tritium_platform.quotas.standing import Standing
    from tritium_platform.tenancy.model import TenantContext
    from tritium_platform.values import Clock

RESERVATION_SECONDS = 900.0
SWEEP_AT_ONCE = 500


class QuotaService:
    """Reserve, then settle or void: nobody can overdraw by asking twice at the same time.

    Rates and concurrency are exact among the processes that share the `limiter` (this one alone, if none is
    given); the quota of the month is kept in the store (exact among all processes), from which a process
    takes leases.

    Attributes:
        storage: the bytes that tenants keep.
    """

    def __init__(
        self,
        *,
        store: ReservationStore,
        clock: Clock,
        limiter: Limiter | None = None,
        reservation_seconds: float = RESERVATION_SECONDS,
    ) -> None:
        self._store = store
        self._clock = clock
        self._lifetime = timedelta(seconds=reservation_seconds)
        self._limiter = limiter or LocalLimiter()
        self._leases = QuotaLeases(store=store, clock=clock, reservation_seconds=reservation_seconds)
        self._admitted: dict[Admission, QuotaLease | None] = {}
        self._is_payment_due = False
        self.storage = StorageQuota(store=store, clock=clock, lifetime=self._lifetime)

    async def reserve(self, context: TenantContext, *, tokens: int = 0) -> Admission:
        """Admit a request that may use up to `tokens` tokens (prompt and answer); raises as `reserve_all`."""
        (admission,) = await self.reserve_all(context, tokens=[tokens])
        return admission

    async def reserve_all(self, context: TenantContext, *, tokens: Sequence[int]) -> list[Admission]:
        """Admit all requests of one caller together or none, each with the tokens it may use at most.

        One by one, the first could take what the others wait for, and the caller would wait for ever.

        Raises:
            RequestTooLargeError: more than a limit has at its fullest; no waiting helps.
            RateLimitExceededError: too fast, or too many at one time; waiting `retry_after` helps.
            QuotaExceededError: the month is spent.
        """
        standing = self._enter(context, tokens=tokens, now=self._clock.monotonic_nanoseconds())
        try:
            held, counter = await self._hold_each(context, count=len(tokens))
        except BaseException:
            self._limiter.leave(context.tenant_id, requests=len(tokens), tokens=sum(tokens))
            raise
        return self._admit(held, tokens=tokens, standing=standing, month=counter)

    async def admit_all(self, context: TenantContext, *, tokens: Sequence[int]) -> list[Admission]:
        """As `reserve_all`, but out of the tenant's lease where there is one: then the store is not asked.

        Such requests end by `finish`, and by the settlement that it returns.
        """
        count, now = len(tokens), self._clock.monotonic_nanoseconds()
        standing = self._enter(context, tokens=tokens, now=now)
        try:
            lease = self._leases.take(context, count=count, now=now)
            if lease is None:
                lease = await self._leases.take_from_new(context, count=count)
            if lease is None:
                held, counter = await self._hold_each(context, count=count)
                return self._admit(held, tokens=tokens, standing=standing, month=counter)
        except BaseException:
            self._limiter.leave(context.tenant_id, requests=count, tokens=sum(tokens))
            raise
        held = [lease.reservation] * count
        return self._admit(held, tokens=tokens, standing=standing, month=lease.month, lease=lease)

    def finish(self, context: TenantContext, *, admission: Admission, tokens: int, is_counted: bool) -> None:
        """End a request whose settlement is durable, as `settle` or `void` would, without asking the store.

        The settlement turns what was reserved into use; what was not used of a lease is there for the next.
        """
        lease = self._admitted.get(admission)
        if lease is not None and not is_counted:
            self._leases.put_back(lease)
        unused = max(0, admission.tokens - tokens) if is_counted else admission.tokens
        self._finish(context, admission=admission, unused=unused)

    def allowance(self, context: TenantContext) -> Allowance:
        """Return what the limits leave now."""
        return self._standing(context).allowance()

    def _standing(self, context: TenantContext) -> Standing:
        return self._limiter.standing(
            context.tenant_id, limits=context.limits, now=self._clock.monotonic_nanoseconds()
        )

    async def reserve_deferred(self, context: TenantContext, *, requests: int) -> Admission:
        """Admit requests whose turn we choose: they count against the month, not against the rates.

        Rates and concurrency stop floods, and nothing floods that is let in one by one.

        Raises:
            QuotaExceededError: the month is spent.
        """
        require_amount("requests", requests)
        standing = self._standing(context)  # before anything is held: the limiter may be out of reach
        reservation = self._reservation(context.tenant_id, amount=requests)
        admitted, counter = await self._hold(reservation, limit=context.limits.monthly_quota)
        if not admitted:
            raise refused_by_month(counter, own=0, at=self._clock.now())
        return Admission(
            reservation=reservation, tokens=0, standing=standing, month=counter, at=self._clock.now()
        )

    async def settle(
        self, context: TenantContext, *, admission: Admission, tokens: int, requests: int | None = None
    ) -> bool:
        """End a request that did its work: count it, give back the tokens it did not need.

        Call it in the unit of work that records the usage. False if it was settled or voided before.
        """
        amount = admission.reservation.amount if requests is None else requests
        settled = await self._store.settle(
            admission.reservation.id, tenant_id=context.tenant_id, amount=amount, at=self._clock.now()
        )
        self._finish(context, admission=admission, unused=max(0, admission.tokens - tokens))
        return settled

    async def void(self, context: TenantContext, *, admission: Admission) -> bool:
        """End a request that did nothing: it does not count. False if it was settled or voided before."""
        voided = await self._store.void(
            admission.reservation.id, tenant_id=context.tenant_id, at=self._clock.now()
        )
        self._finish(context, admission=admission, unused=admission.tokens)
        return voided

    async def usage_of_month(self, context: TenantContext) -> QuotaCounter:
        """Return what of this month's requests is used and held."""
        month = str(CalendarMonth.of(self._clock.now()))
        counter = await self._store.counter(context.tenant_id, meter=QuotaMeter.REQUESTS, period=month)
        limit = context.limits.monthly_quota
        if counter is None:
            return QuotaCounter(limit)
        unused = self._leases.unused(context.tenant_id, period=month)
        return QuotaCounter(limit, counter.used, max(0, counter.held - unused))

    async def sweep(self) -> Sequence[Reservation]:
        """Give back reservations whose process died before it ended them; run it every few seconds.

        What this process admitted and never ended leaves its place among the concurrent requests, too.
        """
        now = self._clock.now()
        for admission in list(self._admitted):
            if admission.reservation.expires_at <= now:
                del self._admitted[admission]
                self._limiter.leave(admission.reservation.tenant_id, requests=1)
        await self._leases.give_back()
        return await self._store.expire(at=now, limit=SWEEP_AT_ONCE)

    async def close(self) -> None:
        """Give back what this process has leased and did not use, and let go of the limiter."""
        try:
            await self._leases.close()
        finally:
            self._limiter.close()

    def _enter(self, context: TenantContext, *, tokens: Sequence[int], now: int) -> Standing:
        """Take from the rates and a place for each request; the limiter's `leave` gives them back."""
        for amount in tokens:
            require_amount("tokens", amount)
        decided = self._limiter.enter(
            context.tenant_id,
            limits=context.limits,
            requests=len(tokens),
            tokens=sum(tokens),
            now=now,
        )
        if isinstance(decided, Refusal):
            raise refused_by_limit(decided, at=self._clock.now())
        return decided

    async def _hold(self, reservation: Reservation, *, limit: int) -> tuple[bool, QuotaCounter]:
        """Hold a part of a month; if it does not fit, with what lies unused in leases of this process."""
        admitted, counter = await self._store.hold(reservation, limit=limit)
        if not admitted and self._leases.unused(reservation.tenant_id, period=reservation.period):
            self._leases.end(reservation.tenant_id)
            await self._leases.give_back()
            admitted, counter = await self._store.hold(reservation, limit=limit)
        return admitted, counter

    async def _hold_each(
        self, context: TenantContext, *, count: int
    ) -> tuple[list[Reservation], QuotaCounter]:
        held: list[Reservation] = []
        counter = QuotaCounter(context.limits.monthly_quota)
        try:
            for _ in range(count):
                reservation = self._reservation(context.tenant_id, amount=1)
                admitted, counter = await self._hold(reservation, limit=context.limits.monthly_quota)
                if not admitted:
                    raise refused_by_month(counter, own=len(held), at=self._clock.now())
                held.append(reservation)
        except BaseException:
            for reservation in held:  # what a second failure leaves is swept when it expires
                await self._store.void(reservation.id, tenant_id=context.tenant_id, at=self._clock.now())
            raise
        return held, counter

    def _admit(
        self,
        held: Sequence[Reservation],
        *,
        tokens: Sequence[int],
        standing: Standing,
        month: QuotaCounter,
        lease: QuotaLease | None = None,
    ) -> list[Admission]:
        now = self._clock.now()
        admissions = [
            Admission(
                reservation=reservation,
                tokens=amount,
                standing=standing,
                month=month,
                at=now,
                is_leased=lease is not None,
            )
            for reservation, amount in zip(held, tokens, strict=True)
        ]
        for each in admissions:
            self._admitted[each] = lease
        return admissions

    def _reservation(self, tenant_id: UUID, *, amount: int) -> Reservation:
        now = self._clock.now()
        return Reservation(
            id=uuid7(self._clock),
            tenant_id=tenant_id,
            meter=QuotaMeter.REQUESTS,
            period=str(CalendarMonth.of(now)),
            amount=amount,
            created_at=now,
            expires_at=now + self._lifetime,
        )

    def _finish(self, context: TenantContext, *, admission: Admission, unused: int) -> None:
        """Leave the running ones and give tokens back, the first time only.

        What ends in one turn of the event loop leaves together, and before whoever waits for an end goes on.
        """
        if admission not in self._admitted:
            return
        del self._admitted[admission]
        self._limiter.owe(context.tenant_id, requests=1, tokens=unused)
        if not self._is_payment_due:
            self._is_payment_due = True
            asyncio.get_running_loop().call_soon(self._pay)

    def _pay(self) -> None:
        self._is_payment_due = False
        self._limiter.pay()


def require_model_size(context: TenantContext, *, size: int) -> None:
    """Raise ModelSizeExceededError if a model of `size` bytes is more than the tenant's tier takes."""
    if size > context.limits.max_model_size:
        raise ModelSizeExceededError(limit=context.limits.max_model_size, current=size)
