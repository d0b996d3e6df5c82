"""What the architectures of GGUF files compute; where none computes what a model does, the export stops.

    name           rope              inner activation   norms before the output projections   head
    llama          neighbouring pairs  SiLU               no                                    own or tied
    bitnet         halves of a head    SiLU               yes                                   tied
    bitnet-b1.58   halves of a head    squared ReLU       yes                                   tied
    bitnet-25      the same under an older name, which is read and not written

llama.cpp knows the first two, bitnet.cpp the first three. No key of the file names the activation: a reader
runs the one of its graph, whatever the model was trained with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tritium.errors import ValidationError
from tritium.formats.gguf import TensorType
from tritium.model.rope import RopeKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritium.model.config import ModelConfig

LLAMA, BITNET, BITNET_25, BITNET_B158 = "llama", "bitnet", "bitnet-25", "bitnet-b1.58"


@dataclass(frozen=True)
class GGUFArchitecture:
    """What one value of general.architecture means here.

    Attributes:
        model_type: in a config.json.
        class_name: in a config.json.
        activation: of the feed-forward part. No published file says it, and runtimes guess: this is what the
            models of this name were trained with.
        is_interleaved: whether the rows of queries and keys stand as ggml rotates them, neighbours together.
    """

    model_type: str
    class_name: str
    activation: str
    is_interleaved: bool


ARCHITECTURES: Final[Mapping[str, GGUFArchitecture]] = {
    LLAMA: GGUFArchitecture("llama", "LlamaForCausalLM", "silu", is_interleaved=True),
    BITNET: GGUFArchitecture("bitnet", "BitNetForCausalLM", "silu", is_interleaved=False),
    BITNET_25: GGUFArchitecture("bitnet", "BitNetForCausalLM", "relu2", is_interleaved=False),
    BITNET_B158: GGUFArchitecture("bitnet", "BitNetForCausalLM", "relu2", is_interleaved=False),
}
WRITTEN: Final = (LLAMA, BITNET, BITNET_B158)
PLANED: Final = (LLAMA, BITNET)  # may have several planes: their ternary types are blocks


def gguf_architecture(config: ModelConfig, *, ternary: TensorType) -> str:
    """Return the architecture under whose name a model is written.

    Raises:
        ValidationError: readers of this tensor type would run another formula; the message names it.
    """
    activation = config.activation
    graph = _graph(config.model_type, activation)
    if graph is None:
        raise _wrong_graph(
            config, f"this export knows no graph of {config.model_type} with {activation}", field="model_type"
        )
    if graph == BITNET_B158 and ternary is not TensorType.I2_S:
        raise _wrong_graph(
            config,
            f"llama.cpp runs the architecture bitnet with SiLU, this model has {activation}; bitnet.cpp runs "
            "bitnet-b1.58 with relu2: choose the type i2_s for it",
            field="hidden_act",
        )
    if graph != LLAMA:
        _require_bitnet_graph(config)
    return graph


def _graph(model_type: str, activation: str) -> str | None:
    """Return the architecture that is written whose graph has this type's formula and this activation."""
    for name in WRITTEN:
        found = ARCHITECTURES[name]
        if (found.model_type, found.activation) == (model_type, activation):
            return name
    return None


def _require_bitnet_graph(config: ModelConfig) -> None:
    if not config.tie_word_embeddings:
        raise _wrong_graph(
            config, "the graphs of bitnet read the embeddings as the head", field="tie_word_embeddings"
        )
    if config.has_attention_bias:
        raise _wrong_graph(config, "the graphs of bitnet have no biases", field="attention_bias")
    if config.rope is not None and config.rope.kind is RopeKind.LLAMA3:
        raise _wrong_graph(
            config, "the graphs of bitnet do not scale rope as llama3 does", field="rope_parameters"
        )


def _wrong_graph(config: ModelConfig, reason: str, *, field: str) -> ValidationError:
    return ValidationError(
        f"This {config.model_type} cannot be written to GGUF: {reason}. A reader would give wrong text. "
        "`--to huggingface` keeps the formula.",
        field=field,
    )
