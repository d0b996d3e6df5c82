"""Price versions in SQL."""

from __future__ import annotations

import json
from datetime import datetime
from fractions import Fraction
from typing import TYPE_CHECKING

from sqlalchemy import select

from tritium_platform.adapters.sql.tables.billing import price_versions
from tritium_platform.billing.model import MeterPrice, PriceVersion
from tritium_platform.metering.model import Meter
from tritium_platform.tenancy.model import TenantTier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium_platform.adapters.sql.database import Database


class SqlPriceStore:
    """Keeps price versions; one per `valid_from`, never changed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, version: PriceVersion) -> bool:
        """Keep a version; False if one that starts at the same instant is kept already."""
        statement = (
            self._database.insert(price_versions)
            .values(
                id=version.id,
                currency=version.currency,
                valid_from=version.valid_from,
                body=version.to_json(),
            )
            .on_conflict_do_nothing()
            .returning(price_versions.c.id)
        )
        async with self._database.write() as connection:
            return (await connection.execute(statement)).one_or_none() is not None

    async def list(self) -> Sequence[PriceVersion]:
        """Return all versions by `valid_from`, oldest first."""
        statement = select(price_versions.c.body).order_by(price_versions.c.valid_from, price_versions.c.id)
        async with self._database.read() as connection:
            bodies = (await connection.execute(statement)).scalars().all()
        return [_version(body) for body in bodies]


def _version(body: str) -> PriceVersion:
    """Read what `PriceVersion.to_json` wrote."""
    plain = json.loads(body)
    return PriceVersion(
        currency=plain["currency"],
        valid_from=datetime.fromisoformat(plain["valid_from"]),
        prices={
            TenantTier(tier): {
                Meter(meter): MeterPrice(Fraction(price["unit_price"]), price["included"])
                for meter, price in of_tier.items()
            }
            for tier, of_tier in plain["prices"].items()
        },
    )
