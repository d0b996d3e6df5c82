"""The limits an engine works within."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium.engine.request import whole_number_between
from tritium.engine.tuning import TUNING_MODES, TuningMode
from tritium.errors import InsufficientMemoryError, ValidationError
from tritium.kernels.pages import BLOCK_SIZE, KV_DTYPES, KvDtype, block_bytes
from tritium.model.batch import KVCache

if TYPE_CHECKING:
    from tritium.model.config import ModelConfig

_LARGEST = 2**63 - 1
_COUNTS = (
    "kv_cache_bytes", "max_batched_tokens", "max_running", "max_waiting", "max_waiting_tokens",
    "max_waiting_bytes",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Budgets of one engine; all are hard.

    Raises:
        ValidationError: a limit below 1 (or not above 0, for seconds), or no whole number.

    Attributes:
        kv_cache_bytes: memory of the key-value cache (never more than `max_running` full contexts need).
        kv_dtype: what the cache holds keys and values in: "int8" (a quarter of the memory), "fp16" or "fp32".
        shares_prefixes: whether requests with the same beginning and salt compute it once.
        max_batched_tokens: tokens computed in one step, over all requests; long prompts are cut into chunks.
        max_running: requests that share a step.
        max_waiting: requests that wait; one more is refused. Of this and the next two a tenant that has a
            name may hold at most as much as it leaves free.
        max_waiting_tokens: tokens of their prompts together.
        max_waiting_bytes: their size together: prompts, grammars, stop texts, biases.
        max_waiting_seconds: who had no turn for so long is refused; None = it may wait for ever.
        max_context: prompt and answer together, in tokens; None = what the model was trained for.
        latency_seconds: the longest that a step, and with it the time between two tokens, should take; None =
            as long as it takes.
        tuning: what follows when steps do not keep to it: "advise" writes into the log which of max_running
            and max_batched_tokens should change, "apply" changes them (never above what they are here), "off"
            does neither.
    """

    kv_cache_bytes: int = 512 * 2**20
    shares_prefixes: bool = True
    kv_dtype: KvDtype = "int8"
    max_batched_tokens: int = 512
    max_running: int = 32
    max_waiting: int = 256
    max_waiting_tokens: int = 2**20
    max_waiting_bytes: int = 64 * 2**20
    max_waiting_seconds: float | None = None
    max_context: int | None = None
    latency_seconds: float | None = None
    tuning: TuningMode = "advise"

    def __post_init__(self) -> None:
        for name in _COUNTS:
            whole_number_between(name, getattr(self, name), low=1, high=_LARGEST)
        for name in ("max_waiting_seconds", "latency_seconds"):
            seconds = getattr(self, name)
            if seconds is not None and not (isinstance(seconds, int | float) and 0 < seconds < _LARGEST):
                raise ValidationError(f"{name} must be a number above 0, or None.", param=name)
        if self.tuning not in TUNING_MODES:
            raise ValidationError(
                f"tuning must be one of {', '.join(TUNING_MODES)}, not {self.tuning!r}.", param="tuning"
            )
        if not isinstance(self.shares_prefixes, bool):
            raise ValidationError("shares_prefixes must be True or False.", param="shares_prefixes")
        if self.kv_dtype not in KV_DTYPES:
            raise ValidationError(
                f"kv_dtype must be one of {', '.join(KV_DTYPES)}, not {self.kv_dtype!r}.", param="kv_dtype"
            )
        if self.max_context is not None:  # at least one token in and one out
            whole_number_between("max_context", self.max_context, low=2, high=_LARGEST)

    def cache_blocks(self, model: ModelConfig) -> int:
        """Return how many blocks the key-value cache of a model has: what is affordable, and not in vain.

        Raises:
            InsufficientMemoryError: not even one block fits.
        """
        of_block = self._block_bytes(model)
        affordable = self.kv_cache_bytes // of_block
        context = min(self.max_context or model.max_positions, model.max_positions)
        useful = self.max_running * -(-context // BLOCK_SIZE)
        if affordable < 1:
            raise InsufficientMemoryError(
                "kv_cache_bytes is too small for a single block of the key-value cache.",
                required=of_block,
                available=self.kv_cache_bytes,
            )
        return min(affordable, useful)

    def cache_bytes(self, model: ModelConfig) -> int:
        """Return the bytes of the key-value cache of a model; they are taken as they are written."""
        return self.cache_blocks(model) * self._block_bytes(model)

    def new_cache(self, model: ModelConfig) -> KVCache:
        """Return an empty key-value cache for a model; raises as `cache_blocks` does."""
        return KVCache(
            num_layers=model.num_layers,
            num_blocks=self.cache_blocks(model),
            kv_heads=model.num_kv_heads,
            head_dim=model.head_dim,
            dtype=self.kv_dtype,
        )

    def _block_bytes(self, model: ModelConfig) -> int:
        of_layer = block_bytes(self.kv_dtype, heads=model.num_kv_heads, head_dim=model.head_dim)
        return model.num_layers * of_layer
