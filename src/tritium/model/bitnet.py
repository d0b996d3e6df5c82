"""BitNet b1.58: the decoder with a norm before each output projection, and squared ReLU."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tritium.model.decoder import DecoderModel

if TYPE_CHECKING:
    from tritium.model.config import ModelConfig
    from tritium.model.layers import WeightSource
    from tritium.model.operations import Operations, Value


class BitNetModel(DecoderModel):
    """BitNetForCausalLM: sub-norms after attention and inside the feed-forward part."""

    sub_norms: ClassVar[tuple[str, str]] = ("self_attn.attn_sub_norm", "mlp.ffn_sub_norm")

    def __init__(self, config: ModelConfig, weights: WeightSource, *, threads: int = 1) -> None:
        super().__init__(config, weights, threads=threads)
        blocks = [f"model.layers.{index}" for index in range(config.num_layers)]
        self._attention_sub_norms, self._feed_forward_sub_norms = (
            [self._norm(weights, f"{block}.{name}") for block in blocks] for name in self.sub_norms
        )

    def normalise_attention(self, run: Operations[Value], index: int, x: Value) -> Value:
        """Apply the first sub-norm to rows [T, hidden]."""
        return run.normalise(self._attention_sub_norms[index], x)

    def normalise_feed_forward(self, run: Operations[Value], index: int, x: Value) -> Value:
        """Apply the second sub-norm to rows [T, intermediate]."""
        return run.normalise(self._feed_forward_sub_norms[index], x)
