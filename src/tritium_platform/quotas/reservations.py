"""Two-phase reservations: what a store of them must promise under concurrency."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from tritium_platform.quotas.model import ReservationState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.quotas.model import QuotaCounter, QuotaMeter, Reservation


def ended_if_used_up(reservation: Reservation) -> Reservation:
    """Return a reservation in the state that follows from what is used of it: with nothing left it ends."""
    if reservation.state is not ReservationState.HELD or reservation.used < reservation.amount:
        return reservation
    return replace(reservation, state=ReservationState.SETTLED if reservation.used else ReservationState.VOID)


class ReservationStore(Protocol):
    """Keeps counters and reservations such that held + used <= limit holds at every instant.

    The limit kept with a counter follows the one given, except that it never falls below what is already
    used and held: a lowered limit refuses new work and breaks nothing that runs.
    """

    async def hold(self, reservation: Reservation, *, limit: int) -> tuple[bool, QuotaCounter]:
        """Set the amount aside if it fits, in one atomic step; return whether, and the counter afterwards.

        What is used of the reservation already is used at once.
        """

    async def settle(self, reservation_id: UUID, *, tenant_id: UUID, amount: int, at: datetime) -> bool:
        """Turn a held reservation into `amount` used (0 <= amount <= reserved); False if it was not held.

        A reservation that expired is settled too, as far as the amount still fits.
        """

    async def void(self, reservation_id: UUID, *, tenant_id: UUID, at: datetime) -> bool:
        """Give back a held reservation; False if it was not held."""

    async def use(self, reservation_id: UUID, *, tenant_id: UUID, amount: int, at: datetime) -> bool:
        """Use up a part of a held reservation, whose last part settles it; False if it does not hold so much.

        A part of one that expired is used as far as it still fits.
        """

    async def shrink(self, reservation_id: UUID, *, tenant_id: UUID, amount: int, at: datetime) -> bool:
        """Give back all but `amount` of a held reservation, or all but its use; False if it held no more.

        The same again changes nothing. One that is used up by it is settled, one that is empty is void.
        """

    async def expire(self, *, at: datetime, limit: int) -> Sequence[Reservation]:
        """Give back up to `limit` held reservations whose time was over at `at`, and return them."""

    async def release(self, tenant_id: UUID, *, meter: QuotaMeter, period: str, amount: int) -> int:
        """Take back up to `amount` of what is used (storage that was freed); return how much."""

    async def counter(self, tenant_id: UUID, *, meter: QuotaMeter, period: str) -> QuotaCounter | None:
        """Return a counter, None if nothing was ever reserved."""
