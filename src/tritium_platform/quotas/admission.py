"""A request that may run."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from tritium_platform.quotas.model import QuotaCounter, RateStatus, Reservation
from tritium_platform.quotas.standing import Standing
from tritium_platform.values import CalendarMonth

if TYPE_CHECKING:
    from tritium_platform.quotas.model import Allowance


class Admission(msgspec.Struct, frozen=True, kw_only=True, eq=False, gc=False):
    """A request that may run: its reservation, and where its tenant stood when it was admitted.

    Attributes:
        reservation: of one request of the month, or the lease of which it is a part.
        tokens: were taken from the rate; the end gives back what was not needed.
        standing: with the rates and the running requests.
        month: with the quota of the month.
        at: when that was.
        is_leased: whether it is a part of a lease; then it ends by `QuotaService.finish`.
    """

    reservation: Reservation
    tokens: int
    standing: Standing
    month: QuotaCounter
    at: datetime
    is_leased: bool = False

    @property
    def allowance(self) -> Allowance:
        """What the limits left, to tell the caller."""
        seconds = (CalendarMonth.of(self.at).end - self.at).total_seconds()
        month = RateStatus(self.month.limit, max(0, self.month.remaining), seconds)
        return self.standing.allowance(month=month)
