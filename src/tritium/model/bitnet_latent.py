"""1bitLLM's BitNet b1.58: the same mathematics under other names, its weights ternarised at load."""

from __future__ import annotations

from typing import ClassVar

from tritium.model.bitnet import BitNetModel


class BitNetLatentModel(BitNetModel):
    """BitnetForCausalLM, with a small n: full-precision latent weights, SiLU."""

    sub_norms: ClassVar[tuple[str, str]] = ("self_attn.inner_attn_ln", "mlp.ffn_layernorm")
