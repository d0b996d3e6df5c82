"""What fair turns cost, and what a flood of one tenant does to another that stays below its share.

    python benchmarks/fairness.py [MODEL] [--rounds N] [--seconds N]

`throughput`: eight tenants' requests, all there from the start, by fair shares and by arrival, in turns;
tokens per second, and the median over the rounds of the ratio fair / arrival. `isolation`: a quiet tenant
sends half of its share of that throughput (a quarter of the whole), alone, and while another sends ten times
its own share; time to first token from the moment a request was due, and the tokens per second of both.
`policy_us`: one pick, start, token and return to the queue, in microseconds; `schedule_us`: the scheduler's
part of a step of 32 that write, while 200 wait. Prompts are random tokens, so that no prefix is found again.

The engine runs on one thread, and the clock, of its pacing too, is the processor time of this process, put
forward to the next arrival when there is nothing to do: other work on the machine lengthens the run and
changes the figures little.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
import timeit
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from tritium.engine import engine as engine_module
from tritium.engine import writing as writing_module
from tritium.engine.cache import BlockAllocator
from tritium.engine.config import EngineConfig
from tritium.engine.fair_share import FairShare
from tritium.engine.first_come import FirstComeFirstServed
from tritium.engine.loading import load_engine
from tritium.engine.request import GenerationRequest, QueueFullError, SamplingParams
from tritium.engine.scheduler import Scheduler
from tritium.engine.sequence import Sequence

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritium.engine.engine import Engine
    from tritium.engine.scheduler import SchedulingPolicy

MODEL = Path(__file__).resolve().parent.parent / "examples" / "models" / "scripture-bitnet-6m-bitlinear"
POLICIES: dict[str, Callable[[EngineConfig], SchedulingPolicy]] = {
    "fair": lambda _: FairShare(),
    "arrival": lambda _: FirstComeFirstServed(),
}
PROMPT_TOKENS, ANSWER_TOKENS, NUM_REQUESTS, NUM_TENANTS = 64, 32, 192, 8
IDS = itertools.count()


class Clock:
    """Processor seconds of this process, and those that were skipped."""

    def __init__(self) -> None:
        self._ahead = -time.process_time()

    def now(self) -> float:
        """Return the seconds since the clock was made."""
        return time.process_time() + self._ahead

    def skip_to(self, moment: float) -> None:
        """Put the clock forward to a moment, unless that is past."""
        self._ahead += max(0.0, moment - self.now())


@dataclass(frozen=True)
class Load:
    """Requests a second of one tenant, evenly spread but for chance."""

    tenant: str
    rate: float


def new_request(tenant: str, chance: np.random.Generator) -> GenerationRequest:
    """Return a greedy request of the common size."""
    return GenerationRequest(
        request_id=str(next(IDS)),
        prompt_token_ids=tuple(chance.integers(3, 4000, size=PROMPT_TOKENS).tolist()),
        sampling=SamplingParams(temperature=0, max_tokens=ANSWER_TOKENS, ignore_eos=True),
        tenant=tenant,
    )


def throughput(engine: Engine, *, seed: int) -> float:
    """Return answered tokens per second when everybody's requests wait from the start."""
    chance = np.random.default_rng(seed)
    for number in range(NUM_REQUESTS):
        engine.add_request(new_request(f"tenant {number % NUM_TENANTS}", chance))
    clock = Clock()
    while engine.has_work:
        engine.step()
    return NUM_REQUESTS * ANSWER_TOKENS / clock.now()


def arrivals(loads: list[Load], *, seconds: float, chance: np.random.Generator) -> list[tuple[float, str]]:
    """Return when whose request is due, in seconds from the start."""
    return sorted(
        ((number + chance.random()) / load.rate, load.tenant)
        for load in loads
        for number in range(int(load.rate * seconds))
    )


def first_tokens(engine: Engine, loads: list[Load], *, seconds: float, seed: int) -> dict[str, list[float]]:
    """Play the loads; return the times to first token of each tenant, and a time for each token at all."""
    chance = np.random.default_rng(seed)
    due = arrivals(loads, seconds=seconds, chance=chance)
    waits: dict[str, list[float]] = defaultdict(list)
    begun: dict[str, tuple[float, str]] = {}
    clock, place = Clock(), 0
    while clock.now() < seconds:
        while place < len(due) and due[place][0] <= clock.now():
            request = new_request(due[place][1], chance)
            try:
                engine.add_request(request)
                begun[request.request_id] = due[place]
            except QueueFullError:
                waits[f"{due[place][1]}, refused"].append(0.0)
            place += 1
        if not engine.has_work:
            clock.skip_to(due[place][0] if place < len(due) else seconds)
        for output in engine.step():
            waits["tokens"].append(clock.now())
            if output.completion_tokens == 1:
                at, tenant = begun.pop(output.request_id)
                waits[tenant].append(clock.now() - at)
    for request_id in list(engine._sequences):  # noqa: SLF001 - what is left is nobody's
        engine.abort(request_id)
    return waits


def isolation(model: Path, *, rate: float, rounds: int, seconds: float) -> dict[str, object]:
    """Return the quiet tenant's times to first token in milliseconds: alone, and beside a flood."""
    quiet, flood = Load("quiet", rate / 4), Load("flood", 10 * rate / 2)
    found: dict[str, list[float]] = defaultdict(list)
    refused: dict[str, int] = defaultdict(int)
    tokens: dict[str, int] = defaultdict(int)
    scenes = {"alone": ("fair", [quiet]), "flood, fair": ("fair", [quiet, flood])}
    scenes["flood, arrival"] = ("arrival", [quiet, flood])
    for seed in range(rounds):
        for name, (policy, loads) in scenes.items():
            engine = new_engine(model, policy)
            waits = first_tokens(engine, loads, seconds=seconds, seed=seed)
            found[name] += waits["quiet"]
            refused[name] += len(waits["quiet, refused"])
            tokens[name] += len(waits["tokens"])
    figures = {
        name: {
            "requests": len(waits),
            "refused": refused[name],
            "tokens_per_second": round(tokens[name] / rounds / seconds),
            "median_ms": round(statistics.median(waits) * 1000, 2) if waits else None,
            "p95_ms": round(statistics.quantiles(waits, n=20)[-1] * 1000, 2) if len(waits) > 1 else None,
        }
        for name, waits in found.items()
    }
    return {"requests_per_second": {"quiet": quiet.rate, "flood": flood.rate}, **figures}


def new_engine(model: Path, policy: str) -> Engine:
    """Load the model with a policy and warm it up."""
    config = EngineConfig(max_waiting=2 * NUM_REQUESTS)
    engine = load_engine(model, threads=1, config=config, policy=POLICIES[policy](config)).engine
    if engine is None:
        raise SystemExit("The model does not write text.")
    engine.add_request(new_request("nobody", np.random.default_rng(0)))
    while engine.has_work:
        engine.step()
    return engine


def policy_microseconds(policy: str, *, num_tenants: int) -> float:
    """Return what one turn costs among so many tenants with two requests each."""
    turns = POLICIES[policy](EngineConfig())
    for number in range(2 * num_tenants):
        turns.add(new_sequence(number, tenant=str(number % num_tenants)))

    def turn() -> None:
        sequence = turns.next()
        turns.start(sequence)
        turns.charge(sequence)
        turns.stop(sequence)

    return min(timeit.repeat(turn, timer=time.process_time, number=2000, repeat=9)) / 2000 * 1e6


def schedule_microseconds(policy: str) -> float:
    """Return what the scheduler does for one step of 32 sequences that write, 200 others waiting."""
    config = EngineConfig()
    allocator = BlockAllocator(num_blocks=4096, block_size=16)
    turns = POLICIES[policy](config)
    scheduler = Scheduler(allocator, policy=turns, max_batched_tokens=512, max_running=config.max_running)
    for number in range(232):
        scheduler.add(new_sequence(number, tenant=str(number % NUM_TENANTS)))
    while len(scheduler.running) < config.max_running:
        for chunk in scheduler.schedule():
            chunk.sequence.num_computed += chunk.num_tokens
    for sequence in scheduler.running:
        sequence.num_computed = sequence.num_prompt - 1

    def step() -> None:
        for chunk in scheduler.schedule():
            scheduler.record_token(chunk.sequence)

    return min(timeit.repeat(step, timer=time.process_time, number=500, repeat=9)) / 500 * 1e6


def new_sequence(serial: int, *, tenant: str) -> Sequence:
    """Return a sequence that only policy and scheduler look at."""
    request = GenerationRequest(request_id=str(serial), prompt_token_ids=(1,) * PROMPT_TOKENS, tenant=tenant)
    return Sequence(request, decoder=None, limit=100, serial=serial)  # type: ignore[arg-type]


def main() -> None:
    """Measure and print one JSON object."""
    for module in (engine_module, writing_module):
        module.time = SimpleNamespace(monotonic=time.process_time, monotonic_ns=time.process_time_ns)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, default=MODEL)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    settings = parser.parse_args()
    engines = {name: new_engine(settings.model, name) for name in POLICIES}
    rates: dict[str, list[float]] = defaultdict(list)
    for seed in range(settings.rounds + 1):
        for name in sorted(engines, reverse=seed % 2 == 1):
            rates[name].append(throughput(engines[name], seed=seed))
    fair, arrival = rates["fair"][1:], rates["arrival"][1:]  # the first round warms up
    requests_per_second = statistics.median(fair) / ANSWER_TOKENS
    figures = {
        "model": settings.model.name,
        "throughput": {
            "fair": [round(rate) for rate in fair],
            "arrival": [round(rate) for rate in arrival],
            "ratio": round(statistics.median(a / b for a, b in zip(fair, arrival, strict=True)), 4),
        },
        "isolation": isolation(
            settings.model,
            rate=requests_per_second,
            rounds=settings.rounds,
            seconds=settings.seconds,
        ),
        "schedule_us": {name: round(schedule_microseconds(name), 1) for name in POLICIES},
        "policy_us": {
            f"{name}, {count} tenants": round(policy_microseconds(name, num_tenants=count), 2)
            for name in POLICIES
            for count in (10, 10_000)
        },
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
