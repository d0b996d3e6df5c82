"""A model whose layers stay in the checkpoint gives the bits of one that lies in memory."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tritium.errors import ValidationError
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.safetensors import write_safetensors
from tritium.model.config import parse_config
from tritium.model.pretrained import build_model, load_model
from tritium.model.stored import StoredLinear, StoredWeights
from tritium.model.weights import CheckpointWeights

if TYPE_CHECKING:
    from pathlib import Path

IDS = np.array([5, 0, 4095, 5, 77], dtype=np.int32)


@pytest.fixture
def as_float16(scripture_llama: Path, tmp_path: Path) -> Path:
    """The dense model in float16, which no kernel takes as it lies."""
    shutil.copytree(scripture_llama, tmp_path / "float16")
    with open_checkpoint(scripture_llama) as source:
        tensors = {name: source.read_float32(name).astype(np.float16) for name in source.tensors}
    write_safetensors(tmp_path / "float16" / "model.safetensors", tensors)
    return tmp_path / "float16"


@pytest.mark.parametrize("model", ["scripture_llama", "as_float16", "scripture_bitnet_offline"])
@pytest.mark.parametrize("memory_map_above", [0, 1 << 40])
def test_it_computes_the_same_bits(request, model, memory_map_above):
    path = request.getfixturevalue(model)
    with open_checkpoint(path, memory_map_above=memory_map_above) as checkpoint:
        config = parse_config(checkpoint.config, tensors=checkpoint.tensors)
        weights = StoredWeights(checkpoint, CheckpointWeights(checkpoint, config))
        stored = build_model(config, weights, pooling=None, threads=2)
        assert all(isinstance(linear, StoredLinear) for linear in stored.linears().values())
        whole = load_model(path, threads=1).generator
        np.testing.assert_array_equal(stored.forward_full(IDS), whole.forward_full(IDS), strict=True)
        shapes = [(linear.out_features, linear.in_features) for linear in stored.linears().values()]
        expected = [(linear.out_features, linear.in_features) for linear in whole.linears().values()]
        assert shapes == expected
        assert (stored.head.out_features, stored.head.in_features) == (4096, config.hidden_size)


def test_a_token_outside_the_table_is_refused(scripture_llama):
    with open_checkpoint(scripture_llama) as checkpoint:
        config = parse_config(checkpoint.config, tensors=checkpoint.tensors)
        weights = StoredWeights(checkpoint, CheckpointWeights(checkpoint, config))
        stored = build_model(config, weights, pooling=None, threads=1)
        with pytest.raises(ValidationError, match="outside the vocabulary"):
            stored.forward_full([4096])
