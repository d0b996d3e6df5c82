"""Native ternary checkpoints in the three conventions of Hugging Face (`quant_method: bitnet`).

A packed weight is uint8 [R, in] with R = ceil(out / 4): byte [r, c] holds the rows r, r + R, r + 2R and
r + 3R in bits 0-1, 2-3, 4-5 and 6-7; the code is trit + 1, and 3 is never written.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from tritium.errors import ValidationError
from tritium.formats.refusal import quoted, refusal
from tritium.kernels.packing import from_compute_layout
from tritium.kernels.quantization import absmean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

CODES_PER_BYTE = 4
CODE_BITS = 2
CODE_MASK = 3
CONFIG = "config.json"
# The class of 1bitLLM's models: no field says that their weights are latent, the class does. With a large N
# it is another class, whose conventions quantization_config tells apart.
LATENT_CLASS = "BitnetForCausalLM"
LATENT_BITS = {"weight_bits": 1, "input_bits": 8}
# What each field may say; everything else changes the mathematics in a way this room does not know.
KNOWN_FIELDS = frozenset(
    {
        "quant_method",
        "linear_class",
        "quantization_mode",
        "modules_to_not_convert",
        "use_rms_norm",
        "rms_norm_eps",
    }
)


class TernaryConvention(Enum):
    """What `weight` and `weight_scale` of a linear layer mean."""

    NONE = "none"
    """Dense weights, no convention."""
    BITLINEAR = "bitlinear"
    """Packed trits; y = (q @ trits) / (weight_scale * input_scale)."""
    AUTOBITLINEAR_OFFLINE = "autobitlinear_offline"
    """Packed trits; y = (x @ trits) * weight_scale."""
    AUTOBITLINEAR_ONLINE = "autobitlinear_online"
    """Full-precision masters without a scale, ternarised at load; so are the latent weights of 1bitLLM."""


def detect_ternary_convention(config: Mapping[str, Any]) -> TernaryConvention:
    """Return which convention a config.json declares.

    Raises:
        ValidationError: another quantization method, or a field or value that is not known.
    """
    declared = config.get("quantization_config")
    if config.get("architectures") == [LATENT_CLASS]:
        return _latent_convention(config, declared)
    if declared is None:
        return TernaryConvention.NONE
    if not isinstance(declared, dict):
        raise refusal("quantization_config must be an object", file=CONFIG)
    if declared.get("quant_method") != "bitnet":
        raise refusal(
            f"the quant_method {quoted(declared.get('quant_method'))} is not supported, only 'bitnet'",
            file=CONFIG,
        )
    for field in declared.keys() - KNOWN_FIELDS:
        raise refusal(f"the field {quoted(field)} of quantization_config is not known", file=CONFIG)
    if declared.get("use_rms_norm", False) is not False:
        raise refusal("use_rms_norm in quantization_config is not supported", file=CONFIG)
    linear_class = declared.get("linear_class", "bitlinear")
    mode = declared.get("quantization_mode", "offline")
    match linear_class, mode:
        case "bitlinear", "offline":
            return TernaryConvention.BITLINEAR
        case "autobitlinear", "offline":
            return TernaryConvention.AUTOBITLINEAR_OFFLINE
        case "autobitlinear", "online":
            return TernaryConvention.AUTOBITLINEAR_ONLINE
    raise refusal(
        f"linear_class {quoted(linear_class)} with quantization_mode {quoted(mode)} is not known",
        file=CONFIG,
    )


def _latent_convention(config: Mapping[str, Any], declared: object) -> TernaryConvention:
    if declared is not None:
        raise refusal(
            f"{LATENT_CLASS} stores latent weights, and its quantization_config says otherwise", file=CONFIG
        )
    for field, only in LATENT_BITS.items():
        if config.get(field, only) != only:
            raise refusal(
                f"{field} must be {only} for {LATENT_CLASS}, not {quoted(config[field])}", file=CONFIG
            )
    return TernaryConvention.AUTOBITLINEAR_ONLINE


def modules_kept_dense(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the modules that a ternary checkpoint keeps dense (by default lm_head).

    Raises:
        ValidationError: it is not a list of names.
    """
    declared = config.get("quantization_config") or {}
    names = declared.get("modules_to_not_convert")
    if names is None:
        return ("lm_head",)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise refusal("modules_to_not_convert must be a list of names", file=CONFIG)
    return tuple(names)


def unpack_bitnet(packed: NDArray[np.uint8], *, out_features: int, name: str = "weight") -> NDArray[np.int8]:
    """Unpack uint8 [ceil(out / 4), in] to trits int8 [out, in].

    Args:
        packed: the stored bytes.
        out_features: rows of the layer; the codes beyond them are padding.
        name: the tensor, for the message.

    Raises:
        ValidationError: the shape does not fit, or a code is 3.
    """
    if packed.ndim != 2 or packed.dtype != np.uint8:  # noqa: PLR2004 - a matrix
        raise _wrong(
            f"{name}: a packed weight is a uint8 matrix, not {packed.dtype} {list(packed.shape)}", name
        )
    if out_features < 1 or packed.shape[0] != -(-out_features // CODES_PER_BYTE):
        raise _wrong(f"{name}: {packed.shape[0]} packed rows do not fit {out_features} out_features", name)
    codes = np.concatenate([(packed >> (CODE_BITS * i)) & CODE_MASK for i in range(CODES_PER_BYTE)])
    if (codes == CODE_MASK).any():
        row, column = (int(index) for index in np.argwhere(codes == CODE_MASK)[0])
        raise _wrong(f"{name}: the code at row {row}, column {column} is 3, which is not a trit", name)
    return codes[:out_features].astype(np.int8) - np.int8(1)


def pack_bitnet(trits: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Pack trits int8 [out, in] to uint8 [ceil(out / 4), in]; padding has code 0, as transformers writes it.

    Raises:
        ValidationError: not a matrix, or a value is not -1, 0 or 1.
    """
    if trits.ndim != 2 or trits.size == 0 or trits.min() < -1 or trits.max() > 1:  # noqa: PLR2004 - a matrix
        raise ValidationError(
            f"Trits must be a matrix of -1, 0 and 1; this is {trits.dtype} {list(trits.shape)}"
        )
    rows = -(-trits.shape[0] // CODES_PER_BYTE)
    codes = np.zeros((CODES_PER_BYTE * rows, trits.shape[1]), dtype=np.uint8)
    codes[: trits.shape[0]] = trits + 1
    packed = np.zeros((rows, trits.shape[1]), dtype=np.uint8)
    for i in range(CODES_PER_BYTE):
        packed |= codes[i * rows : (i + 1) * rows] << np.uint8(CODE_BITS * i)
    return packed


def ternarise_online(weight: NDArray[Any]) -> tuple[NDArray[np.int8], np.float32]:
    """Ternarise a full-precision master as the online convention does on every forward.

    Args:
        weight: float32, float16 or bfloat16 bits [out, in].

    Returns:
        Trits int8 [out, in] and scale = 1 / max(mean|W|, 1e-5) in float32, so that W is trits / scale. The
        mean is the correctly rounded one; it does not depend on the order of the additions.
    """
    planes, mean = absmean(weight)
    return from_compute_layout(planes, count=weight.shape[1]), np.float32(1) / mean[0, 0]


def _wrong(message: str, name: str) -> ValidationError:
    return ValidationError(message, tensor=name)
