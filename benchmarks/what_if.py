"""How far a simulation is from what really happens: a trace is played again, and so are other limits.

    python benchmarks/what_if.py [MODEL] [--requests N] [--rate N] [--places N] [--seeds N]

Requests arrive by chance (exponential pauses, prompts of 16 to 128 and answers of 8 to 64 tokens, two
tenants, every third prompt begins like the others of its tenant) at an engine on one thread that writes a
trace. `replay` compares that run with a simulation of it; `what_if` runs the same requests again, for real,
with four times the places, and compares with what the first trace predicts of them; `same_again` is what a
second run of the same differs by. Errors are shares of what was measured, one for each seed.

The clock is the processor time of this process, put forward to the next arrival when there is nothing to do:
other work on the machine lengthens the run and changes the figures little.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tritium.engine import engine as engine_module
from tritium.engine import writing as writing_module
from tritium.engine.config import EngineConfig
from tritium.engine.loading import load_engine
from tritium.engine.recording import TraceRecorder
from tritium.engine.request import GenerationRequest, SamplingParams
from tritium.engine.simulator import config_of, simulate
from tritium.engine.trace import read_trace
from tritium.engine.what_if import figures_of, recorded_figures, what_if

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium.engine.trace import Trace

MODEL = Path(__file__).resolve().parent.parent / "examples" / "models" / "scripture-bitnet-6m-bitlinear"


def asked(count: int, *, rate: float, seed: int) -> list[tuple[float, GenerationRequest]]:
    """Return requests with the seconds after which each of them comes."""
    chance, due, found = random.Random(seed), 0.0, []  # noqa: S311 - a workload
    for number in range(count):
        due += chance.expovariate(rate)
        tenant = chance.choice("ab")
        tokens = [chance.randrange(3, 4000) for _ in range(chance.randint(16, 128))]
        if number % 3 == 0:
            tokens[:32] = [10 + ord(tenant)] * min(32, len(tokens))
        request = GenerationRequest(
            request_id=str(number),
            prompt_token_ids=tuple(tokens),
            sampling=SamplingParams(max_tokens=chance.randint(8, 64), temperature=0, ignore_eos=True),
            tenant=tenant,
            cache_salt=tenant,
        )
        found.append((due, request))
    return found


class Clock:
    """Processor seconds of this process, and those that were skipped."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def monotonic(self) -> float:
        """Return the seconds since some beginning."""
        return time.process_time() + self._ahead

    def monotonic_ns(self) -> int:
        """Return the same in nanoseconds."""
        return round(self.monotonic() * 1e9)

    def skip_to(self, moment: float) -> None:
        """Put the clock forward to a moment, unless that is past."""
        self._ahead += max(0.0, moment - self.monotonic())


def run(model: Path, requests: Sequence[tuple[float, GenerationRequest]], *, places: int) -> Trace:
    """Serve the requests when they are due, and return the trace."""
    clock = Clock()
    for module in (engine_module, writing_module):
        module.time = clock
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "trace.jsonl"
        engine = load_engine(model, threads=1, config=EngineConfig(max_running=places)).engine
        if engine is None:
            raise SystemExit("The model does not write text.")
        engine.add_request(replace(requests[0][1], request_id="warm", arrival=clock.monotonic()))
        while engine.has_work:
            engine.step()
        engine.record(TraceRecorder(path, clock=clock.monotonic), model=model.name)
        began, waiting = clock.monotonic(), deque(requests)
        while waiting or engine.has_work:
            if not engine.has_work:
                clock.skip_to(began + waiting[0][0])
            while waiting and began + waiting[0][0] <= clock.monotonic():
                due, request = waiting.popleft()
                engine.add_request(replace(request, arrival=began + due))
            engine.step()
        engine.close()
        return read_trace(path)


def errors(predicted: dict[str, float], measured: dict[str, float]) -> dict[str, float]:
    """Return by how much each figure is off, as a share of what was measured."""
    return {name: round(predicted[name] / value - 1, 3) for name, value in measured.items()}


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, default=MODEL)
    parser.add_argument("--requests", type=int, default=150)
    parser.add_argument("--rate", type=float, default=60.0)
    parser.add_argument("--places", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    settings = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {
        "measured": [], "replay": [], "same_again": [], "measured_with_more": [], "what_if": []
    }  # fmt: skip
    for seed in range(settings.seeds):
        requests = asked(settings.requests, rate=settings.rate, seed=seed)
        few, again, many = (
            run(settings.model, requests, places=places * settings.places) for places in (1, 1, 4)
        )
        replay = simulate(few, config=config_of(few.engine), cost=few.sums.fit())
        effects = what_if(few, {"max_running": 4 * settings.places})
        middle = {each.figure: (each.low + each.high) / 2 for each in effects}
        measured, with_more = recorded_figures(few), recorded_figures(many)
        found["measured"].append({name: round(value, 5) for name, value in measured.items()})
        found["replay"].append(errors(figures_of(replay), measured))
        found["same_again"].append(errors(recorded_figures(again), measured))
        found["measured_with_more"].append({name: round(value, 5) for name, value in with_more.items()})
        found["what_if"].append(errors(middle, with_more))
    print(json.dumps({"model": settings.model.name, "rate": settings.rate, **found}, indent=2))


if __name__ == "__main__":
    main()
