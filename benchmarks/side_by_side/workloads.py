"""What is measured, in which order: within a round, ours and every peer take turns at each figure."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from random_models import SHAPES, cached_random_model

from side_by_side.machine import noise
from side_by_side.servers import Server, llama_cpp_python_server, llama_server, running, tritium_server
from side_by_side.streams import measure_intrusion, measure_streams
from side_by_side.worker import Worker
from tritium import export_gguf
from tritium.formats.native import open_native

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

KINDS = ("tq2_0", "tq1_0")
THREADS = (1, 2)
KERNEL_SHAPES = ((6912, 2560), (2560, 6912), (2560, 2560))  # out x in
KERNEL_BATCHES = (1, 2, 4, 8, 16, 32, 512)
KERNEL_SECONDS = 0.12
DECODE_TOKENS, PREFILL_TOKENS = 128, 512
STREAMS, STREAM_PROMPT, STREAM_TOKENS, LONG_PROMPT = 16, 64, 64, 2000
SLOT_CONTEXT = 2304  # the longest stream, or the long prompt
SLOW_PEER_ROUNDS = 1  # TQ1_0 and the server without batching take minutes: fewer rounds

Figures = dict[str, list[float]]


@dataclass(frozen=True)
class Programs:
    """The environments to measure; `environment` is set for ours alone (TRITIUM_ISA)."""

    ours: Path
    peer: Path
    llama_server: Path | None
    models: Path
    logs: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def our_worker(self, *arguments: str) -> Worker:
        """A process with Tritium."""
        log = self.logs / "ours.log"
        return Worker("our_worker", *arguments, python=self.ours, log=log, environment=self.environment)

    def peer_worker(self, *arguments: str) -> Worker:
        """A process with llama.cpp."""
        return Worker("llama_cpp_worker", *arguments, python=self.peer, log=self.logs / "llama_cpp.log")

    def native(self, shape: str) -> Path:
        """The random model of a shape, written the first time."""
        return cached_random_model(self.models / shape, SHAPES[shape])

    def gguf(self, shape: str, kind: str) -> Path:
        """The same weights for llama.cpp."""
        path = self.models / f"{shape}-{kind}.gguf"
        if not path.exists():
            export_gguf(self.native(shape), path, ternary_type=kind)
        return path

    def embedding_bits(self) -> float:
        """Bits a weight of the embeddings of our random 2B model, scales included."""
        with open_native(self.native("2b4t"), verify=False) as native:
            stored = sum(
                info.nbytes for name, info in native.checkpoint.tensors.items() if "embed_tokens" in name
            )
        return 8 * stored / (SHAPES["2b4t"].vocabulary * SHAPES["2b4t"].hidden)


class Collected:
    """Every figure of every round, by name."""

    def __init__(self) -> None:
        self.figures: dict[str, Figures] = {}
        self.rounds: list[dict[str, Any]] = []

    def add(self, section: str, name: str, value: float) -> None:
        """Append a figure and show it."""
        self.figures.setdefault(section, {}).setdefault(name, []).append(round(value, 4))
        print(f"{section:12} {name:58} {value:10.2f}", flush=True)


def probe(worker: Worker, collected: Collected, *, when: str) -> None:
    """Note what the machine can do at this moment, and who else is at work."""
    for threads in THREADS:
        for name, value in worker.ask("machine", threads=threads).items():
            collected.add("machine", f"{name}, {threads} threads", value)
    collected.rounds.append({"when": when, **noise(0.5)})


def whole_model(
    programs: Programs, collected: Collected, *, rounds: int, kinds: tuple[str, ...] = KINDS
) -> None:
    """Decode and prefill of the 2-billion shape, one stream."""
    with ExitStack() as stack:
        ours = {
            threads: stack.enter_context(programs.our_worker(str(programs.native("2b4t")), str(threads)))
            for threads in THREADS
        }
        peers = {
            kind: stack.enter_context(programs.peer_worker(str(programs.gguf("2b4t", kind))))
            for kind in kinds
        }
        for number in range(rounds):
            probe(ours[1], collected, when=f"whole model, before round {number + 1}")
            for threads in THREADS:
                for what, tokens in (("decode", DECODE_TOKENS), ("prefill", PREFILL_TOKENS)):
                    label = f"{what}, {threads} threads"
                    collected.add("whole_model", f"ours: {label}", ours[threads].ask(what, tokens=tokens))
                    for kind, peer in peers.items():
                        if kind == "tq2_0" or number < SLOW_PEER_ROUNDS:
                            value = peer.ask(what, tokens=tokens, threads=threads)
                            collected.add("whole_model", f"{kind}: {label}", value)
        probe(ours[1], collected, when="whole model, after")


def concurrent_streams(programs: Programs, collected: Collected, *, rounds: int) -> None:
    """Sixteen streams of the 125M shape: through servers, and without one."""
    model, gguf = programs.native("125m"), programs.gguf("125m", "tq2_0")
    servers = [tritium_server(programs.ours, model, threads=2, environment=programs.environment)]
    if programs.llama_server is not None:
        slots = STREAMS + 1
        servers.append(
            llama_server(programs.llama_server, gguf, threads=2, slots=slots, context=SLOT_CONTEXT)
        )
    with ExitStack() as stack:
        ports = {
            server.name: stack.enter_context(running(server, log=programs.logs / f"{number}-server.log"))
            for number, server in enumerate(servers)
        }
        ours = stack.enter_context(programs.our_worker(str(model), "2"))
        peer = stack.enter_context(programs.peer_worker(str(gguf)))
        size = {"count": STREAMS, "prompt": STREAM_PROMPT, "tokens": STREAM_TOKENS}
        for number in range(rounds):
            for server in servers:
                _streams(server, ports[server.name], collected, seed=number)
            collected.add("streams", "ours, LLM.generate: tokens_per_s", ours.ask("streams", **size))
            value = peer.ask("streams", threads=2, **size)
            collected.add("streams", "llama_decode of 16 sequences: tokens_per_s", value)
            for server in servers:
                _intrusion(server, ports[server.name], collected, seed=number)
        probe(ours, collected, when="streams, after")
    slow = llama_cpp_python_server(programs.peer, gguf, threads=2, context=SLOT_CONTEXT)
    with running(slow, log=programs.logs / "slow-server.log") as port:
        for number in range(SLOW_PEER_ROUNDS):
            _streams(slow, port, collected, seed=number)


def _streams(server: Server, port: int, collected: Collected, *, seed: int) -> None:
    size = {"count": STREAMS, "prompt": STREAM_PROMPT, "tokens": STREAM_TOKENS}
    for name, value in measure_streams(server, port, seed=seed, **size).items():
        collected.add("streams", f"{server.name}: {name}", value)


def _intrusion(server: Server, port: int, collected: Collected, *, seed: int) -> None:
    found = measure_intrusion(
        server, port, count=STREAMS, prompt=STREAM_PROMPT, long_prompt=LONG_PROMPT, seed=100 + seed
    )
    for name, value in found.items():
        collected.add("intrusion", f"{server.name}: {name}", value)


def kernels(programs: Programs, collected: Collected, *, rounds: int, kinds: tuple[str, ...] = KINDS) -> None:
    """The ternary product alone, weights cold."""
    with programs.our_worker("-", "2") as ours, programs.peer_worker("-") as peer:
        for number in range(rounds):
            for rows, columns in KERNEL_SHAPES:
                probe(ours, collected, when=f"kernels {rows} x {columns}, round {number + 1}")
                for batch in KERNEL_BATCHES:
                    for threads in THREADS:
                        _kernel(ours, peer, collected, (rows, columns, batch, threads), kinds)


def _kernel(
    ours: Worker, peer: Worker, collected: Collected, size: tuple[int, int, int, int], kinds: tuple[str, ...]
) -> None:
    asked = {
        **dict(zip(("rows", "columns", "batch", "threads"), size, strict=True)),
        "seconds": KERNEL_SECONDS,
    }
    label = f"{size[0]} x {size[1]}, batch {size[2]}, {size[3]} threads"
    collected.add("kernels", f"ours: {label}", ours.ask("kernel", **asked))
    for kind in kinds:
        collected.add("kernels", f"{kind}: {label}", peer.ask("kernel", kind=kind, **asked))
