"""Inverse frequencies against transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tritium.model.rope import inverse_frequencies, parse_rope

SCALINGS = [
    {"rope_type": "default", "rope_theta": 10000.0},
    {"rope_type": "default", "rope_theta": 500000.0},
    {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
    {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    },
    {
        "rope_type": "llama3",
        "rope_theta": 1e4,
        "factor": 32.0,
        "low_freq_factor": 0.5,
        "high_freq_factor": 3.0,
    },
]


@pytest.mark.oracle
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("head_dim", [2, 20, 64, 128])
def test_frequencies_are_those_of_transformers(scaling: dict[str, Any], head_dim: int, oracle: Any) -> None:
    from transformers import LlamaConfig  # noqa: PLC0415 - the bare wheel has none
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding  # noqa: PLC0415

    config = LlamaConfig(
        hidden_size=head_dim * 2,
        num_attention_heads=2,
        max_position_embeddings=4096,
        rope_parameters=dict(scaling),
    )
    theirs = LlamaRotaryEmbedding(config).inv_freq.numpy()
    rope = parse_rope({"rope_parameters": scaling}, default_theta=1.0, max_positions=4096)
    np.testing.assert_allclose(inverse_frequencies(rope, head_dim=head_dim), theirs, rtol=3e-7)


@pytest.mark.parametrize("theta", [1.0, 1e12])
@pytest.mark.parametrize("factor", [1e-3, 1e6])
def test_the_outermost_values_give_finite_frequencies(theta: float, factor: float) -> None:
    values = {**SCALINGS[3], "rope_theta": theta, "factor": factor}  # a warning of NumPy would be an error
    rope = parse_rope({"rope_parameters": values}, default_theta=1.0, max_positions=4096)
    assert np.isfinite(inverse_frequencies(rope, head_dim=128)).all()
