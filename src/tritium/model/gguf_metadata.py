"""What a GGUF file says about a model beside its weights: shape, rope, tokenizer, chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.formats.gguf import TensorType
from tritium.formats.gguf_shards import model_name
from tritium.formats.gguf_tokenizer import numbered_vocabulary, tokenizer_metadata
from tritium.model.companions import TOKENIZER_FILE
from tritium.model.gguf_gemma import PERIODS, gemma_metadata
from tritium.model.gguf_names import PLANE_RATIO, PLANE_RATIO_KEY, PLANES_KEY, PLANES_SUFFIX
from tritium.model.rope import RopeKind, RopeParameters, inverse_frequencies
from tritium.model.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tritium.formats.checkpoint import Checkpoint
    from tritium.formats.gguf import Value
    from tritium.model.config import ModelConfig

# llama.cpp's numbers for "mostly of this type"
FILE_TYPES = {TensorType.TQ1_0: 36, TensorType.TQ2_0: 37, TensorType.I2_S: 40}
QUANTIZATION_VERSION = 2


def gguf_metadata(
    checkpoint: Checkpoint, config: ModelConfig, *, architecture: str, ternary: TensorType, planes: int
) -> dict[str, Value]:
    """Return every key of the file; with those of the tokenizer, if the model has one.

    Raises:
        ValidationError: the tokenizer is another model's, or GGUF cannot describe it.
    """
    prefix = architecture + (PLANES_SUFFIX if planes > 1 else "")
    own = {**_shape(config), **_rope(config)}
    if architecture in PERIODS:
        own |= gemma_metadata(config)
    if planes > 1:
        own |= {PLANES_KEY: planes, PLANE_RATIO_KEY: PLANE_RATIO}
    return {
        "general.architecture": prefix,
        "general.name": model_name(checkpoint.path.resolve()),
        "general.file_type": FILE_TYPES[ternary],
        "general.quantization_version": QUANTIZATION_VERSION,
        **{f"{prefix}.{key}": value for key, value in own.items()},
        **_tokenizer(checkpoint, config),
    }


def rope_factors(config: ModelConfig) -> npt.NDArray[np.float32] | None:
    """Return what each frequency is divided by, float32 [head_dim / 2]; None unless the rope is llama3's."""
    rope = config.rope
    if rope is None or rope.kind is not RopeKind.LLAMA3:
        return None
    plain = inverse_frequencies(RopeParameters(theta=rope.theta), head_dim=config.head_dim)
    return plain / inverse_frequencies(rope, head_dim=config.head_dim)


def _shape(config: ModelConfig) -> dict[str, Value]:
    return {
        "vocab_size": config.vocab_size,
        "context_length": config.max_positions,
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
    }


def _rope(config: ModelConfig) -> dict[str, Value]:
    rope = config.rope or RopeParameters(theta=10000.0)
    entries: dict[str, Value] = {
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": rope.theta,
    }
    if rope.kind is RopeKind.LINEAR:
        entries |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}
    return entries


def _tokenizer(checkpoint: Checkpoint, config: ModelConfig) -> dict[str, Value]:
    if not checkpoint.has_file(TOKENIZER_FILE):
        return numbered_vocabulary(config.vocab_size)
    tokenizer = Tokenizer(checkpoint.path, files=checkpoint.embedded)
    tokenizer.validate_against(config)
    entries = tokenizer_metadata(tokenizer.definition, vocab_size=config.vocab_size)
    bos = tokenizer.bos_token_id if config.bos_token_id is None else config.bos_token_id
    if bos is not None:
        entries["tokenizer.ggml.bos_token_id"] = bos
    if tokenizer.eos_token_ids:
        entries["tokenizer.ggml.eos_token_id"] = tokenizer.eos_token_ids[0]
    around = tokenizer.encode("a")
    entries["tokenizer.ggml.add_bos_token"] = bos is not None and around[0] == bos
    if around[-1] in tokenizer.eos_token_ids[:1]:
        entries["tokenizer.ggml.add_eos_token"] = True
    if tokenizer.chat_template_source is not None:
        entries["tokenizer.chat_template"] = tokenizer.chat_template_source
    return entries
