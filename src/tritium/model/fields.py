"""Which fields of a config.json are known, and which of them cannot change the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tritium.errors import ValidationError
from tritium.model.family import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Mapping

# Read by parse_config, or by the modules it calls.
_READ_BY_ALL = frozenset(
    [
        "model_type",
        "architectures",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_act",
        "max_position_embeddings",
        "bos_token_id",
        "eos_token_id",
        "quantization_config",
    ]
)
# Known, and without influence on the numbers of a forward pass.
_HARMLESS = frozenset(
    [
        "_name_or_path",
        "_commit_hash",
        "_attn_implementation_autoset",
        "attn_implementation",
        "_attn_implementation",
        "auto_map",
        "cache_implementation",
        "attention_dropout",
        "attention_probs_dropout_prob",
        "chunk_size_feed_forward",
        "classifier_dropout",
        "dtype",
        "gradient_checkpointing",
        "hidden_dropout_prob",
        "id2label",
        "initializer_range",
        "keys_to_ignore_at_inference",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "return_dict",
        "sep_token_id",
        "cls_token_id",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "tie_last_hidden_states",
        "num_labels",
        "finetuning_task",
        "tokenizer_class",
        "unsloth_version",
        "unsloth_fixed",
    ]
)
# Known, and harmless with these values only.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "is_encoder_decoder": (False,),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "position_embedding_type": ("absolute",),
    "use_sliding_window": (False,),
    "use_mrope": (False,),
    "use_bidirectional_attention": (False,),
    "torchscript": (False,),
    "use_bfloat16": (False, True),
    "pruned_heads": ({},),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "tie_word_embeddings": (True, False),
    "attention_type": ("standard",),
}


def refuse_unknown_fields(config: Mapping[str, Any], *, model_type: str) -> None:
    """Check that every field of a config is read, known to be harmless, or null.

    Raises:
        ValidationError: a field that is none of these, by name.
    """
    known = _READ_BY_ALL | FAMILIES[model_type].fields | _HARMLESS
    for name, value in config.items():
        if name in known or value is None:  # null switches a field off
            continue
        if name in _NEUTRAL:
            if not any(value == neutral for neutral in _NEUTRAL[name]):
                raise ValidationError(
                    f"{name}={value!r} is not supported for model type {model_type!r}.", field=name
                )
            continue
        raise ValidationError(
            f"The config field {name!r} is not known for model type {model_type!r} and may change the "
            "mathematics; remove it if it does not.",
            field=name,
        )
