"""Moments as callers write them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator


def _of_a_calendar(moment: datetime) -> datetime:
    """Refuse what is before the year 1 or after 9999 in UTC, in which all moments are kept."""
    try:
        moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("the moment is outside of the calendar") from None
    return moment


Moment = Annotated[datetime, AfterValidator(_of_a_calendar)]
