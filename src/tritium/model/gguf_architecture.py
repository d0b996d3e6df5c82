"""Which architecture of a GGUF reader computes what a model computes; where none does, the export stops.

    name           rope              inner activation   norms before the output projections   head
    llama          neighbouring pairs  SiLU               no                                    own or tied
    bitnet         halves of a head    SiLU               yes                                   tied
    bitnet-b1.58   halves of a head    squared ReLU       yes                                   tied

llama.cpp knows the first two, bitnet.cpp all three. No key of the file names the activation: a reader runs
the one of its graph, whatever the model was trained with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tritium.errors import ValidationError
from tritium.formats.gguf import TensorType
from tritium.model.rope import RopeKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritium.model.config import ModelConfig

LLAMA, BITNET, BITNET_B158 = "llama", "bitnet", "bitnet-b1.58"
# (model type, activation) -> the architecture whose graph has both
_GRAPHS: Final[Mapping[tuple[str, str], str]] = {
    ("llama", "silu"): LLAMA,
    ("bitnet", "silu"): BITNET,
    ("bitnet", "relu2"): BITNET_B158,
}


def gguf_architecture(config: ModelConfig, *, ternary: TensorType) -> str:
    """Return the architecture under whose name a model is written.

    Raises:
        ValidationError: readers of this tensor type would run another formula; the message names it.
    """
    activation = config.activation
    graph = _GRAPHS.get((config.model_type, activation))
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


def rotates_neighbours(architecture: str) -> bool:
    """Tell whether a graph rotates neighbouring values of a head; if not, its first half with its second."""
    return architecture == LLAMA


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
