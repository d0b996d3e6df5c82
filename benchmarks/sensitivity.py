"""Measures how well layers' costs must be known to give out planes, and whether they add up.

    python benchmarks/sensitivity.py

Costs measured on few tokens of scripture-llama-6m, costs scaled from those of one plane by the squared
weight errors, and costs taken from the weights alone decide the planes; what those cost, 4,096 tokens say.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tritium.quantize import QuantizationConfig, plan_quantization
from tritium.quantize.allocate import Choice, least_cost
from tritium.quantize.sensitivity import measure_layers
from tritium.quantize.source import open_source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium.quantize import QuantizationPlan

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
LLAMA = EXAMPLES / "models" / "scripture-llama-6m"
TOKENS = (256, 512, 1024, 4096)
BITS = (2.0, 2.5, 3.0, 4.0)

Layers = tuple[tuple[Choice, ...], ...]


def main() -> None:
    """Print the sums of costs by tokens, then what the planes that they decide cost."""
    config = QuantizationConfig(calibration_text=EXAMPLES / "text" / "calibration.txt")
    plan = plan_quantization(LLAMA, config)
    found = {tokens: _measured(plan, tokens) for tokens in TOKENS}
    print("| tokens | 1 plane | 2 planes | 3 planes |\n|---|---|---|---|")
    for tokens, layers in found.items():
        sums = [math.fsum(choices[planes].cost for choices in layers) for planes in range(3)]
        print(f"| {tokens} | " + " | ".join(f"{cost:.5f}" for cost in sums) + " |")
    weights = _measured(plan_quantization(LLAMA), 0)
    judge = found[TOKENS[-1]]
    parameters = sum(layer.out_features * layer.in_features for layer in plan.layers)
    sizes = [int(bits * parameters / 8) for bits in BITS]
    print(
        "\n| costs | " + " | ".join(f"{bits} bits" for bits in BITS) + " |\n|---" + "|---" * len(BITS) + "|"
    )
    for tokens, layers in found.items():
        _show(f"measured, {tokens} tokens", layers, judge, sizes)
        _show(f"scaled, {tokens} tokens", _scaled(layers, weights), judge, sizes)
    _show("squared weight errors", weights, judge, sizes)


def _measured(plan: QuantizationPlan, tokens: int) -> Layers:
    with open_source(plan.source) as source, tempfile.TemporaryDirectory() as workdir:
        return measure_layers(plan, source, Path(workdir), tokens=tokens)


def _scaled(layers: Layers, weights: Layers) -> Layers:
    return tuple(
        tuple(
            replace(choice, cost=measured[0].cost * error.cost / errors[0].cost)
            for choice, error in zip(measured, errors, strict=True)
        )
        for measured, errors in zip(layers, weights, strict=True)
    )


def _show(name: str, layers: Layers, judge: Layers, sizes: Sequence[int]) -> None:
    costs = []
    for size in sizes:
        planes = [choice.planes for choice in least_cost(layers, size=size)]
        costs.append(math.fsum(choices[count - 1].cost for choices, count in zip(judge, planes, strict=True)))
    print(f"| {name} | " + " | ".join(f"{cost:.4f}" for cost in costs) + " |")


if __name__ == "__main__":
    main()
