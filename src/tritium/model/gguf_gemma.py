"""What files of gemma2 and gemma3 say of windows, caps and scores, and what holds where they are silent.

Both as llama.cpp has it (src/models/gemma2.cpp, gemma3.cpp). The factor of the scores is in no file: readers
know it by the number of layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tritium.formats.refusal import quoted, refusal
from tritium.model.gguf_architecture import GEMMA2, GEMMA3, LOCAL_THETA_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tritium.formats.gguf import Value
    from tritium.model.config import ModelConfig

PERIODS: Final[Mapping[str, int]] = {GEMMA2: 2, GEMMA3: 6}  # each such layer sees everything
LOCAL_THETA: Final = 10000.0
WINDOW, PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"
ATTENTION_CAP, LOGIT_CAP = "attn_logit_softcapping", "final_logit_softcapping"
_GEMMA2_WINDOW: Final = 4096
_LAYERS_OF_27B: Final[Mapping[str, int]] = {GEMMA2: 46, GEMMA3: 62}
_LARGEST, _MOST_LAYERS = 1 << 24, 1 << 12  # of a size; layers are listed before a config is looked at
_SLIDING, _FULL = "sliding_attention", "full_attention"


def sliding_layers(layers: int, period: int) -> list[bool]:
    """Tell of every layer whether it slides; each `period`th sees everything."""
    return [index % period < period - 1 for index in range(layers)]


def query_scalar(name: str, *, layers: int, hidden: int, heads: int, head_dim: int) -> int:
    """Return the number by whose root readers divide scores."""
    return hidden // heads if layers == _LAYERS_OF_27B[name] else head_dim


def gemma_fields(
    name: str, given: Mapping[str, Any], config: Mapping[str, Any], *, head_dim: Any, file: Path
) -> dict[str, Any]:
    """Return the fields of a config.json that only Gemma has.

    Args:
        name: the architecture, without the suffix of planes.
        given: the metadata of the architecture, without its name.
        config: the fields that every decoder has.
        head_dim: the size of a head.
        file: what messages name.

    Raises:
        ValidationError: a value of another kind, or layers that slide and no window.
    """
    named = ("num_hidden_layers", "hidden_size", "num_attention_heads")
    sizes: list[Any] = [*(config.get(field) for field in named), head_dim]
    limits = (_MOST_LAYERS, *[_LARGEST] * 3)
    if not all(type(size) is int and 0 < size <= most for size, most in zip(sizes, limits, strict=True)):
        raise refusal(f"the sizes {quoted(sizes)} must be whole numbers that are possible", file=file)
    layers, hidden, heads, head_dim = sizes
    fields: dict[str, Any] = {
        "query_pre_attn_scalar": query_scalar(
            name, layers=layers, hidden=hidden, heads=heads, head_dim=head_dim
        ),
        **_windows(name, given, layers=layers, file=file),
    }
    if name == GEMMA2:
        return fields | {ATTENTION_CAP: given.get(ATTENTION_CAP, 50.0), LOGIT_CAP: given.get(LOGIT_CAP, 30.0)}
    return fields | {
        LOGIT_CAP: given.get(LOGIT_CAP, 0.0) or None,
        "rope_local_base_freq": given.get(LOCAL_THETA_KEY, LOCAL_THETA),
    }


def _windows(name: str, given: Mapping[str, Any], *, layers: int, file: Path) -> dict[str, Any]:
    window = given.get(WINDOW, _GEMMA2_WINDOW if name == GEMMA2 else 0)
    pattern = given.get(PATTERN, PERIODS[name])
    if type(pattern) is int and 1 <= pattern <= layers + PERIODS[GEMMA3]:
        pattern = sliding_layers(layers, pattern)
    is_known = isinstance(pattern, list) and len(pattern) == layers and {*map(type, pattern)} <= {bool}
    if type(window) is not int or not is_known:
        raise refusal(f"{WINDOW} {quoted(window)} and {PATTERN} {quoted(pattern)} are not known", file=file)
    if window == 0:
        return {"sliding_window": None, "layer_types": [_FULL] * layers}
    return {
        "sliding_window": window,
        "layer_types": [_SLIDING if slides else _FULL for slides in pattern],
    }


def gemma_metadata(config: ModelConfig) -> dict[str, Value]:
    """Return what the file of a Gemma says beside the keys that every decoder has."""
    window = next(window for window in config.windows if window is not None)
    caps = {ATTENTION_CAP: config.scaling.attention_cap, LOGIT_CAP: config.scaling.logit_cap}
    return {WINDOW: window, **{key: cap for key, cap in caps.items() if cap is not None}}
