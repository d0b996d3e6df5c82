"""What all decoders share: a causal transformer over ragged batches with a paged cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tritium.errors import ValidationError
from tritium.kernels import cpu
from tritium.model.batch import ForwardBatch, KVCache
from tritium.model.eager import EagerOperations
from tritium.model.family import FAMILIES
from tritium.model.layers import (
    Embedding,
    Float32,
    Linear,
    Observer,
    RMSNorm,
    WeightSource,
    head_of,
    require_finite,
)
from tritium.model.linears import LinearTable
from tritium.model.recorder import RecordedForward, Recorder, can_record
from tritium.model.rope import RopeParameters, inverse_frequencies

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from tritium.kernels.pages import KvDtype
    from tritium.model.config import ModelConfig
    from tritium.model.operations import Operations, Value


@dataclass(frozen=True)
class BlockNames:
    """The linear layers of one block by role."""

    attention_inputs: tuple[str, str, str]
    attention_output: str
    feed_forward_inputs: tuple[str, str]
    feed_forward_output: str

    @classmethod
    def of(cls, block: str) -> BlockNames:
        """Name the layers of a block like "model.layers.N"."""
        attention, mlp = f"{block}.self_attn", f"{block}.mlp"
        return cls(
            attention_inputs=(f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"),
            attention_output=f"{attention}.o_proj",
            feed_forward_inputs=(f"{mlp}.gate_proj", f"{mlp}.up_proj"),
            feed_forward_output=f"{mlp}.down_proj",
        )


class DecoderModel:
    """A causal language model; `forward` never lets one row's result depend on the rows beside it."""

    feed_forward_norm: ClassVar[str] = "post_attention_layernorm"  # on what the feed-forward part reads

    def __init__(self, config: ModelConfig, weights: WeightSource, *, threads: int = 1) -> None:
        self.config = config
        self.threads = threads
        self.inverse_frequencies = layer_frequencies(config)
        root = FAMILIES[config.model_type].root
        blocks = [f"{root}layers.{index}" for index in range(config.num_layers)]
        self._names = [BlockNames.of(block) for block in blocks]
        self._input_norms = [self._norm(weights, f"{block}.input_layernorm") for block in blocks]
        self._feed_forward_norms = [
            self._norm(weights, f"{block}.{self.feed_forward_norm}") for block in blocks
        ]
        self.final_norm = self._norm(weights, f"{root}norm")
        table = weights.table(f"{root}embed_tokens.weight", threads=threads)
        self._embedding = Embedding(table, config.scaling.embedding)
        if not config.tie_word_embeddings:
            table = weights.table("lm_head.weight", threads=threads)
        self.head = head_of(table, threads=threads)
        self._recorded: RecordedForward | None = None
        self.linear_table = LinearTable(
            {
                name: weights.linear(name, threads=threads)
                for names in self._names
                for name in _in_order(names)
            }
        )

    def linears(self) -> dict[str, Linear]:
        """Return the linear layers of all blocks by name, in the order of the forward pass."""
        return self.linear_table.as_dict()

    def set_linear(self, name: str, linear: Linear) -> None:
        """Replace one linear layer by another of the same shape (ValidationError if it is not)."""
        self.linear_table.replace(name, linear)
        self._recorded = None

    @property
    def observer(self) -> Observer | None:
        """What is called with (name, input [M, K]) before each linear layer; None for nothing."""
        return self.linear_table.observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self.linear_table.observer = observer

    def new_cache(self, num_blocks: int, *, dtype: KvDtype = "fp32") -> KVCache:
        """Allocate an empty cache of this model's shape."""
        return KVCache(
            num_layers=self.config.num_layers,
            num_blocks=num_blocks,
            kv_heads=self.config.num_kv_heads,
            head_dim=self.config.head_dim,
            dtype=dtype,
        )

    def forward(self, batch: ForwardBatch, cache: KVCache) -> Float32:
        """Run T new tokens and return the logits of the asked rows, float32 [S, vocabulary].

        Raises:
            ValidationError: a token id outside the vocabulary or a position beyond the context.
            ProcessingError: an activation became NaN or infinite.
        """
        recorded = self.recorded()
        if recorded is None:
            self._check(batch)
            return self._forward(self._eager(batch, cache))
        try:
            return recorded(batch, cache, threads=self.threads)
        except ValidationError:
            self._check(batch)  # says more, if that is what is wrong
            raise

    def forward_full(self, token_ids: npt.ArrayLike) -> Float32:
        """Run one whole sequence [T] with a temporary cache; return its logits, float32 [T, vocabulary]."""
        batch = ForwardBatch.of_sequences([token_ids])
        return self.forward(batch, self.new_cache(batch.num_blocks))

    def embed(self, batch: ForwardBatch) -> Float32:
        """Look the tokens of a batch up: float32 [T, hidden]."""
        self._check(batch)
        return self._embedding(batch.token_ids)

    def run_block(self, index: int, hidden: Float32, batch: ForwardBatch, cache: KVCache) -> Float32:
        """Run one block on [T, hidden]; its keys and values go to the cache."""
        return self.block(self._eager(batch, cache), index, hidden)

    def logits(self, hidden: Float32) -> Float32:
        """Return the logits [T, vocabulary] of [T, hidden] that left the last block."""
        require_finite(hidden)
        logits = self.head(self.final_norm(hidden))
        cap = self.config.scaling.logit_cap
        return logits if cap is None else cpu.bound(logits, cap=cap)

    def recorded(self) -> RecordedForward | None:
        """Return the forward pass as one native call; None if no plan can hold it, or it is observed."""
        if self.observer is not None:
            return None
        if self._recorded is None and can_record(self.linear_table.as_dict()):
            recorder = Recorder(self.config, self.linear_table.as_dict(), self.inverse_frequencies)
            self._recorded = recorder.finish(self._forward(recorder))
        return self._recorded

    def _forward(self, run: Operations[Value]) -> Value:
        hidden = run.embed(self._embedding)
        for index in range(self.config.num_layers):
            hidden = self.block(run, index, hidden)
        logits = run.head(self.head, run.normalise(self.final_norm, run.logit_rows(hidden)))
        cap = self.config.scaling.logit_cap
        return logits if cap is None else run.bound(logits, cap)

    def block(self, run: Operations[Value], index: int, hidden: Value) -> Value:
        """Carry one block out, or record it."""
        attended = self._attend(run, index, run.normalise(self._input_norms[index], hidden))
        hidden = run.add(hidden, self.after_attention(run, index, attended))
        fed = self._feed_forward(run, index, run.normalise(self._feed_forward_norms[index], hidden))
        return run.add(hidden, self.after_feed_forward(run, index, fed))

    def _attend(self, run: Operations[Value], index: int, x: Value) -> Value:
        names = self._names[index]
        q, k, v = self.project(run, names.attention_inputs, x)
        mixed = run.attend(index, *self.normalise_heads(run, index, q, k), v)
        return self.project(run, [names.attention_output], self.normalise_attention(run, index, mixed))[0]

    def _feed_forward(self, run: Operations[Value], index: int, x: Value) -> Value:
        names = self._names[index]
        inner = run.gate(*self.project(run, names.feed_forward_inputs, x))
        return self.project(run, [names.feed_forward_output], self.normalise_feed_forward(run, index, inner))[
            0
        ]

    def project(self, run: Operations[Value], names: Sequence[str], x: Value) -> list[Value]:
        """Run named linear layers on the same rows; llama puts nothing between."""
        return run.linears(names, x)

    def normalise_heads(self, run: Operations[Value], index: int, q: Value, k: Value) -> tuple[Value, Value]:
        """Normalise the heads of queries and keys before they are turned; llama does not."""
        del run, index
        return q, k

    def normalise_attention(self, run: Operations[Value], index: int, x: Value) -> Value:
        """Normalise what attention mixed before it is projected; llama does not."""
        del run, index
        return x

    def normalise_feed_forward(self, run: Operations[Value], index: int, x: Value) -> Value:
        """Normalise the inner activations before they are projected down; llama does not."""
        del run, index
        return x

    def after_attention(self, run: Operations[Value], index: int, x: Value) -> Value:
        """Normalise what attention adds to the hidden states; llama does not."""
        del run, index
        return x

    def after_feed_forward(self, run: Operations[Value], index: int, x: Value) -> Value:
        """Normalise what the feed-forward part adds to the hidden states; llama does not."""
        del run, index
        return x

    def _eager(self, batch: ForwardBatch, cache: KVCache) -> EagerOperations:
        return EagerOperations(
            self.config, self.linear_table, self.inverse_frequencies, batch, cache, self.threads
        )

    def _check(self, batch: ForwardBatch) -> None:
        ids, positions = batch.token_ids, batch.positions
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self.config.vocab_size:
            raise ValidationError(f"A token id is outside the vocabulary of {self.config.vocab_size} tokens.")
        if (
            positions.size
            and not 0 <= int(positions.min()) <= int(positions.max()) < self.config.max_positions
        ):
            raise ValidationError(
                f"A sequence is longer than the model's context of {self.config.max_positions} tokens.",
                limit=self.config.max_positions,
            )

    def _norm(self, weights: WeightSource, name: str) -> RMSNorm:
        return RMSNorm(weights.array(f"{name}.weight"), self.config.norm_eps)


def _in_order(names: BlockNames) -> tuple[str, ...]:
    return (
        *names.attention_inputs,
        names.attention_output,
        *names.feed_forward_inputs,
        names.feed_forward_output,
    )


def layer_frequencies(config: ModelConfig) -> list[Float32]:
    """Return the inverse frequencies of every layer; layers that share a rope share the array."""
    rope = config.rope or RopeParameters(theta=10000.0)
    full, local = (
        inverse_frequencies(each, head_dim=config.head_dim) for each in (rope, config.local_rope or rope)
    )
    has_own = config.local_rope is not None
    return [local if has_own and window is not None else full for window in config.windows]
