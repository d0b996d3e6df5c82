"""Does the source fit another reading of its config better? Then the config, or what made it, is wrong.

Finite, plausible and wrong output has shipped for each of these: squared ReLU run as SiLU, another base of
rope, scales that divide where they should multiply, norms that were left behind. Nothing in the weights
tells; a text does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from tritium.formats.bitnet_hf import TernaryConvention
from tritium.kernels.device import select_optimal_device
from tritium.model.bitnet import BitNetModel
from tritium.model.family import FAMILIES
from tritium.model.pretrained import LoadedModel, load_model
from tritium.model.rope import RopeKind
from tritium.quantize.source import open_source
from tritium.quantize.text import spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from tritium.model.config import ModelConfig
    from tritium.model.layers import DenseWeight, Linear, Table
    from tritium.model.weights import CheckpointWeights

WINDOWS: Final = 4  # of the text: a wrong formula shows in every one
THETAS: Final = (1e4, 5e5, 1e6)  # the bases that models are trained with
CONVENTIONS: Final[Mapping[TernaryConvention, TernaryConvention]] = {
    TernaryConvention.BITLINEAR: TernaryConvention.AUTOBITLINEAR_OFFLINE,
    TernaryConvention.AUTOBITLINEAR_OFFLINE: TernaryConvention.BITLINEAR,
}


def other_readings(
    source: str | Path, loaded: LoadedModel, *, threads: int | None
) -> dict[str, Callable[[], LoadedModel]]:
    """Return by name how to load a generator under every other reading of its config.

    Args:
        source: a checkpoint to quantize.
        loaded: the same, as its config reads it.
        threads: of the kernels.
    """
    config = loaded.config
    found: dict[str, Callable[[], LoadedModel]] = {
        name: partial(load_model, source, threads=threads, reading=reading)
        for name, reading in _readings(config)
    }
    if config.model_type == "llama" and loaded.ternary_layers:
        found["norms before the output projections"] = partial(_with_sub_norms, source, threads=threads)
    return found


def read_otherwise(windows: int) -> list[int]:
    """Return which of so many windows of a text other readings are run on."""
    return spread(range(windows), count=WINDOWS)


def _readings(config: ModelConfig) -> Iterator[tuple[str, Callable[[ModelConfig], ModelConfig]]]:
    for activation in FAMILIES[config.model_type].activations:
        if activation != config.activation:
            yield f"hidden_act={activation}", _with_activation(activation)
    if config.rope is not None and config.rope.kind is RopeKind.DEFAULT:
        for theta in THETAS:
            if theta != config.rope.theta:
                yield f"rope_theta={theta:g}", _with_theta(theta)
    convention = CONVENTIONS.get(config.ternary.convention)
    if convention is not None:
        ternary = replace(config.ternary, convention=convention)
        yield f"weight_scale as in {convention.value}", lambda known: replace(known, ternary=ternary)


def _with_activation(activation: str) -> Callable[[ModelConfig], ModelConfig]:
    return lambda known: replace(known, activation=activation)


def _with_theta(theta: float) -> Callable[[ModelConfig], ModelConfig]:
    return lambda known: replace(known, rope=None if known.rope is None else replace(known.rope, theta=theta))


@dataclass(frozen=True)
class _UnitSubNorms:
    """The weights of a llama for the graph of bitnet: its further norms are there and change no weight."""

    weights: CheckpointWeights

    def array(self, name: str) -> npt.NDArray[np.float32]:
        config = self.weights.config
        if name.endswith("attn_sub_norm.weight"):
            return np.ones(config.num_heads * config.head_dim, np.float32)
        if name.endswith("ffn_sub_norm.weight"):
            return np.ones(config.intermediate_size, np.float32)
        return self.weights.array(name)

    def dense(self, name: str) -> DenseWeight:
        return self.weights.dense(name)

    def table(self, name: str, *, threads: int) -> Table:
        return self.weights.table(name, threads=threads)

    def linear(self, name: str, *, threads: int) -> Linear:
        return self.weights.linear(name, threads=threads)


def _with_sub_norms(source: str | Path, *, threads: int | None) -> LoadedModel:
    with open_source(source) as opened:
        checkpoint, config = opened.checkpoint, opened.config
        device = select_optimal_device(checkpoint.total_bytes, threads=threads)
        model = BitNetModel(config, _UnitSubNorms(opened.weights), threads=device.threads)
        return LoadedModel(checkpoint.path, config, model, device, files=checkpoint.embedded)
