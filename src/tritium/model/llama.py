"""Llama: the decoder as it is."""

from __future__ import annotations

from tritium.model.decoder import DecoderModel


class LlamaModel(DecoderModel):
    """LlamaForCausalLM: grouped-query attention, rope, SwiGLU; linear layers dense or ternary."""
