"""Mistral: the decoder as it is; what differs from llama, the sliding window, is in the config."""

from __future__ import annotations

from tritium.model.decoder import DecoderModel


class MistralModel(DecoderModel):
    """MistralForCausalLM: llama's mathematics, with or without a sliding window."""
