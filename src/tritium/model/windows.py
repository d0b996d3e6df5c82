"""How far each layer of a decoder sees: a config's sliding windows, in the spellings of its model type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

Windows = tuple[int | None, ...]  # by layer: a position sees itself and what is less far back; None: all

_FULL, _SLIDING = "full_attention", "sliding_attention"
_DEFAULT_WINDOW = 4096
_QWEN_FULL_LAYERS = 28
_GEMMA3_PATTERN = 6
_LARGEST = 1 << 24


def parse_windows(config: Mapping[str, Any], *, model_type: str, num_layers: int) -> Windows:
    """Return the window of every layer.

    Raises:
        ValidationError: a value out of range, a kind of layer that is not known, or fields that contradict
            each other.
    """
    if model_type == "mistral":
        return (_window(config),) * num_layers
    if model_type in {"qwen2", "qwen3"}:
        return _qwen(config, num_layers)
    if model_type in {"gemma2", "gemma3_text"}:
        pattern = 2 if model_type == "gemma2" else _gemma3_pattern(config)
        _check_second_window(config)
        default = tuple(_SLIDING if (index + 1) % pattern else _FULL for index in range(num_layers))
        return _by_kind(config, default, window=_window(config))
    return (None,) * num_layers


def _gemma3_pattern(config: Mapping[str, Any]) -> int:
    """Return which layer of how many sees everything: every sixth, unless the config has another number."""
    names = [
        name for name in ("sliding_window_pattern", "_sliding_window_pattern") if config.get(name) is not None
    ]
    found = [_whole(config, name, default=_GEMMA3_PATTERN, low=1) for name in names] or [_GEMMA3_PATTERN]
    if found[0] != found[-1]:
        raise ValidationError(
            f"sliding_window_pattern is {found[0]} in one place and {found[-1]} in another: remove the one "
            "that is wrong.",
            field="sliding_window_pattern",
        )
    return found[0]


def _check_second_window(config: Mapping[str, Any]) -> None:
    """Refuse a second window that differs: Gemma 2 of 9 and 27 billion is published with both fields."""
    window, second = _window(config), config.get("sliding_window_size")
    if second is not None and second != window:
        raise ValidationError(
            f"sliding_window is {window} and sliding_window_size {str(second)[:40]}: transformers reads the "
            "first alone; remove the one that is wrong.",
            field="sliding_window_size",
        )


def _qwen(config: Mapping[str, Any], num_layers: int) -> Windows:
    is_used = config.get("use_sliding_window") or False
    if not isinstance(is_used, bool):
        raise ValidationError(
            f"use_sliding_window must be true or false, not {is_used!r}.", field="use_sliding_window"
        )
    window = _window(config) if is_used else None
    full = _whole(config, "max_window_layers", default=_QWEN_FULL_LAYERS, low=0)
    default = tuple(
        _SLIDING if window is not None and index >= full else _FULL for index in range(num_layers)
    )
    return _by_kind(config, default, window=window)


def _by_kind(config: Mapping[str, Any], default: tuple[str, ...], *, window: int | None) -> Windows:
    """Give the window to the layers that slide: those of `layer_types`, or the model type's own pattern."""
    kinds = config.get("layer_types")
    if kinds is None:
        kinds = default
    elif not isinstance(kinds, list) or len(kinds) != len(default):
        raise ValidationError(
            f"layer_types must be a list of one kind for each of the {len(default)} layers.",
            field="layer_types",
        )
    for kind in kinds:
        if kind not in (_FULL, _SLIDING):
            raise ValidationError(
                f"Layer type {kind!r} is not known; known are {_FULL} and {_SLIDING}.", field="layer_types"
            )
    if _SLIDING in kinds and window is None:
        raise ValidationError(
            "layer_types says that layers slide, and the config gives them no sliding window.",
            field="layer_types",
        )
    return tuple(window if kind == _SLIDING else None for kind in kinds)


def _window(config: Mapping[str, Any]) -> int | None:
    if config.get("sliding_window", _DEFAULT_WINDOW) is None:  # null says that there is none
        return None
    return _whole(config, "sliding_window", default=_DEFAULT_WINDOW, low=1)


def _whole(config: Mapping[str, Any], name: str, *, default: int, low: int) -> int:
    value = config.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= _LARGEST:
        raise ValidationError(
            f"{name} must be a whole number from {low} to {_LARGEST}, not {value!r}.", field=name
        )
    return value
