"""How GGUF names the tensors of a decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# Part of a block -> its name in GGUF.
ROLES: Final[Mapping[str, str]] = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.attn_sub_norm": "attn_sub_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.ffn_sub_norm": "ffn_sub_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
HEAD_NORMS: Final[Mapping[str, str]] = {
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
}
# Gemma has four norms a block; what llama calls post_attention_layernorm is called pre_feedforward_layernorm.
GEMMA_NORMS: Final[Mapping[str, str]] = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
ROTATED = ("attn_q", "attn_k")
TOKENS = "token_embd.weight"
# Tensors outside the blocks -> their names in a checkpoint.
OUTER: Final[Mapping[str, str]] = {
    TOKENS: "model.embed_tokens.weight",
    "output.weight": "lm_head.weight",
    "output_norm.weight": "model.norm.weight",
}
ROPE_FACTORS = "rope_freqs.weight"
# An architecture of its own: a reader that ignores tensors it does not know would drop all planes but one.
PLANES_SUFFIX = "-planes"
PLANES_KEY, PLANE_RATIO_KEY = "trit_planes", "trit_plane_ratio"
PLANE_RATIO = 3  # what a plane weighs against the next
MOST_PLANES = 3


def gguf_name(name: str, roles: Mapping[str, str] = ROLES) -> str:
    """Turn "model.layers.3.mlp.up_proj" into "blk.3.ffn_up"; `roles` are those of its architecture."""
    _, _, index, role = name.split(".", 3)
    return f"blk.{index}.{roles[role]}"


def plane_name(target: str, index: int) -> str:
    """Return the name of a plane: "blk.0.ffn_up.weight", then "blk.0.ffn_up.plane1.weight"."""
    return f"{target}.plane{index}.weight" if index else f"{target}.weight"
