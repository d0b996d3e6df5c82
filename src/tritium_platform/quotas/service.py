"""Admits a request before the work and settles it after: rates, concurrency, the month's quota, storage."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from tritium_platform.errors import (
    ModelSizeExceededError,
    QuotaExceededError,
    RateLimitExceededError,
    RequestTooLargeError,
    StorageQuotaExceededError,
    ValidationError,
)
from tritium_platform.quotas.leases import QuotaLeases
from tritium_platform.quotas.limiter import CONCURRENCY, LocalLimiter, Refusal
from tritium_platform.quotas.model import (
    ALWAYS,
    Admission,
    Allowance,
    QuotaCounter,
    QuotaMeter,
    RateStatus,
    Reservation,
)
from tritium_platform.quotas.ratelimit import SECOND
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tritium_platform.quotas.leases import QuotaLease
    from tritium_platform.quotas.limiter import Limiter, Standing
    from tritium_platform.quotas.reservations import ReservationStore
    from tritium_platform.tenancy.model import TenantContext
    from tritium_platform.values import Clock

RESERVATION_SECONDS = 900.0
# A request ends when it ends; a second is the shortest wait that can be written in Retry-After.
CONCURRENCY_RETRY_SECONDS = 1
SWEEP_AT_ONCE = 500
NO_LIMIT = 2**62


class QuotaService:
    """Reserve, then settle or void: nobody can overdraw by asking twice at the same time.

    Rates and concurrency are exact among the processes that share the `limiter` (this one alone, if none is
    given); the quota of the month and the storage are kept in the store (exact among all processes), from
    which a process takes leases.
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
        month = CalendarMonth.of(clock.now())
        self._month_span = month.start, month.end

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
        standing = self._enter(context, tokens=tokens)
        try:
            held, counter = await self._hold_each(context, count=len(tokens))
        except BaseException:
            self._limiter.leave(context.tenant_id, requests=len(tokens), tokens=sum(tokens))
            raise
        return self._admit(context, held, tokens=tokens, standing=standing, month=counter)

    async def admit_all(self, context: TenantContext, *, tokens: Sequence[int]) -> list[Admission]:
        """As `reserve_all`, but out of the tenant's lease where there is one: then the store is not asked.

        Such requests end by `finish`, and by the settlement that it returns.
        """
        count = len(tokens)
        standing = self._enter(context, tokens=tokens)
        try:
            lease = self._leases.take(context, count=count)
            if lease is None:
                lease = await self._leases.take_from_new(context, count=count)
            if lease is None:
                held, counter = await self._hold_each(context, count=count)
                return self._admit(context, held, tokens=tokens, standing=standing, month=counter)
        except BaseException:
            self._limiter.leave(context.tenant_id, requests=count, tokens=sum(tokens))
            raise
        held = [lease.reservation] * count
        return self._admit(context, held, tokens=tokens, standing=standing, month=lease.month, lease=lease)

    def finish(self, context: TenantContext, *, admission: Admission, tokens: int, is_counted: bool) -> None:
        """End a request whose settlement is durable, as `settle` or `void` would, without asking the store.

        The settlement turns what was reserved into use; what was not used of a lease is there for the next.
        """
        lease = self._admitted.get(admission)
        if lease is not None and not is_counted:
            self._leases.put_back(lease)
        unused = max(0, admission.tokens - tokens) if is_counted else admission.tokens
        self._finish(context, admission=admission, unused=unused)

    def allowance(self, context: TenantContext, *, month: QuotaCounter | None = None) -> Allowance:
        """Return what the limits leave now, beside what was just read of the month."""
        return self._allowance(context, standing=self._standing(context), month=month)

    def _standing(self, context: TenantContext) -> Standing:
        return self._limiter.standing(
            context.tenant_id, limits=context.limits, now=self._clock.monotonic_nanoseconds()
        )

    def _allowance(
        self, context: TenantContext, *, standing: Standing, month: QuotaCounter | None
    ) -> Allowance:
        most = context.limits.max_concurrent_requests
        return Allowance(
            requests=standing.requests,
            tokens=standing.tokens,
            concurrent=RateStatus(most, max(0, most - standing.running), reset_seconds=0.0),
            month=None
            if month is None
            else RateStatus(month.limit, max(0, month.remaining), self._seconds_of_month()),
        )

    async def reserve_deferred(self, context: TenantContext, *, requests: int) -> Admission:
        """Admit requests whose turn we choose: they count against the month, not against the rates.

        Rates and concurrency stop floods, and nothing floods that is let in one by one.

        Raises:
            QuotaExceededError: the month is spent.
        """
        _require_amounts(requests=requests)
        standing = self._standing(context)  # before anything is held: the limiter may be out of reach
        reservation = self._reservation(
            context.tenant_id, meter=QuotaMeter.REQUESTS, amount=requests, lifetime=self._lifetime
        )
        admitted, counter = await self._hold(reservation, limit=context.limits.monthly_quota)
        if not admitted:
            raise self._quota_exceeded(counter, own=0)
        allowance = self._allowance(context, standing=standing, month=counter)
        return Admission(reservation=reservation, tokens=0, allowance=allowance)

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

    async def reserve_storage(
        self, context: TenantContext, *, size: int, lifetime: timedelta = timedelta(hours=24)
    ) -> Reservation:
        """Set aside `size` bytes of the tenant's storage.

        Raises:
            StorageQuotaExceededError: they do not fit.
        """
        _require_amounts(size=size)
        reservation = self._reservation(
            context.tenant_id, meter=QuotaMeter.STORAGE_BYTES, amount=size, lifetime=lifetime
        )
        admitted, counter = await self._store.hold(reservation, limit=context.limits.max_storage)
        if not admitted:
            raise StorageQuotaExceededError(
                usage=counter.used + counter.held, quota=context.limits.max_storage, required=size
            )
        return reservation

    async def settle_storage(self, reservation: Reservation, *, size: int) -> bool:
        """Turn a storage reservation into `size` bytes used; they must not be more than were set aside."""
        return await self._store.settle(
            reservation.id, tenant_id=reservation.tenant_id, amount=size, at=self._clock.now()
        )

    async def void_storage(self, reservation: Reservation) -> bool:
        """Give a storage reservation back."""
        return await self._store.void(reservation.id, tenant_id=reservation.tenant_id, at=self._clock.now())

    async def count_storage(self, tenant_id: UUID, *, size: int) -> None:
        """Count bytes that lie there already, even beyond the limit: what was paid for is not thrown away."""
        _require_amounts(size=size)
        reservation = self._reservation(
            tenant_id, meter=QuotaMeter.STORAGE_BYTES, amount=size, lifetime=self._lifetime
        )
        await self._store.hold(reservation, limit=NO_LIMIT)
        await self._store.settle(reservation.id, tenant_id=tenant_id, amount=size, at=self._clock.now())

    async def release_storage(self, tenant_id: UUID, *, size: int) -> int:
        """Give back bytes of something that was deleted; return how many were in use at most."""
        return await self._store.release(
            tenant_id, meter=QuotaMeter.STORAGE_BYTES, period=ALWAYS, amount=size
        )

    async def usage_of_month(self, context: TenantContext) -> QuotaCounter:
        """Return what of this month's requests is used and held."""
        month = str(CalendarMonth.of(self._clock.now()))
        counter = await self._store.counter(context.tenant_id, meter=QuotaMeter.REQUESTS, period=month)
        limit = context.limits.monthly_quota
        if counter is None:
            return QuotaCounter(limit)
        unused = self._leases.unused(context.tenant_id, period=month)
        return QuotaCounter(limit, counter.used, max(0, counter.held - unused))

    async def usage_of_storage(self, context: TenantContext) -> QuotaCounter:
        """Return how many bytes of storage are used and held."""
        counter = await self._store.counter(context.tenant_id, meter=QuotaMeter.STORAGE_BYTES, period=ALWAYS)
        limit = context.limits.max_storage
        return QuotaCounter(limit, counter.used, counter.held) if counter else QuotaCounter(limit)

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

    def _enter(self, context: TenantContext, *, tokens: Sequence[int]) -> Standing:
        """Take from the rates and a place for each request; the limiter's `leave` gives them back."""
        for amount in tokens:
            _require_amounts(tokens=amount)
        decided = self._limiter.enter(
            context.tenant_id,
            limits=context.limits,
            requests=len(tokens),
            tokens=sum(tokens),
            now=self._clock.monotonic_nanoseconds(),
        )
        if isinstance(decided, Refusal):
            raise self._refused(decided)
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
                reservation = self._reservation(
                    context.tenant_id, meter=QuotaMeter.REQUESTS, amount=1, lifetime=self._lifetime
                )
                admitted, counter = await self._hold(reservation, limit=context.limits.monthly_quota)
                if not admitted:
                    raise self._quota_exceeded(counter, own=len(held))
                held.append(reservation)
        except BaseException:
            for reservation in held:  # what a second failure leaves is swept when it expires
                await self._store.void(reservation.id, tenant_id=context.tenant_id, at=self._clock.now())
            raise
        return held, counter

    def _admit(
        self,
        context: TenantContext,
        held: Sequence[Reservation],
        *,
        tokens: Sequence[int],
        standing: Standing,
        month: QuotaCounter,
        lease: QuotaLease | None = None,
    ) -> list[Admission]:
        allowance = self._allowance(context, standing=standing, month=month)
        admissions = [
            Admission(
                reservation=reservation, tokens=amount, allowance=allowance, is_leased=lease is not None
            )
            for reservation, amount in zip(held, tokens, strict=True)
        ]
        self._admitted |= dict.fromkeys(admissions, lease)
        return admissions

    def _refused(self, refusal: Refusal) -> RequestTooLargeError | RateLimitExceededError:
        if refusal.wait is None:
            return RequestTooLargeError(
                limit_name=refusal.limit_name, limit=refusal.limit, current=refusal.current
            )
        is_place = refusal.limit_name == CONCURRENCY
        seconds = CONCURRENCY_RETRY_SECONDS if is_place else -(-refusal.wait // SECOND)
        return RateLimitExceededError(
            limit_name=refusal.limit_name,
            limit=refusal.limit,
            current=refusal.current,
            reset_time=self._clock.now() + timedelta(seconds=seconds),
            retry_after=seconds,
        )

    def _quota_exceeded(self, counter: QuotaCounter, *, own: int) -> QuotaExceededError:
        """Refuse; `own` of what is held belongs to the refused one and is given back."""
        now = self._clock.now()
        reset_time = CalendarMonth.of(now).end
        return QuotaExceededError(
            limit_name="requests per month",
            limit=counter.limit,
            current=counter.used + counter.held - own,
            reset_time=reset_time,
            retry_after=-((now - reset_time) // timedelta(seconds=1)),
        )

    def _seconds_of_month(self) -> float:
        now = self._clock.now()
        begin, end = self._month_span
        if not begin <= now < end:
            month = CalendarMonth.of(now)
            begin, end = self._month_span = month.start, month.end
        return (end - now).total_seconds()

    def _reservation(
        self, tenant_id: UUID, *, meter: QuotaMeter, amount: int, lifetime: timedelta
    ) -> Reservation:
        now = self._clock.now()
        return Reservation(
            id=uuid7(self._clock),
            tenant_id=tenant_id,
            meter=meter,
            period=ALWAYS if meter is QuotaMeter.STORAGE_BYTES else str(CalendarMonth.of(now)),
            amount=amount,
            created_at=now,
            expires_at=now + lifetime,
        )

    def _finish(self, context: TenantContext, *, admission: Admission, unused: int) -> None:
        """Leave the running ones and give tokens back, the first time only."""
        if admission in self._admitted:
            del self._admitted[admission]
            self._limiter.leave(context.tenant_id, requests=1, tokens=unused)


def require_model_size(context: TenantContext, *, size: int) -> None:
    """Raise ModelSizeExceededError if a model of `size` bytes is more than the tenant's tier takes."""
    if size > context.limits.max_model_size:
        raise ModelSizeExceededError(limit=context.limits.max_model_size, current=size)


def _require_amounts(**amounts: int) -> None:
    for name, amount in amounts.items():
        if type(amount) is not int or not 0 <= amount < 2**62:
            raise ValidationError(f"The amount of {name} must be a whole number from 0 on.", field=name)
