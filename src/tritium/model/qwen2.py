"""Qwen2: the decoder as it is, with biases on queries, keys and values alone."""

from __future__ import annotations

from tritium.model.decoder import DecoderModel


class Qwen2Model(DecoderModel):
    """Qwen2ForCausalLM: llama's mathematics; the biases are in the layers."""
