"""The operations written down: a native plan that runs them all in one call, for any batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritium.errors import ProcessingError, ValidationError
from tritium.kernels import cpu
from tritium.model.layers import NOT_FINITE, CodedLinear, DenseLinear, TernaryLinear

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tritium.model.batch import ForwardBatch, KVCache
    from tritium.model.config import ModelConfig
    from tritium.model.layers import Embedding, Float32, Linear, RMSNorm


class Recorder:
    """Records what a model does; a value is the number that the plan gives it."""

    def __init__(
        self, config: ModelConfig, linears: Mapping[str, Linear], inverse_frequencies: Sequence[Float32]
    ) -> None:
        self._config = config
        self._linears = linears
        self._plan = cpu.Plan(config.max_positions)
        recorded: dict[int, int] = {}  # by identity: layers share arrays
        for array in inverse_frequencies:
            if id(array) not in recorded:
                recorded[id(array)] = self._plan.angles(array, 1.0)
        self._angles = [recorded[id(array)] for array in inverse_frequencies]

    def embed(self, table: Embedding) -> int:
        """Look the tokens of the batch up: [T, hidden]."""
        if isinstance(table.weight, cpu.CodedMatrix):
            rows = self._plan.coded_embed(table.weight)
        elif isinstance(table.weight, cpu.PreparedWeight):
            rows = self._plan.ternary_embed(table.weight)
        elif isinstance(table.weight, np.ndarray):
            rows = self._plan.embed(table.weight)
        else:
            raise ValidationError("A plan cannot hold an embedding that is not in memory.")
        if table.scale != 1:
            self._plan.scale(rows, table.scale)
        return rows

    def normalise(self, norm: RMSNorm, x: int) -> int:
        """Divide each row by its root mean square and multiply by the norm's weight."""
        return self._plan.rms_norm(x, norm.weight, norm.eps)

    def normalise_heads(self, norm: RMSNorm, x: int) -> int:
        """Do the same to every head of each row, in place."""
        self._plan.head_norm(x, norm.weight, norm.eps, self._config.num_kv_heads)
        return x

    def linears(self, names: Sequence[str], x: int) -> list[int]:
        """Run named linear layers on the same rows, rounding the rows once for all ternary ones."""
        linears = [self._linears[name] for name in names]
        rounded = self._plan.quantize(x) if any(isinstance(each, TernaryLinear) for each in linears) else x
        return [self._linear(linear, x, rounded) for linear in linears]

    def attend(self, layer: int, q: int, k: int, v: int) -> int:
        """Turn q and k by their positions, keep k and v in the cache, and attend to the row's past."""
        heads, kv_heads = self._config.num_heads, self._config.num_kv_heads
        self._plan.rope(q, self._angles[layer], heads, kv_heads)
        self._plan.rope(k, self._angles[layer], kv_heads, kv_heads)
        scaling, window = self._config.scaling, self._config.windows[layer]
        return self._plan.attention(
            q, k, v, layer, heads, kv_heads, scaling.attention, window or 0, scaling.attention_cap or 0.0
        )

    def gate(self, gate: int, up: int) -> int:
        """Multiply the activation of `gate` by `up`."""
        gates = {
            "silu": self._plan.silu_multiply,
            "relu2": self._plan.relu2_multiply,
            "gelu_pytorch_tanh": self._plan.gelu_tanh_multiply,
        }
        if self._config.activation not in gates:
            raise ValidationError(f"A plan cannot hold the activation {self._config.activation}.")
        return gates[self._config.activation](gate, up)

    def bound(self, x: int, cap: float) -> int:
        """Keep each element between -cap and cap, smoothly, in place."""
        self._plan.bound(x, cap)
        return x

    def add(self, x: int, y: int) -> int:
        """Add elementwise."""
        return self._plan.add(x, y)

    def logit_rows(self, x: int) -> int:
        """Take the rows whose logits are wanted; a run fails if they are not finite."""
        return self._plan.logit_rows(x)

    def head(self, head: Linear, x: int) -> int:
        """Map rows [S, hidden] to logits [S, vocabulary]."""
        if isinstance(head, CodedLinear):
            return self._plan.coded(self._plan.quantize(x), head.weight, "head")
        if isinstance(head, TernaryLinear):
            return self._plan.ternary(self._plan.quantize(x), head.weight, head.bias)
        if isinstance(head, DenseLinear):
            return self._plan.dense(x, head.weight, head.bias, "head")
        raise ValidationError("A plan cannot hold a head that is not in memory.")

    def finish(self, logits: int) -> RecordedForward:
        """Return what was recorded, ready to run."""
        self._plan.seal(logits)
        return RecordedForward(self._plan)

    def _linear(self, linear: Linear, x: int, rounded: int) -> int:
        if isinstance(linear, TernaryLinear):
            return self._plan.ternary(rounded, linear.weight, linear.bias)
        if isinstance(linear, DenseLinear):
            return self._plan.dense(x, linear.weight, linear.bias, "dense")
        raise ValidationError(f"A plan cannot hold a layer of type {type(linear).__name__}.")


class RecordedForward:
    """A whole forward pass as one native call; `plan` also tells where its time goes."""

    def __init__(self, plan: cpu.Plan) -> None:
        self.plan = plan

    def __call__(self, batch: ForwardBatch, cache: KVCache, *, threads: int) -> Float32:
        """Run T new tokens and return the logits of the asked rows, float32 [S, vocabulary].

        Raises:
            ValidationError: an array of the batch does not fit the others, the model or the cache.
            ProcessingError: an activation became NaN or infinite.
        """
        try:
            logits = self.plan.run(
                batch.token_ids,
                batch.positions,
                batch.sequence_starts,
                batch.block_tables,
                batch.context_lengths,
                batch.slots,
                batch.logit_rows,
                cache.pools,
                threads,
            )
        except (ValueError, TypeError) as error:
            raise ValidationError(f"The batch cannot run: {error}") from error
        if logits is None:
            raise ProcessingError(NOT_FINITE)
        return logits


def can_record(linears: Mapping[str, Linear]) -> bool:
    """Whether a plan can hold all these layers."""
    return all(isinstance(linear, TernaryLinear | DenseLinear) for linear in linears.values())
