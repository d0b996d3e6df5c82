"""What the architectures of GGUF files compute.

    name           rope                inner activation   head          also
    llama          neighbouring pairs  SiLU               own or tied
    qwen2          halves of a head    SiLU               own or tied   biases on queries, keys and values
    qwen3          halves of a head    SiLU               own or tied   norms on heads
    gemma2         halves of a head    tanh-GELU          tied          four norms a block, caps, windows
    gemma3         halves of a head    tanh-GELU          tied          the same, and norms on heads
    bitnet         halves of a head    SiLU               tied          norms before the output projections
    bitnet-b1.58   halves of a head    squared ReLU       tied          the same
    bitnet-25      the same under an older name, which is read and not written

llama.cpp knows the first six, bitnet.cpp llama and those of bitnet. No key of the file names the activation:
a reader runs the one of its graph, whatever the model was trained with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tritium.model.gguf_names import GEMMA_NORMS, HEAD_NORMS, ROLES

if TYPE_CHECKING:
    from collections.abc import Mapping

LLAMA, QWEN2, QWEN3, GEMMA2, GEMMA3 = "llama", "qwen2", "qwen3", "gemma2", "gemma3"
BITNET, BITNET_25, BITNET_B158 = "bitnet", "bitnet-25", "bitnet-b1.58"
WINDOW_KEYS: Final = frozenset({"attention.sliding_window", "attention.sliding_window_pattern"})
CAP_KEYS: Final = frozenset({"attn_logit_softcapping", "final_logit_softcapping"})
LOCAL_THETA_KEY: Final = "rope.freq_base_swa"
_GEMMA: Final = {**ROLES, **GEMMA_NORMS}


@dataclass(frozen=True, kw_only=True)
class GGUFArchitecture:
    """What one value of general.architecture means here.

    Attributes:
        model_type: in a config.json.
        class_name: in a config.json.
        activation: of the feed-forward part. No published file says it, and runtimes guess: this is what the
            models of this name were trained with.
        is_interleaved: whether the rows of queries and keys stand as ggml rotates them, neighbours together.
        roles: parts of a block, with their names in the file.
        norm_offset: what is added to the weights of norms in the file; readers of it do not add it.
        keys: of the metadata, which this architecture has beside those that all have.
        has_rope_factors: whether its readers divide the frequencies of rope by a tensor of the file.
    """

    model_type: str
    class_name: str
    activation: str = "silu"
    is_interleaved: bool = False
    roles: Mapping[str, str] = field(default_factory=lambda: ROLES)
    norm_offset: float = 0.0
    keys: frozenset[str] = frozenset()
    has_rope_factors: bool = False


def _bitnet(activation: str) -> GGUFArchitecture:
    return GGUFArchitecture(
        model_type="bitnet",
        class_name="BitNetForCausalLM",
        activation=activation,
        has_rope_factors=True,
    )


ARCHITECTURES: Final[Mapping[str, GGUFArchitecture]] = {
    LLAMA: GGUFArchitecture(
        model_type="llama", class_name="LlamaForCausalLM", is_interleaved=True, has_rope_factors=True
    ),
    QWEN2: GGUFArchitecture(model_type="qwen2", class_name="Qwen2ForCausalLM"),
    QWEN3: GGUFArchitecture(model_type="qwen3", class_name="Qwen3ForCausalLM", roles={**ROLES, **HEAD_NORMS}),
    GEMMA2: GGUFArchitecture(
        model_type="gemma2",
        class_name="Gemma2ForCausalLM",
        activation="gelu_pytorch_tanh",
        roles=_GEMMA,
        norm_offset=1.0,
        keys=WINDOW_KEYS | CAP_KEYS,
    ),
    GEMMA3: GGUFArchitecture(
        model_type="gemma3_text",
        class_name="Gemma3ForCausalLM",
        activation="gelu_pytorch_tanh",
        roles={**_GEMMA, **HEAD_NORMS},
        norm_offset=1.0,
        keys=WINDOW_KEYS | {"final_logit_softcapping", LOCAL_THETA_KEY},
    ),
    BITNET: _bitnet("silu"),
    BITNET_25: _bitnet("relu2"),
    BITNET_B158: _bitnet("relu2"),
}
# May have several planes: their ternary types are blocks.
PLANED: Final = (LLAMA, QWEN2, QWEN3, GEMMA2, GEMMA3, BITNET)
