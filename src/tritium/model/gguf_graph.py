"""Under which architecture a model is written to GGUF; where no reader computes what it does, there is none.

What readers compute is read from llama.cpp (src/models): gguf_architecture.py has the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from tritium.errors import ValidationError
from tritium.formats.gguf import TensorType
from tritium.model.export_huggingface import MODEL_TYPES
from tritium.model.gguf_architecture import (
    ARCHITECTURES,
    BITNET,
    BITNET_B158,
    GEMMA2,
    GEMMA3,
    LLAMA,
    QWEN2,
    QWEN3,
)
from tritium.model.gguf_gemma import LOCAL_THETA, PERIODS, query_scalar, sliding_layers
from tritium.model.rope import RopeKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tritium.model.config import ModelConfig

WRITTEN: Final = (LLAMA, QWEN2, QWEN3, GEMMA2, GEMMA3, BITNET, BITNET_B158)
Reason = tuple[str, str]  # a field of the config, and why readers would compute something else


def gguf_architecture(config: ModelConfig, *, ternary: TensorType) -> str:
    """Return the architecture under whose name a model is written.

    Raises:
        ValidationError: readers of this tensor type would run another formula; the message names it.
    """
    graph = _graph(config.model_type, config.activation)
    if graph is None:
        reason = f"this export knows no graph of {config.model_type} with {config.activation}"
        raise _wrong_graph(config, reason, field="model_type")
    for field, reason in _differences(config, graph, ternary):
        raise _wrong_graph(config, reason, field=field)
    return graph


def reader_scales_embeddings_by(config: ModelConfig) -> float | None:
    """Return what readers multiply embeddings by where it is another number than this model's; else None."""
    theirs = float(np.sqrt(np.float32(config.hidden_size)))
    ours = config.scaling.embedding
    is_same = ours == 1 or abs(theirs - ours) <= 1e-6 * theirs  # float32 rounds there
    return None if is_same else theirs


def _graph(model_type: str, activation: str) -> str | None:
    """Return the architecture that is written whose graph has this type's formula and this activation."""
    for name in WRITTEN:
        found = ARCHITECTURES[name]
        if (found.model_type, found.activation) == (model_type, activation):
            return name
    return None


def _differences(config: ModelConfig, graph: str, ternary: TensorType) -> Iterator[Reason]:
    """Yield what readers of this architecture and tensor type would do otherwise."""
    if graph == BITNET_B158 and ternary is not TensorType.I2_S:
        reason = (
            f"llama.cpp runs the architecture bitnet with SiLU, this model has {config.activation}; "
            "bitnet.cpp runs bitnet-b1.58 with relu2: choose the type i2_s for it"
        )
        yield "hidden_act", reason
    if ternary is TensorType.I2_S and graph not in (LLAMA, BITNET, BITNET_B158):
        yield "model_type", f"only bitnet.cpp reads I2_S, and not with {graph}: choose tq2_0 or tq1_0"
    if graph != LLAMA and config.rope is not None and config.rope.kind is RopeKind.LLAMA3:
        yield "rope_parameters", f"the graph of {graph} does not scale rope as llama3 does"
    if graph in _OWN_DIFFERENCES:
        yield from _OWN_DIFFERENCES[graph](config)


def _of_qwen(config: ModelConfig) -> Iterator[Reason]:
    if config.has_attention_output_bias:
        yield "attention_bias", "the graph of qwen3 has no bias behind attention"
    if any(window is not None for window in config.windows):
        yield "use_sliding_window", "the graphs of qwen see everything, and layers of this model slide"


def _of_bitnet(config: ModelConfig) -> Iterator[Reason]:
    if not config.tie_word_embeddings:
        yield "tie_word_embeddings", "the graphs of bitnet read the embeddings as the head"
    if config.has_attention_bias:
        yield "attention_bias", "the graphs of bitnet have no biases"


def _of_gemma(config: ModelConfig, name: str) -> Iterator[Reason]:
    if not config.tie_word_embeddings:
        yield "tie_word_embeddings", "the graphs of gemma read the embeddings as the head"
    if config.has_attention_bias:
        yield "attention_bias", "the graphs of gemma have no biases"
    window = next((window for window in config.windows if window is not None), None)
    slides = sliding_layers(config.num_layers, PERIODS[name])
    if window is None or config.windows != tuple(window if slide else None for slide in slides):
        reason = f"in the graph of {name} all layers but every {PERIODS[name]}. one slide, by one window"
        yield "layer_types", reason
    scalar = query_scalar(
        name,
        layers=config.num_layers,
        hidden=config.hidden_size,
        heads=config.num_heads,
        head_dim=config.head_dim,
    )
    if not np.isclose(config.scaling.attention, scalar**-0.5, rtol=1e-6):
        yield "query_pre_attn_scalar", f"the graph of {name} scales scores by 1 / sqrt({scalar})"


def _of_gemma2(config: ModelConfig) -> Iterator[Reason]:
    yield from _of_gemma(config, GEMMA2)
    for field, cap in (
        ("attn_logit_softcapping", config.scaling.attention_cap),
        ("final_logit_softcapping", config.scaling.logit_cap),
    ):
        if cap is None:
            yield field, "the graph of gemma2 bounds scores and logits always"


def _of_gemma3(config: ModelConfig) -> Iterator[Reason]:
    yield from _of_gemma(config, GEMMA3)
    local = config.local_rope
    if local is None or (local.kind, local.theta) != (RopeKind.DEFAULT, LOCAL_THETA):
        yield "rope_local_base_freq", "in the graph of gemma3 layers that slide have the base 10000"
    if config.scaling.logit_cap is not None:
        yield "final_logit_softcapping", "not every graph of gemma3 bounds logits"


_OWN_DIFFERENCES: Final[Mapping[str, Callable[[ModelConfig], Iterator[Reason]]]] = {
    QWEN2: _of_qwen,
    QWEN3: _of_qwen,
    GEMMA2: _of_gemma2,
    GEMMA3: _of_gemma3,
    BITNET: _of_bitnet,
    BITNET_B158: _of_bitnet,
}


def _wrong_graph(config: ModelConfig, reason: str, *, field: str) -> ValidationError:
    advice = " `--to huggingface` keeps the formula." if config.model_type in MODEL_TYPES else ""
    return ValidationError(
        f"This {config.model_type} cannot be written to GGUF: {reason}. A reader would give wrong text."
        f"{advice}",
        field=field,
    )
