"""A recorded forward pass is the eager one, bit for bit: for any model, any batch, any number of threads."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import ProcessingError, ValidationError
from tritium.kernels import cpu, packing
from tritium.kernels.attention import write_kv
from tritium.kernels.cpu import TernaryWeight
from tritium.kernels.pages import BLOCK_SIZE, KV_DTYPES
from tritium.model.architecture import architecture_for
from tritium.model.batch import ForwardBatch, KVCache
from tritium.model.bitnet import BitNetModel
from tritium.model.config import parse_config
from tritium.model.gemma2 import Gemma2Model
from tritium.model.gemma3_text import Gemma3TextModel
from tritium.model.layers import CodedLinear, DenseLinear, TernaryLinear
from tritium.model.llama import LlamaModel
from tritium.model.qwen2 import Qwen2Model
from tritium.model.qwen3 import Qwen3Model
from tritium.model.recorder import RecordedForward

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritium.kernels.pages import KvDtype
    from tritium.model.decoder import DecoderModel
    from tritium.model.layers import DenseWeight, Float32, Linear, Table

MODELS = {
    "llama": LlamaModel,
    "bitnet": BitNetModel,
    "qwen2": Qwen2Model,
    "qwen3": Qwen3Model,
    "gemma2": Gemma2Model,
    "gemma3_text": Gemma3TextModel,
}
# What a type has of its own; caps that every score and logit feels.
FIELDS: dict[str, dict[str, Any]] = {
    "gemma2": {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 20},
    "gemma3_text": {
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 20,
        "rope_local_base_freq": 99.0,
    },
}
CONTEXT = 96


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A small model; `scales` is one per "tensor", "row" or "group" of 32 inputs."""

    model_type: str = "llama"
    hidden: int = 48
    inner: int = 160
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 10
    vocabulary: int = 70
    context: int = CONTEXT
    activation: str = "silu"
    is_tied: bool = True
    has_bias: bool = False
    scales: str = "row"
    planes: int = 1
    dense_share: float = 0.0  # of the linear layers
    is_bfloat16: bool = False
    table_bits: int = 16  # of the embedding and the head
    window: int | None = None  # of the first layer and of the last

    def build(self, *, seed: int, threads: int) -> DecoderModel:
        """A model of random weights, the same for the same seed; bitnet derives the size of a head."""
        if self.model_type == "bitnet" and self.heads * self.head_dim != self.hidden:
            return replace(self, head_dim=self.hidden // self.heads).build(seed=seed, threads=threads)
        known = "gelu_pytorch_tanh" if self.model_type in FIELDS else "silu"
        is_plain = self.model_type not in {"llama", "bitnet"}
        if is_plain and (self.activation, self.has_bias) != (known, False):
            return replace(self, activation=known, has_bias=False).build(seed=seed, threads=threads)
        config = parse_config(
            {
                "model_type": self.model_type,
                "hidden_size": self.hidden,
                "num_hidden_layers": 3,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.kv_heads,
                "head_dim": self.head_dim,
                "intermediate_size": self.inner,
                "vocab_size": self.vocabulary,
                "max_position_embeddings": self.context,
                "rms_norm_eps": 1e-5,
                "hidden_act": self.activation,
                "tie_word_embeddings": self.is_tied,
                "attention_bias": self.has_bias,
                "mlp_bias": self.has_bias and self.model_type == "llama",
                **FIELDS.get(self.model_type, {}),
            }
        )
        if self.window is not None:
            config = replace(config, windows=(self.window, None, self.window))
        return MODELS[self.model_type](config, RandomWeights(self, config, seed), threads=threads)


@dataclass
class RandomWeights:
    """Makes every tensor from its name and the seed."""

    shape: Shape
    config: Any
    seed: int

    def _random(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *name.encode()])

    def array(self, name: str) -> Float32:
        width = self.shape.hidden
        if "attn_sub_norm" in name:
            width = self.shape.heads * self.shape.head_dim
        elif "ffn_sub_norm" in name:
            width = self.shape.inner
        elif "q_norm" in name or "k_norm" in name:
            width = self.shape.head_dim
        return self._random(name).uniform(0.5, 1.5, width).astype(np.float32)

    def dense(self, name: str) -> DenseWeight:
        return self._matrix(name, self.shape.vocabulary, self.shape.hidden)

    def table(self, name: str, *, threads: int) -> Table:
        if self.shape.table_bits == 16:
            return self.dense(name)
        coded, _ = cpu.round_to_codes(self.dense(name), bits=self.shape.table_bits)
        return cpu.prepare_coded(coded, threads=threads)

    def linear(self, name: str, *, threads: int) -> Linear:
        random, layer = self._random(name), architecture_for(self.config).linears[name]
        rows, columns = layer.out_features, layer.in_features
        bias = random.standard_normal(rows).astype(np.float32) if layer.has_bias else None
        if random.random() < self.shape.dense_share:
            return DenseLinear(self._matrix(name, rows, columns), bias, threads)
        size = 32 if self.shape.scales == "group" else columns
        trits = random.integers(-1, 2, (self.shape.planes, rows, columns)).astype(np.int8)
        scale_rows = 1 if self.shape.scales == "tensor" else rows
        weight = TernaryWeight(
            planes=np.stack([packing.to_compute_layout(plane) for plane in trits]),
            scales=random.uniform(0.05, 0.2, (scale_rows, -(-columns // size))).astype(np.float32),
            group_size=size,
            in_features=columns,
            out_features=rows,
            divides=self.shape.scales == "tensor",
        )
        return TernaryLinear(cpu.prepare(weight), bias, threads)

    def _matrix(self, name: str, rows: int, columns: int) -> DenseWeight:
        floats = (self._random(name).standard_normal((rows, columns)) * 0.3).astype(np.float32)
        return (floats.view(np.uint32) >> 16).astype(np.uint16) if self.shape.is_bfloat16 else floats


def eager(model: DecoderModel, batch: ForwardBatch, cache: KVCache) -> Float32:
    """The same forward pass without a plan: an observer keeps the model from using one."""
    model.observer = lambda _name, _x: None
    try:
        return model.forward(batch, cache)
    finally:
        model.observer = None


def a_step(cache: KVCache, parts: list[tuple[int, int]], *, wanted: list[int], seed: int) -> ForwardBatch:
    """A batch of sequences with (past, new) tokens; each owns the blocks of a whole context."""
    random = np.random.default_rng(seed)
    per_sequence = -(-max(CONTEXT, *(sum(part) for part in parts)) // BLOCK_SIZE)
    tables = random.permutation(cache.num_blocks)[: len(parts) * per_sequence]
    tables = tables.reshape(len(parts), per_sequence).astype(np.int32)
    counts = [new for _, new in parts]
    rows = np.repeat(np.arange(len(parts)), counts)
    positions = np.concatenate([np.arange(past, past + new, dtype=np.int32) for past, new in parts])
    return ForwardBatch(
        token_ids=random.integers(0, 70, len(positions)).astype(np.int32),
        positions=positions,
        sequence_starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        block_tables=tables,
        context_lengths=np.array([past + new for past, new in parts], dtype=np.int32),
        slots=tables[rows, positions // BLOCK_SIZE].astype(np.int64) * BLOCK_SIZE + positions % BLOCK_SIZE,
        logit_rows=np.array([row % len(positions) for row in wanted], dtype=np.int32),
    )


def caches(
    model: DecoderModel, sequences: int, *, seed: int, dtype: KvDtype = "fp32"
) -> tuple[KVCache, KVCache]:
    """Two caches with the same random past."""
    random = np.random.default_rng(seed)
    blocks = sequences * -(-CONTEXT // BLOCK_SIZE) + 2
    first, second = (model.new_cache(blocks, dtype=dtype) for _ in range(2))
    sizes = (blocks * BLOCK_SIZE, first.kv_heads, first.head_dim)
    for one, other in zip(first.layers, second.layers, strict=True):
        k, v = random.standard_normal((2, *sizes)).astype(np.float32)
        write_kv(k, v, one, np.arange(len(k)))
        other[:] = one
    return first, second


def assert_same_bits(actual: Float32, expected: Float32) -> None:
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


SHAPES = st.builds(
    Shape,
    model_type=st.sampled_from(list(MODELS)),
    hidden=st.sampled_from([32, 48, 200]),
    inner=st.sampled_from([33, 160, 300]),
    kv_heads=st.sampled_from([1, 2, 4]),
    head_dim=st.sampled_from([2, 10, 32]),
    activation=st.sampled_from(["silu", "relu2"]),
    is_tied=st.booleans(),
    has_bias=st.booleans(),
    scales=st.sampled_from(["tensor", "row", "group"]),
    planes=st.integers(1, 3),
    dense_share=st.sampled_from([0.0, 0.5, 1.0]),
    is_bfloat16=st.booleans(),
    table_bits=st.sampled_from([6, 8, 16]),
    window=st.none() | st.integers(1, 70),
)
PARTS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40) | st.just(1)), min_size=1, max_size=6)
DECODES = st.lists(st.tuples(st.integers(0, 90), st.just(1)), min_size=1, max_size=8)


@settings(max_examples=120, deadline=None)
@given(
    shape=SHAPES,
    steps=st.lists(PARTS | DECODES, min_size=1, max_size=3),
    wanted=st.lists(st.integers(0, 99), max_size=5),
    threads=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 99),
    dtype=st.sampled_from(KV_DTYPES),
)
def test_a_plan_gives_the_bits_of_the_eager_pass(
    *,
    shape: Shape,
    steps: list[list[tuple[int, int]]],
    wanted: list[int],
    threads: int,
    seed: int,
    dtype: KvDtype,
) -> None:
    model = shape.build(seed=seed, threads=threads)
    assert model.recorded() is not None
    planned, expected = caches(model, 8, seed=seed, dtype=dtype)
    for number, parts in enumerate(steps):
        batch = a_step(planned, parts, wanted=wanted, seed=seed + number)
        assert_same_bits(model.forward(batch, planned), eager(model, batch, expected))
    for one, other in zip(planned.layers, expected.layers, strict=True):
        np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8))


@pytest.mark.parametrize(
    ("model_type", "threads"), [("llama", 2), ("llama", 3), ("llama", 16), ("gemma2", 3), ("gemma3_text", 3)]
)
def test_a_batch_large_enough_to_be_shared_gives_the_bits_of_one_thread(
    model_type: str, threads: int
) -> None:
    sizes = {"hidden": 256, "inner": 512, "heads": 8, "kv_heads": 4, "head_dim": 32, "vocabulary": 512}
    shape = Shape(model_type=model_type, window=40 if model_type in FIELDS else None, **sizes)
    alone, shared = (shape.build(seed=1, threads=count) for count in (1, threads))
    for parts in ([(0, 90), (30, 1), (7, 33)], [(20, 1)] * 3, [(50, 1)]):
        first, second = caches(alone, 8, seed=2)
        batch = a_step(first, parts, wanted=[0, 5, 17], seed=3)
        for _ in range(20):  # whoever takes which piece
            assert_same_bits(shared.forward(batch, second), alone.forward(batch, first))


@pytest.mark.parametrize(
    "parts", [[(1500, 1)], [(1100, 1), (40, 1)], [(700, 3), (5, 1), (513, 1)], [(900, 30)]]
)
@pytest.mark.parametrize("dtype", KV_DTYPES)
@pytest.mark.parametrize("window", [None, 40, 600])
def test_long_contexts_divided_among_threads_give_the_bits_of_one_thread(
    parts: list[tuple[int, int]], dtype: KvDtype, window: int | None
) -> None:
    shape = Shape(heads=6, kv_heads=2, head_dim=32, context=2048, window=window)
    alone, shared = (shape.build(seed=1, threads=count) for count in (1, 3))
    first, second = caches(alone, 48, seed=2, dtype=dtype)
    batch = a_step(first, parts, wanted=[0, 1, 2], seed=3)
    for _ in range(5):
        assert_same_bits(shared.forward(batch, second), alone.forward(batch, first))
    assert_same_bits(eager(alone, batch, first), shared.forward(batch, second))


def test_a_replaced_layer_is_used_by_the_next_step() -> None:
    model, other = (Shape().build(seed=seed, threads=2) for seed in (1, 2))
    before = model.forward_full([1, 2, 3])
    for name, linear in other.linears().items():
        model.set_linear(name, linear)
        after = model.forward_full([1, 2, 3])
        assert not np.array_equal(after, before)
        before = after
    batch = ForwardBatch.of_sequences([[1, 2, 3]])
    assert_same_bits(before, eager(model, batch, model.new_cache(batch.num_blocks)))


def test_a_layer_the_plan_does_not_know_still_runs() -> None:
    class Doubled:
        in_features, out_features = 48, 20

        def __call__(self, x: Float32) -> Float32:
            return np.ascontiguousarray(x[:, :20] * np.float32(2))

    model = Shape().build(seed=1, threads=1)
    model.set_linear("model.layers.1.self_attn.k_proj", Doubled())
    assert model.recorded() is None
    assert np.isfinite(model.forward_full([1, 2, 3])).all()


@pytest.mark.parametrize("model_type", MODELS)
@pytest.mark.parametrize("dtype", KV_DTYPES)
def test_every_type_is_recorded_and_decodes_bit_for_bit(model_type: str, dtype: KvDtype) -> None:
    shape = Shape(model_type=model_type, head_dim=12, kv_heads=2, window=20, is_tied=False, dense_share=0.3)
    model = shape.build(seed=4, threads=3)
    assert model.recorded() is not None
    planned, expected = caches(model, 3, seed=4, dtype=dtype)
    for past in range(30, 60, 7):
        batch = a_step(planned, [(past, 1), (past + 3, 5), (0, past)], wanted=[0, 3, 9], seed=past)
        assert_same_bits(model.forward(batch, planned), eager(model, batch, expected))


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (lambda plan, q: plan.head_norm(q, np.ones(11, np.float32), 1e-5, 2), "rows of 48"),
        (lambda plan, q: plan.head_norm(q, np.ones(16, np.float32), 1e-5, 2), "multiple"),
        (lambda plan, q: plan.head_norm(q, np.ones(0, np.float32), 1e-5, 2), "width of one"),
        (lambda plan, q: plan.head_norm(q, np.ones(12, np.float32), 1e-5, 0), "width of one"),
        (lambda plan, q: plan.bound(q, 0.0), "positive"),
        (lambda plan, q: plan.bound(q, float("nan")), "positive"),
        (lambda plan, q: plan.scale(q + 1, 2.0), "no value"),
        (lambda plan, q: plan.attention(q, q, q, 0, 4, 4, 1.0, 0, float("inf")), "positive"),
    ],
)
def test_a_plan_refuses_what_does_not_fit(record: Callable[[Any, int], Any], named: str) -> None:
    plan = cpu.Plan(8)
    q = plan.embed(np.zeros((3, 48), np.float32))
    with pytest.raises(ValueError, match=named):
        record(plan, q)


def test_a_recorder_refuses_an_activation_that_it_does_not_know() -> None:
    model = Shape().build(seed=1, threads=1)
    model.config = replace(model.config, activation="gelu")
    with pytest.raises(ValidationError, match="gelu"):
        model.recorded()


@pytest.mark.parametrize("bits", [6, 8])
@pytest.mark.parametrize("sequences", [1, 3, 9])
def test_embedding_and_head_of_codes(bits: int, sequences: int) -> None:
    model = Shape(hidden=200, vocabulary=300).build(seed=1, threads=2)
    floats = np.random.default_rng(1).standard_normal((300, 200)).astype(np.float32)
    coded = cpu.prepare_coded(cpu.round_to_codes(floats, bits=bits)[0])
    model._embedding = replace(model._embedding, weight=coded)
    model.head = CodedLinear(coded, threads=2)
    planned, expected = caches(model, sequences, seed=2)
    batch = a_step(planned, [(5, 1)] * sequences, wanted=list(range(sequences)), seed=3)
    hidden = cpu.coded_lookup(coded, batch.token_ids)
    for index in range(model.config.num_layers):
        hidden = model.run_block(index, hidden, batch, expected)
    rows = model.final_norm(np.ascontiguousarray(hidden[batch.logit_rows]))
    logits = cpu.coded_matmul(coded, *cpu.quantize_activations(rows))
    assert_same_bits(model.forward(batch, planned), logits)


# What the last layer makes is read by no other one: only the rows of the head are looked at.
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj", "model.layers.2.mlp.down_proj"])
def test_an_overflow_is_refused(name: str) -> None:
    model = Shape().build(seed=1, threads=2)
    linear = model.linears()[name]
    shape = (linear.out_features, linear.in_features)
    model.set_linear(name, DenseLinear(np.full(shape, 3e38, np.float32)))
    with pytest.raises(ProcessingError, match="NaN or infinite"):
        model.forward_full([1, 2, 3])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("positions", np.array([0, 1], np.int32)),
        ("sequence_starts", np.array([0, 2], np.int32)),
        ("sequence_starts", np.array([0.0, 3.0], np.float32)),
        ("block_tables", np.array([[7]], np.int32)),
        ("block_tables", np.array([[-1]], np.int32)),
        ("context_lengths", np.array([2], np.int32)),
        ("context_lengths", np.array([17], np.int32)),
        ("slots", np.array([0, 1, 16], np.int64)),
        ("slots", np.array([0, 1, -1], np.int64)),
        ("slots", np.array([0, 1, 2], np.int32)),
        ("logit_rows", np.array([3], np.int32)),
        ("logit_rows", np.array([-1], np.int32)),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(name: str, value: np.ndarray) -> None:
    model = Shape().build(seed=1, threads=1)
    batch = replace(ForwardBatch.of_sequences([[1, 2, 3]]), **{name: value})
    with pytest.raises(ValidationError):
        model.forward(batch, model.new_cache(1))


def test_a_cache_of_another_model_is_refused() -> None:
    batch = ForwardBatch.of_sequences([[1, 2, 3]])
    other = Shape(head_dim=8).build(seed=1, threads=1).new_cache(1)
    with pytest.raises(ValidationError, match="cache"):
        Shape().build(seed=1, threads=1).forward(batch, other)


def test_a_plan_that_does_not_attend_takes_any_cache() -> None:
    plan = cpu.Plan(8)
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    plan.seal(plan.logit_rows(plan.embed(table)))
    batch = ForwardBatch.of_sequences([[2, 0]])
    cache = KVCache(num_layers=1, num_blocks=1, kv_heads=3, head_dim=8)
    assert_same_bits(RecordedForward(plan)(batch, cache, threads=1), table[[2, 0]])


def test_logits_stay_when_the_plan_runs_again_or_is_gone() -> None:
    model = Shape().build(seed=1, threads=1)
    first = model.forward_full([1, 2, 3])
    kept = first.copy()
    for token in range(5):
        model.forward_full([token, token])
    assert_same_bits(first, kept)
    del model
    assert_same_bits(first, kept)


def test_callers_on_several_threads_do_not_disturb_one_another() -> None:
    models = [Shape().build(seed=seed, threads=2) for seed in (1, 1, 2)]
    expected = [model.forward_full(np.arange(40)) for model in models]
    wrong: list[int] = []

    def run(index: int) -> None:
        found = [models[index % 3].forward_full(np.arange(40)) for _ in range(50)]
        wrong.extend(index for logits in found if not np.array_equal(logits, expected[index % 3]))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=run, args=(index,)) for index in range(6)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
