"""The kernels on this machine's processor: the face that models and the engine call."""

from __future__ import annotations

from tritium.kernels.reference import (
    dense_matmul,
    embedding_lookup,
    gelu,
    layer_norm,
    paged_attention,
    quantize_activations,
    ragged_attention,
    relu2_multiply,
    rms_norm,
    rope_inplace,
    sample,
    silu_multiply,
    softmax,
    ternary_accumulate,
    ternary_matmul,
    write_kv,
)
from tritium.kernels.weight import TernaryWeight

__all__ = [
    "TernaryWeight",
    "dense_matmul",
    "embedding_lookup",
    "gelu",
    "layer_norm",
    "paged_attention",
    "quantize_activations",
    "ragged_attention",
    "relu2_multiply",
    "rms_norm",
    "rope_inplace",
    "sample",
    "silu_multiply",
    "softmax",
    "ternary_accumulate",
    "ternary_matmul",
    "write_kv",
]
