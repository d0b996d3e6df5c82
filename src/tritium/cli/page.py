"""A quantized model's report as one page: no script, nothing loaded from anywhere, everything escaped."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, Template, UndefinedError

from tritium.cli import charts
from tritium.cli.figures import (
    budget,
    choice,
    fixed,
    interval,
    layers_in_order,
    machine,
    scale_span,
    share,
    table_form,
)
from tritium.cli.output import printable, readable_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritium.quantize.model_report import ModelReport

TEMPLATE = "page.html.jinja"
RATIO_DIGITS = 3
PERPLEXITY_DIGITS = 2
COSINE_DIGITS = 4
HIDDEN_SETTINGS = frozenset({"layers"})


def render_page(report: ModelReport) -> str:
    """Return the report as HTML; names and texts of the model are escaped wherever they stand.

    Raises:
        KeyError, TypeError, ValueError: the report lacks a figure, or one is no number.
    """
    try:
        return _template().render(_content(report))
    except UndefinedError as error:
        raise KeyError(error.message) from error


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    environment.filters["bytes"] = readable_bytes
    environment.filters["scale_span"] = scale_span
    environment.filters["table_form"] = table_form
    return environment.from_string(files("tritium.cli").joinpath(TEMPLATE).read_text(encoding="utf-8"))


def _shown(value: Any) -> Any:
    """Return what is written for a value: text without control characters, before it is escaped."""
    return printable(value) if isinstance(value, str) else value


def _content(report: ModelReport) -> dict[str, Any]:
    metrics, validation, timing = report.metrics, report.validation, report.timing
    return {
        "report": report,
        "metrics": metrics,
        "validation": validation,
        "layers": layers_in_order(report.layers),
        "has_sensitivity": any(layer.get("sensitivity") is not None for layer in report.layers.values()),
        "budget": budget(report.quantization.get("config", {}), metrics, validation),
        "settings": _settings(report.quantization.get("config", {})),
        "sizes": charts.size_bars(metrics) if metrics else [],
        "rows": charts.layer_rows(report.layers),
        "quality": _quality(validation),
        "alternatives": _alternatives(metrics, validation),
        "headline": _headline(validation),
        "machine": machine(timing) if timing else "",
        "choice": choice(timing.candidates, timing.product) if timing else "",
        "charts": charts,
    }


def _headline(validation: Mapping[str, Any]) -> tuple[str, str]:
    """Return what the quality comes down to: a figure, and what it is."""
    chosen = (
        ("perplexity_ratio", "x", RATIO_DIGITS, "the source's perplexity"),
        ("cosine_similarity", "", COSINE_DIGITS, "cosine to the source"),
    )
    for name, sign, digits, words in chosen:
        estimate = validation.get(name)
        if estimate is not None:
            value, _, reach = interval(estimate, digits=digits).partition(" ")
            return f"{sign}{value}", f"{words} {reach}"
    return "not measured", "quality"


def _quality(validation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the charts of quality: a title and the axis of each."""
    four_bit = validation.get("four_bit") or {}
    perplexities = {
        "source": validation.get("source_perplexity"),
        "this model": validation.get("quantized_perplexity"),
        "Q4_0": four_bit.get("perplexity"),
    }
    ratios = {"this model": validation.get("perplexity_ratio"), "Q4_0": four_bit.get("perplexity_ratio")}
    cosines = {"this model": validation.get("cosine_similarity"), "Q4_0": four_bit.get("cosine_similarity")}
    chosen = (
        ("Perplexity on the text (lower is better)", perplexities, PERPLEXITY_DIGITS),
        ("Perplexity over that of the source, window by window (lower is better)", ratios, RATIO_DIGITS),
        ("Cosine to the source's embeddings (higher is better)", cosines, COSINE_DIGITS),
    )
    found = []
    for title, estimates, digits in chosen:
        rows = [
            (label, interval(estimate, digits=digits), estimate)
            for label, estimate in estimates.items()
            if estimate is not None
        ]
        axis = charts.value_axis(rows)
        if axis is not None:
            found.append({"title": title, "axis": axis})
    return found


def _alternatives(metrics: Mapping[str, Any], validation: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return size and quality of source, this model and four bits, as rows of words."""
    four_bit = validation.get("four_bit") or {}
    sides = {
        "source": ("source_bytes", {"perplexity": validation.get("source_perplexity")}),
        "this model": (
            "quantized_bytes",
            {**validation, "perplexity": validation.get("quantized_perplexity")},
        ),
        "Q4_0": ("four_bit_bytes", four_bit),
    }
    return [
        (
            label,
            readable_bytes(metrics[size]),
            interval(found.get("perplexity"), digits=PERPLEXITY_DIGITS),
            interval(found.get("perplexity_ratio"), digits=RATIO_DIGITS),
            share(found.get("top1_agreement")),
            interval(found.get("cosine_similarity"), digits=COSINE_DIGITS),
            fixed(found.get("rank_correlation"), COSINE_DIGITS),
        )
        for label, (size, found) in sides.items()
        if size in metrics
    ]


def _settings(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in sorted(config.items()) if name not in HIDDEN_SETTINGS]
