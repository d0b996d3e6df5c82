"""Tritium turns language models into 1.58-bit (ternary) models and runs them.

The names below load when they are first used, so that `import tritium` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritium.engine.grammar import Grammar
    from tritium.engine.llm import LLM
    from tritium.engine.request import SamplingParams
    from tritium.model.export_gguf import export_gguf
    from tritium.model.export_huggingface import export_huggingface
    from tritium.model.pretrained import QuantizedModel
    from tritium.quantize.pipeline import quantize_model

__all__ = [
    "LLM",
    "Grammar",
    "QuantizedModel",
    "SamplingParams",
    "export_gguf",
    "export_huggingface",
    "quantize_model",
]

_HOMES = {
    "Grammar": "tritium.engine.grammar",
    "LLM": "tritium.engine.llm",
    "QuantizedModel": "tritium.model.pretrained",
    "SamplingParams": "tritium.engine.request",
    "export_gguf": "tritium.model.export_gguf",
    "export_huggingface": "tritium.model.export_huggingface",
    "quantize_model": "tritium.quantize.pipeline",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - it costs 20 ms

        try:
            return version("tritium")
        except PackageNotFoundError:  # run from a source tree that was never installed
            return "0+unknown"
    raise AttributeError(f"module 'tritium' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, "__version__"])
