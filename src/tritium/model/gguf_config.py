"""The metadata of a GGUF file as a config.json: what is not known is refused by name, never guessed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tritium.formats.gguf_vocabulary import end_tokens
from tritium.formats.refusal import quoted, refusal
from tritium.model.family import FAMILIES, Family
from tritium.model.gguf_architecture import ARCHITECTURES, PLANED, GGUFArchitecture
from tritium.model.gguf_gemma import PERIODS, gemma_fields
from tritium.model.gguf_names import (
    MOST_PLANES,
    PLANE_RATIO,
    PLANE_RATIO_KEY,
    PLANES_KEY,
    PLANES_SUFFIX,
    TOKENS,
)
from tritium.model.rope import RopeKind, RopeParameters, inverse_frequencies

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from tritium.formats.gguf_shards import GGUFFiles


# Key behind the architecture's name -> field of a config.json.
_FIELDS: Final[Mapping[str, str]] = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
_READ_HERE = frozenset(
    {"attention.value_length", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor"}
)
_OF_PLANES = frozenset({PLANES_KEY, PLANE_RATIO_KEY})
# Known, and without influence on the numbers of a forward pass; the second list with these values only.
_HARMLESS = frozenset(
    {"rope.scaling.original_context_length", "rope.scaling.finetuned", "tensor_data_layout"}
)
_NEUTRAL: Final[Mapping[str, object]] = {
    "expert_count": 0,
    "expert_used_count": 0,
    "attention.causal": True,
    "rope.scale_linear": 1.0,
    "use_parallel_residual": False,
}
_DEFAULT_THETA = 10000.0  # of ggml, whatever the architecture
# Llama 3.1 to 3.3 differ in the factor alone; the cut-offs are looked for where they can have been.
_LOW_FREQUENCY_FACTOR, _HIGH_FREQUENCY_FACTOR = 1.0, 4.0
_ORIGINAL_POSITIONS = tuple(1 << power for power in range(5, 21))


@dataclass(frozen=True)
class FileArchitecture:
    """What general.architecture of one file says.

    Attributes:
        name: as the file has it, which is how its keys begin.
        means: what it computes.
        planes: the most trit-planes that a layer has.
    """

    name: str
    means: GGUFArchitecture
    planes: int


def file_architecture(file: GGUFFiles) -> FileArchitecture:
    """Return what the file's architecture means (ValidationError: it is unknown, or no whole model)."""
    name = file.metadata.get("general.architecture")
    known = [*ARCHITECTURES, *(plain + PLANES_SUFFIX for plain in PLANED)]
    if not isinstance(name, str) or name not in known:
        raise refusal(
            f"the GGUF architecture {quoted(name)} is not known; known are {', '.join(known)}",
            file=file.path,
        )
    kind = file.metadata.get("general.type", "model")
    if kind != "model":
        raise refusal(f"general.type is {quoted(kind)}: this is not a whole model", file=file.path)
    has_planes = name.endswith(PLANES_SUFFIX)
    planes = _planes(file, name) if has_planes else 1
    return FileArchitecture(name, ARCHITECTURES[name.removesuffix(PLANES_SUFFIX)], planes)


def _planes(file: GGUFFiles, name: str) -> int:
    planes, ratio = (file.metadata.get(f"{name}.{key}") for key in (PLANES_KEY, PLANE_RATIO_KEY))
    if type(planes) is not int or not 1 < planes <= MOST_PLANES:
        raise refusal(
            f"{name}.{PLANES_KEY} must be a number from 2 to {MOST_PLANES}, not {quoted(planes)}",
            file=file.path,
        )
    if type(ratio) is not int or ratio != PLANE_RATIO:
        raise refusal(f"{name}.{PLANE_RATIO_KEY} must be {PLANE_RATIO}, not {quoted(ratio)}", file=file.path)
    return planes


def gguf_config(file: GGUFFiles, *, rope_factors: npt.NDArray[np.float32] | None) -> dict[str, Any]:
    """Return the config.json that the metadata and the names of the tensors stand for.

    Args:
        file: of a known architecture.
        rope_factors: what each rope frequency is divided by, float32 [head_dim / 2], if the file says so.

    Raises:
        ValidationError: a key that may change the mathematics and is not known, or a rope that is not known.
    """
    found = file_architecture(file)
    architecture, prefix = found.means, f"{found.name}."
    given = {
        key.removeprefix(prefix): _shortest(value)
        for key, value in file.metadata.items()
        if key.startswith(prefix)
    }
    _check_keys(given, architecture, prefix=prefix, file=file.path)
    config = {field: given[key] for key, field in _FIELDS.items() if key in given}
    if "rms_norm_eps" not in config:  # what a config.json means without it is no default of GGUF
        raise refusal(f"there is no {prefix}attention.layer_norm_rms_epsilon", file=file.path)
    config |= {
        "model_type": architecture.model_type,
        "architectures": [architecture.class_name],
        "hidden_act": architecture.activation,
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": end_tokens(file.metadata),
        **_told_by_tensors(file, FAMILIES[architecture.model_type]),
    }
    config.setdefault("rope_theta", _DEFAULT_THETA)
    size = _head_size(given, config, file=file.path)
    if FAMILIES[architecture.model_type].has_own_heads:
        config = {"num_key_value_heads": config.get("num_attention_heads"), "head_dim": size} | config
    plain = found.name.removesuffix(PLANES_SUFFIX)
    if plain in PERIODS:
        config |= gemma_fields(plain, given, config, head_dim=size, file=file.path)
    scaling = _rope_scaling(given, config["rope_theta"], rope_factors, head_dim=size, file=file.path)
    return config | ({"rope_scaling": scaling} if scaling else {})


def _told_by_tensors(file: GGUFFiles, family: Family) -> dict[str, Any]:
    """Return the fields that no key says: the file has the tensors of it or not."""
    told: dict[str, Any] = {"tie_word_embeddings": "output.weight" not in file.tensors}
    for field, bias in (("attention_bias", "attn_q"), ("mlp_bias", "ffn_gate")):
        if field in family.fields:
            told[field] = f"blk.0.{bias}.bias" in file.tensors
    table = file.tensors.get(TOKENS)
    if table is not None and f"{file.metadata['general.architecture']}.vocab_size" not in file.metadata:
        told["vocab_size"] = table.shape[0]
    return told


def _check_keys(given: Mapping[str, Any], architecture: GGUFArchitecture, *, prefix: str, file: Path) -> None:
    known = {*_FIELDS, *_READ_HERE, *_HARMLESS, *architecture.keys}
    for key, value in given.items():
        if key in known:
            continue
        if key in _OF_PLANES and prefix.endswith(f"{PLANES_SUFFIX}."):
            continue
        if key not in _NEUTRAL or value != _NEUTRAL[key]:
            raise refusal(
                f"the metadata {quoted(prefix + key)} = {quoted(value)} is not known and may change the "
                "mathematics",
                file=file,
            )


def _shortest(value: Any) -> Any:
    """Return a float32 of the file as the decimal number it was written for: 1e-05, not 9.99999974e-06."""
    with np.errstate(over="ignore"):  # infinity is refused where the number is read
        return float(str(np.float32(value))) if isinstance(value, float) else value


def _head_size(given: Mapping[str, Any], config: Mapping[str, Any], *, file: Path) -> Any:
    """Check that keys, values and rope have one size and return it; parse_config checks the number itself."""
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    size = config.get("head_dim")
    if size is None and type(hidden) is int and type(heads) is int and heads > 0:
        size = hidden // heads
    for key in ("attention.value_length", "rope.dimension_count"):
        if given.get(key, size) != size:
            raise refusal(f"{key} is {quoted(given[key])} and the size of a head {quoted(size)}", file=file)
    return size


def _rope_scaling(
    given: Mapping[str, Any],
    theta: Any,
    factors: npt.NDArray[np.float32] | None,
    *,
    head_dim: Any,
    file: Path,
) -> dict[str, Any] | None:
    kind, factor = given.get("rope.scaling.type", "none"), given.get("rope.scaling.factor", 1.0)
    if kind not in ("none", "linear") or (kind == "none" and factor != 1):
        raise refusal(f"the rope scaling {quoted(kind)} with factor {quoted(factor)} is not known", file=file)
    if factors is not None and not (factors == 1).all():
        if factor != 1:
            raise refusal("rope is scaled by a factor and by rope_freqs at once", file=file)
        if head_dim != 2 * len(factors) or not isinstance(theta, float) or not theta >= 1:
            raise refusal(f"rope_freqs does not fit heads of {quoted(head_dim)}", file=file)
        return _llama3_scaling(RopeParameters(theta=theta), factors, file=file)
    return None if factor == 1 else {"rope_type": kind, "factor": factor}


def _llama3_scaling(plain: RopeParameters, factors: npt.NDArray[np.float32], *, file: Path) -> dict[str, Any]:
    """Find the llama3 scaling that gives these factors: the file keeps its result and not its parameters."""
    factor, head_dim = _shortest(float(factors.max())), 2 * len(factors)
    unscaled = inverse_frequencies(plain, head_dim=head_dim)
    for original in _ORIGINAL_POSITIONS if factor > 1 else ():
        rope = replace(
            plain,
            kind=RopeKind.LLAMA3,
            factor=factor,
            low_frequency_factor=_LOW_FREQUENCY_FACTOR,
            high_frequency_factor=_HIGH_FREQUENCY_FACTOR,
            original_max_positions=original,
        )
        if np.allclose(unscaled / inverse_frequencies(rope, head_dim=head_dim), factors, rtol=1e-5, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": _LOW_FREQUENCY_FACTOR,
                "high_freq_factor": _HIGH_FREQUENCY_FACTOR,
                "original_max_position_embeddings": original,
            }
    raise refusal("rope_freqs.weight is no scaling of Llama 3 that is known", file=file)
