"""How much may wait for the engine: a place is taken before anything is begun, or refused with the limit."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium.engine.request import QueueFullError
from tritium.errors import InsufficientMemoryError, Recovery

if TYPE_CHECKING:
    from tritium.engine.config import EngineConfig
    from tritium.engine.request import GenerationRequest

_TOKEN_BYTES = 8
_BIAS_BYTES = 16
_NEWEST = 0.2  # weight of the newest interval between two that left


@dataclass(frozen=True, slots=True)
class _Place:
    tenant: str
    arrival: float
    load: Counter[str]


class WaitingRoom:
    """Counts what waits, of each tenant and of all, in requests, tokens of prompts and bytes; thread-safe.

    All together stay within the limits. A tenant that has a name may moreover hold at most as much as it
    leaves free, so that n of them that ask without end leave one part in n + 1 to whoever comes next.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._limits = {
            "requests": config.max_waiting,
            "tokens": config.max_waiting_tokens,
            "bytes": config.max_waiting_bytes,
        }
        self._patience = config.max_waiting_seconds
        self._lock = threading.Lock()
        self._places: dict[str, _Place] = {}  # by request, oldest first
        self._loads: dict[str, Counter[str]] = {}  # by tenant
        self._whole: Counter[str] = Counter()
        self._left_at: float | None = None
        self._interval = 0.0  # seconds between two that left while others waited
        self.refused: Counter[str] = Counter()  # requests by the limit in the way
        self.is_short_of_memory = False  # the engine can hold no more than what it has

    def has_place(self, request: GenerationRequest) -> bool:
        """Return whether a request would be let in now."""
        with self._lock:
            is_full = self._obstacle(request.tenant, _load_of(request)) is not None
            return not (is_full or self.is_short_of_memory)

    def require_place(self, request: GenerationRequest) -> None:
        """Check that a request would be let in now.

        Raises:
            QueueFullError: details: limit_name, limit, current (of the tenant or of all), retry_after.
            InsufficientMemoryError: memory is short and others run; details: retry_after.
        """
        with self._lock:
            self._require(request.tenant, _load_of(request))

    def enter(self, request: GenerationRequest) -> None:
        """Take a place for a request; harmless if it has one. Raises as `require_place` does."""
        load = _load_of(request)
        with self._lock:
            if request.request_id not in self._places:
                self._require(request.tenant, load)
                self._places[request.request_id] = _Place(request.tenant, request.arrival, load)
                self._loads.setdefault(request.tenant, Counter()).update(load)
                self._whole.update(load)

    def leave(self, request_id: str) -> None:
        """Give a place back: the request begins, or is given up. Harmless if it has none."""
        with self._lock:
            place = self._places.pop(request_id, None)
            if place is None:
                return
            self._whole.subtract(place.load)
            own = self._loads[place.tenant]
            own.subtract(place.load)
            if not own["requests"]:
                del self._loads[place.tenant]
            now = time.monotonic()
            if self._left_at is not None:
                self._interval += _NEWEST * (now - self._left_at - self._interval)
            self._left_at = now if self._places else None

    def overdue(self, now: float) -> list[str]:
        """Return the requests that have waited longer than any may, oldest first."""
        found = []
        with self._lock:
            for request_id, place in self._places.items():
                if self._patience is None or now - place.arrival <= self._patience:
                    break
                found.append(request_id)
        return found

    def waited_too_long(self) -> tuple[str, float]:
        """Return what an overdue request is told, and after how many seconds it may try again."""
        self.refused["seconds"] += 1
        message = (
            f"The request waited {self._patience} s and had no turn: try again when there is less to do."
        )
        return message, self._retry_after

    @property
    def _retry_after(self) -> float:
        return max(1.0, self._interval)

    def _until_room(self, name: str, tenant: str, load: Counter[str], *, is_own: bool) -> float:
        """Return the seconds until so many have left, at the pace until now, that a request would come in.

        Each that leaves frees what waits on the average. Tenants have turns: one in so many as wait is the
        tenant's own, and frees both its part and what it must leave to others.
        """
        whole, mean = self._whole[name] + load[name], self._whole[name] / len(self._places)
        short, freed = whole - self._limits[name], mean
        if is_own:
            short += self._loads[tenant][name] + load[name]
            freed += mean / len(self._loads)
        everybody = len(self._places)  # whoever is alone comes in
        leaving = min(everybody, math.ceil(short / freed)) if freed else everybody
        return max(1.0, self._interval * leaving)

    def _require(self, tenant: str, load: Counter[str]) -> None:
        if self.is_short_of_memory:
            self.refused["memory"] += 1
            raise InsufficientMemoryError(
                "The engine is short of memory and takes nothing new until some of its requests have ended: "
                "try again soon.",
                recovery=Recovery.RETRY_AFTER,
                retry_after=self._retry_after,
            )
        obstacle = self._obstacle(tenant, load)
        if obstacle is None:
            return
        name, current, whose = obstacle
        self.refused[name] += 1
        raise QueueFullError(
            f"Too many {name} are waiting{whose}: try again soon.",
            limit_name=name,
            limit=self._limits[name],
            current=current,
            retry_after=self._until_room(name, tenant, load, is_own=bool(whose)),
        )

    def _obstacle(self, tenant: str, load: Counter[str]) -> tuple[str, int, str] | None:
        """Return the limit in the way, what waits already, and whose that is; None if there is none."""
        own = self._loads.get(tenant, Counter())
        for name, limit in self._limits.items():
            # Whoever is alone comes in, however large: it would be too large for ever.
            whole = self._whole[name] + load[name]
            if self._places and whole > limit:
                return name, self._whole[name], ""
            if tenant and own["requests"] and own[name] + load[name] > limit - whole:
                return name, own[name], " already for this tenant"
        return None


def _load_of(request: GenerationRequest) -> Counter[str]:
    sampling, num_tokens = request.sampling, len(request.prompt_token_ids)
    size = _TOKEN_BYTES * num_tokens + _BIAS_BYTES * len(sampling.logit_bias)
    size += sum(len(text.encode(errors="surrogatepass")) for text in sampling.stop)
    size += 0 if sampling.grammar is None else len(sampling.grammar.source.encode(errors="surrogatepass"))
    return Counter(requests=1, tokens=num_tokens, bytes=size)
