"""From a checkpoint to what runs it: an engine for text that is written, a batcher for texts to embed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tritium.engine.batcher import BatcherConfig, EmbeddingBatcher
from tritium.engine.config import EngineConfig
from tritium.engine.engine import Engine
from tritium.engine.recording import TraceRecorder
from tritium.engine.yardstick import measure_yardstick
from tritium.errors import ValidationError
from tritium.model.pretrained import load_model

if TYPE_CHECKING:
    from tritium.engine.sequence import Sequence
    from tritium.engine.turns import SchedulingPolicy
    from tritium.kernels.device import Device
    from tritium.model.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEngine:
    """A model in memory and what runs it: exactly one of engine and batcher is there.

    Attributes:
        name: the last part of the source's path.
        device: what it runs on, with what was measured to choose it.
        max_tokens: the longest context (or input, for a model that embeds).
    """

    name: str
    tokenizer: Tokenizer
    engine: Engine | None
    batcher: EmbeddingBatcher | None
    max_tokens: int
    device: Device


def load_engine(
    source: str | Path,
    *,
    threads: int | None = None,
    config: EngineConfig | None = None,
    policy: SchedulingPolicy[Sequence] | None = None,
    trace: Path | None = None,
) -> LoadedEngine:
    """Load a checkpoint and build what runs it.

    Args:
        source: a path, or a hub name.
        threads: processor threads; None = as many as measurement finds the fastest.
        config: budgets of the engine.
        policy: who comes first; None for fair shares of tenants.
        trace: the file that a trace of the engine's work is written to; None for none. A model that does not
            write text leaves none.

    Raises:
        ValidationError: the checkpoint is damaged or not supported, or has no tokenizer; the trace cannot be
            written.
    """
    if config is not None and not isinstance(config, EngineConfig):
        raise ValidationError(f"config must be an EngineConfig, not {type(config).__name__}.", param="config")
    loaded = load_model(source, threads=threads)
    name, tokenizer = loaded.path.name or Path(source).name, loaded.tokenizer
    if loaded.config.is_encoder:
        limits = BatcherConfig(max_input_tokens=loaded.config.max_positions)
        batcher = EmbeddingBatcher(loaded.encoder.encode, config=limits)
        return LoadedEngine(
            name=name,
            tokenizer=tokenizer,
            engine=None,
            batcher=batcher,
            max_tokens=limits.max_input_tokens,
            device=loaded.device,
        )
    engine = Engine(
        loaded.generator,
        tokenizer=tokenizer,
        end_token_ids=tokenizer.eos_token_ids,
        config=config,
        policy=policy,
    )
    if trace is not None:
        yardstick = measure_yardstick(loaded.generator, loaded.device)
        engine.record(TraceRecorder(trace), model=name, yardstick=yardstick)
    return LoadedEngine(
        name=name,
        tokenizer=tokenizer,
        engine=engine,
        batcher=None,
        max_tokens=engine.context_limit,
        device=loaded.device,
    )
