"""A process that asks the shared limits of a directory: `limiter_worker.py DIRECTORY`, then commands by line.

enter TENANT N RPM PLACES NOW    ask N times for one request; answers how many were admitted
hammer TENANT RPM NOW            enter for ever, a byte for each that was admitted
churn TENANT PLACES NOW          enter and leave for ever; answers when it has begun
"""

# ruff: noqa: T201 - it answers on standard output

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from uuid import UUID

from tritium_platform.adapters.shared_limiter import SharedLimiter
from tritium_platform.errors import OverloadedError
from tritium_platform.quotas.limiter import Refusal
from tritium_platform.tenancy.model import TierLimits

MANY = 2**40


def limits_of(*, rate: int = MANY, places: int = MANY) -> TierLimits:
    return TierLimits(
        monthly_quota=MANY,
        max_model_size=MANY,
        requests_per_minute=rate,
        tokens_per_minute=MANY,
        max_concurrent_requests=places,
        max_storage=MANY,
        events_per_minute=MANY,
    )


def main() -> None:
    limiter = SharedLimiter(Path(sys.argv[1]))
    print(limiter.seat, flush=True)
    for line in sys.stdin:
        command, tenant, *numbers = line.split()
        tenant_id, (*counts, now) = UUID(tenant), map(int, numbers)

        def enters(limits: TierLimits, tenant_id: UUID = tenant_id, now: int = now) -> bool:
            while True:
                with contextlib.suppress(OverloadedError):  # whoever has the lock waits for a processor
                    decided = limiter.enter(tenant_id, limits=limits, requests=1, tokens=1, now=now)
                    return not isinstance(decided, Refusal)

        if command == "enter":
            limits = limits_of(rate=counts[1], places=counts[2])
            print(sum(enters(limits) for _ in range(counts[0])), flush=True)
        elif command == "hammer":
            limits = limits_of(rate=counts[0])
            while enters(limits):
                sys.stdout.buffer.raw.write(b".")
            return
        elif command == "churn":
            limits = limits_of(places=counts[0])
            print("churning", flush=True)
            while True:
                if enters(limits):
                    limiter.leave(tenant_id, requests=1, tokens=1)


if __name__ == "__main__":
    main()
