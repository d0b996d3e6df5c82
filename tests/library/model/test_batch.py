"""A row's result never depends on the rows beside it, nor on how its sequence was cut into steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.kernels.pages import BLOCK_SIZE
from tritium.model.batch import ForwardBatch, KVCache
from tritium.model.pretrained import load_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tritium.model.decoder import DecoderModel


@pytest.fixture(scope="module")
def random_qwen3(random_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that no plan can hold: its operations are carried out one by one."""
    config = {
        "model_type": "qwen3",
        "hidden_size": 40,
        "intermediate_size": 72,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_hidden_layers": 2,
        "max_position_embeddings": 64,
        "vocab_size": 4096,
    }
    return random_checkpoint(tmp_path_factory.mktemp("qwen3") / "model", config)


@pytest.fixture(scope="module", params=["scripture_llama", "scripture_bitnet_bitlinear", "random_qwen3"])
def model(request: pytest.FixtureRequest) -> DecoderModel:
    return load_model(request.getfixturevalue(request.param)).generator


def _step(cache: KVCache, pieces: list[tuple[np.ndarray, int, int]], tables: np.ndarray) -> ForwardBatch:
    """A batch of (all tokens, first new, end) for some sequences; every new row's logits are wanted."""
    counts = [stop - start for _, start, stop in pieces]
    positions = np.concatenate([np.arange(start, stop, dtype=np.int32) for _, start, stop in pieces])
    rows = np.repeat(np.arange(len(pieces)), counts)
    size = BLOCK_SIZE
    return ForwardBatch(
        token_ids=np.concatenate([tokens[start:stop] for tokens, start, stop in pieces]).astype(np.int32),
        positions=positions,
        sequence_starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        block_tables=tables,
        context_lengths=np.array([stop for _, _, stop in pieces], dtype=np.int32),
        slots=tables[rows, positions // size].astype(np.int64) * size + positions % size,
        logit_rows=np.arange(len(positions), dtype=np.int32),
    )


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_cut_into_prefill_chunks_and_decode_steps_gives_the_same_bits(
    model: DecoderModel, data: st.DataObject
) -> None:
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    random = np.random.default_rng(sum(lengths))
    sequences = [random.integers(0, model.config.vocab_size, length) for length in lengths]
    expected = [model.forward_full(sequence) for sequence in sequences]
    cache = model.new_cache(16)
    tables = random.permutation(16)[: 3 * len(lengths)].reshape(len(lengths), 3).astype(np.int32)
    done, found = [0] * len(lengths), [np.zeros((0, model.config.vocab_size), np.float32)] * len(lengths)
    while any(done[i] < lengths[i] for i in range(len(lengths))):
        active = [i for i in range(len(lengths)) if done[i] < lengths[i]]
        stops = {i: done[i] + data.draw(st.integers(1, lengths[i] - done[i])) for i in active}
        pieces = [(sequences[i], done[i], stops[i]) for i in active]
        logits = model.forward(_step(cache, pieces, np.ascontiguousarray(tables[active])), cache)
        for i in active:
            count = stops[i] - done[i]
            found[i], logits = np.concatenate([found[i], logits[:count]]), logits[count:]
            done[i] = stops[i]
    for actual, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(actual.view(np.uint32), wanted.view(np.uint32))


def test_threads_do_not_change_a_bit(scripture_bitnet_offline: Path) -> None:
    token_ids = np.arange(30) * 7
    one = load_model(scripture_bitnet_offline, threads=1).generator.forward_full(token_ids)
    two = load_model(scripture_bitnet_offline, threads=2).generator.forward_full(token_ids)
    np.testing.assert_array_equal(one.view(np.uint32), two.view(np.uint32))


def test_only_the_asked_rows_get_logits(model: DecoderModel) -> None:
    batch = ForwardBatch.of_sequences([[1, 2, 3], [4, 5]])
    some = ForwardBatch(**{**vars(batch), "logit_rows": np.array([2, 4], dtype=np.int32)})
    cache = model.new_cache(batch.num_blocks)
    np.testing.assert_array_equal(model.forward(some, cache), model.forward(batch, cache)[[2, 4]])


@pytest.mark.parametrize("token", [-1, 4096, 2**31 - 1])
def test_a_token_outside_the_vocabulary_is_refused(model: DecoderModel, token: int) -> None:
    with pytest.raises(ValidationError, match="vocabulary"):
        model.forward_full([1, token])


def test_a_sequence_beyond_the_context_is_refused(model: DecoderModel) -> None:
    with pytest.raises(ValidationError, match="context"):
        model.forward_full(np.zeros(model.config.max_positions + 1, dtype=np.int32))


def test_an_empty_sequence_is_refused() -> None:
    with pytest.raises(ValidationError, match="empty"):
        ForwardBatch.of_sequences([[1], []])
