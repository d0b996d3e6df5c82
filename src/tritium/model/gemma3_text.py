"""Gemma 3, the part that reads text: Gemma 2 with norms on heads, and two bases of positions."""

from __future__ import annotations

from tritium.model.gemma2 import Gemma2Model
from tritium.model.qwen3 import Qwen3Model


class Gemma3TextModel(Gemma2Model, Qwen3Model):
    """Gemma3ForCausalLM: Gemma 2's blocks around Qwen 3's attention."""
