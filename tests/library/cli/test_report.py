"""The report as a user sees it: measured figures, drawn without a script, nothing of the model trusted."""

from __future__ import annotations

import ast
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tritium
from tritium.cli import charts
from tritium.cli.figures import interval
from tritium.cli.page import TEMPLATE, render_page
from tritium.cli.pictures import by_role, horizontal_bar, vertical_bar
from tritium.cli.report import write_everything
from tritium.formats import native
from tritium.kernels.measure import Candidate, Product
from tritium.quantize import QuantizationConfig, quantize_model
from tritium.quantize.model_report import ModelReport, Neighbourhood, open_report

EVIL = "</title></svg><script>alert(1)</script><img src=x onerror=alert(2)> \"'&\x1b[2J"
TAGS = frozenset(
    {"html", "head", "meta", "title", "style", "body", "header", "main", "footer", "section", "div"}
    | {"h1", "h2", "h3", "h4", "p", "b", "span", "ul", "ol", "li", "details", "summary"}
    | {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    | {"svg", "rect", "text", "line", "circle", "g"}
)
EMPTY_TAGS = frozenset({"meta", "rect", "line", "circle"})


class Page(HTMLParser):
    """A page taken apart: its text, its tags and attributes, and whether every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in EMPTY_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in EMPTY_TAGS, tag
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def generator_report(quantized_by_the_program) -> ModelReport:
    return open_report(quantized_by_the_program[0])


@pytest.fixture(scope="module")
def encoder_report(small_encoder, tmp_path_factory) -> ModelReport:
    out = tmp_path_factory.mktemp("report") / "encoder"
    text = "the cat sat on a mat.\n\na mat sat.\n\non the mat a cat.\n\ncat cat the."
    quantize_model(small_encoder, QuantizationConfig(validation_text=text, group_size=32), out=out)
    return open_report(out)


def test_the_page_shows_the_measured_figures(generator_report):
    page = Page(render_page(generator_report))
    assert page.open == []
    validation = generator_report.validation
    for estimate in (validation["source_perplexity"], validation["four_bit"]["perplexity"]):
        assert interval(estimate, digits=2) in page.text
    assert interval(validation["perplexity_ratio"], digits=3) in page.text
    assert f"{generator_report.metrics['bits_per_weight']:.3f}" in page.text
    for side in ("source", "quantized"):
        assert f"{validation[f'{side}_prefill_speed']:.1f}" in page.text
        assert f"{validation[f'{side}_decode_speed']:.1f}" in page.text
    for name, layer in generator_report.layers.items():
        assert name in page.text
        assert f"{layer['weight_error']:.4f}" in page.text
    assert len(generator_report.samples) == 3
    for sample in generator_report.samples:
        assert all(text.strip() in page.text for text in sample.values())
    assert generator_report.timing.processor in page.text


def test_the_page_of_a_broken_model_says_so_and_why(generator_report):
    sound = replace(generator_report, validation={**generator_report.validation, "findings": []})
    assert "This model is broken." not in Page(render_page(sound)).text
    finding = {"name": "check", "message": f"The config is wrong. {EVIL}", "value": 0.5, "limit": 0.98}
    report = replace(generator_report, validation={**generator_report.validation, "findings": [finding]})
    page = Page(render_page(report))
    assert page.open == []
    assert "This model is broken." in page.text
    assert "The config is wrong." in page.text


def test_what_the_quantization_warned_of_is_in_the_report(generator_report, capsys):
    assert "Warning." not in Page(render_page(generator_report)).text
    warning = f"The calibration text is short. {EVIL}"
    report = replace(generator_report, quantization={**generator_report.quantization, "warnings": [warning]})
    page = Page(render_page(report))
    assert page.open == []
    assert "Warning. The calibration text is short." in page.text
    write_everything("model", report)
    assert "The calibration text is short." in capsys.readouterr().out


def test_the_page_of_an_encoder_shows_cosines_and_neighbours(encoder_report):
    page = Page(render_page(encoder_report))
    assert interval(encoder_report.validation["cosine_similarity"], digits=4) in page.text
    assert len(encoder_report.neighbourhoods) == 3
    for near in encoder_report.neighbourhoods:
        assert all(text in page.text for text in (near.passage, *near.source, *near.quantized))


def test_the_page_loads_nothing_and_runs_nothing(generator_report, encoder_report):
    for report in (generator_report, encoder_report):
        html = render_page(report)
        page = Page(html)
        assert not {name for name, _ in page.attributes if name.startswith("on")}
        assert not {"src", "href", "xlink:href", "action"} & {name for name, _ in page.attributes}
        assert "url(" not in html
        assert "@import" not in html
        assert "://" not in html
        assert "default-src 'none'" in html


def test_the_page_can_be_read_without_seeing_it_or_its_colours(generator_report):
    html = render_page(generator_report)
    page = Page(html)
    assert '<html lang="en">' in html
    assert html.count("<h1>") == 1
    identifiers = [value for name, value in page.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))
    labels = {word for name, value in page.attributes if name == "aria-labelledby" for word in value.split()}
    assert labels <= set(identifiers)
    pictures = re.findall(r"<svg [^>]*role=\"img\"[^>]*>\s*<title[^>]*>([^<]+)</title>", html)
    assert len(pictures) == html.count('role="img"') > 5
    planes = re.findall(r'<rect class="planes(\d)" x=[^>]*/>\s*<text[^>]*>(\d)</text>', html)
    assert len(planes) == len(generator_report.layers)
    assert all(colour == number for colour, number in planes)
    assert "prefers-color-scheme: dark" in html


def test_a_budget_is_shown_with_what_was_predicted_and_measured(generator_report):
    assert "asked for" not in Page(render_page(generator_report)).text
    estimate = {"value": 0.0345, "low": 0.0301, "high": 0.0389}
    report = replace(
        generator_report,
        layers={name: {**layer, "sensitivity": 0.01234} for name, layer in generator_report.layers.items()},
        metrics={**generator_report.metrics, "predicted_loss": 0.0456},
        validation={**generator_report.validation, "loss": estimate},
        quantization={"config": {"average_bits": 1.9}},
    )
    text = Page(render_page(report)).text
    assert f"{generator_report.metrics['bits_per_weight']:.3f} of 1.9 asked for" in text
    told = "0.0456 predicted without compensation, 0.0345 [0.0301, 0.0389] measured (nats per token)"
    assert told in text
    assert text.count("0.01234") == len(report.layers)
    asked = replace(report, quantization={"config": {"target_loss": 0.05}})
    assert f"0.05 asked for, {told}" in Page(render_page(asked)).text


def test_names_and_texts_of_a_model_are_shown_and_never_run(generator_report, encoder_report):
    layer = next(iter(generator_report.layers.values()))
    report = replace(
        generator_report,
        name=EVIL,
        layers={f"model.layers.0.{EVIL}": {**layer, "strategy": EVIL}},
        samples=[dict.fromkeys(("prompt", "source", "quantized"), EVIL)],
        neighbourhoods=[Neighbourhood(passage=EVIL, source=[EVIL], quantized=[EVIL])],
        quantization={"source_sha256": EVIL, "config": {EVIL: EVIL}},
        metrics={**generator_report.metrics, "coded": {EVIL: {**CODED}}},
        timing=replace(generator_report.timing, processor=EVIL, system=EVIL),
    )
    html = render_page(report)
    page = Page(html)  # refuses a tag that is not the template's own
    assert page.open == []
    assert not {name for name, _ in page.attributes if name.startswith("on")}
    assert page.text.count("<script>alert(1)</script>") > 10
    assert "\x1b" not in html


CODED = {"bits": 6, "parameters": 1, "stored_bytes": 1, "bits_per_weight": 6.5, "weight_error": 0.02}


@given(text=st.text(max_size=40))
@settings(max_examples=25)
def test_any_text_keeps_the_page_whole(generator_report, text):
    sample = dict.fromkeys(("prompt", "source", "quantized"), text)
    page = Page(render_page(replace(generator_report, name=text, samples=[sample])))
    assert page.open == []


@pytest.mark.parametrize("missing", ["timing", "text", "metrics"])
def test_what_was_not_measured_is_said_and_not_invented(generator_report, missing):
    unmeasured = {
        "timing": {
            "timing": None,
            "validation": {k: v for k, v in generator_report.validation.items() if "speed" not in k},
        },
        "text": {"validation": {"kind": "generator", "reason": "No text was given."}, "samples": ()},
        "metrics": {"metrics": {}, "validation": {}, "layers": {}, "quantization": {}},
    }[missing]
    page = Page(render_page(replace(generator_report, **unmeasured)))
    said = {"timing": "is not known here", "text": "No text was given.", "metrics": "No quality was measured"}
    assert said[missing] in page.text
    assert "tokens/s" not in page.text
    if missing != "timing":
        assert "erplexity" not in page.text


def test_the_report_says_by_what_figures_the_device_was_chosen(generator_report, capsys):
    timing = replace(
        generator_report.timing,
        isa="avx2",
        threads=2,
        product=Product(out_features=1024, in_features=256, rows=1),
        candidates=(
            Candidate(isa="avx2", threads=2, gops=151.2),
            Candidate(isa="avx2", threads=1, gops=80.0),
            Candidate(isa="scalar", threads=2, gops=4.257),
        ),
    )
    told = (
        "avx2 on 2 threads 151 GOPS in a ternary product of 1024 x 256 by 1, "
        "against avx2 on 1 thread 80, scalar on 2 threads 4.26"
    )
    report = replace(generator_report, timing=timing)
    assert told in Page(render_page(report)).text
    write_everything("model", report)
    assert told in capsys.readouterr().out
    unmeasured = replace(report, timing=replace(timing, candidates=(), product=None))
    assert "by measurement" not in Page(render_page(unmeasured)).text


def test_a_lossless_import_draws_no_errors(scripture_bitnet_offline, tmp_path, run_tritium):
    quantize_model(scripture_bitnet_offline, out=tmp_path / "out")
    html = render_page(open_report(tmp_path / "out"))
    assert "Every layer is exact" in Page(html).text
    assert 'class="planes1" x=' not in html
    assert "exact" in run_tritium("report", tmp_path / "out").stdout


def test_the_program_draws_on_a_terminal_and_writes_the_page(run_tritium, quantized_by_the_program, tmp_path):
    out, _ = quantized_by_the_program
    shown = run_tritium("report", out)
    assert shown.returncode == 0, shown.stderr
    report = open_report(out)
    assert interval(report.validation["four_bit"]["perplexity"], digits=2) in shown.stdout
    assert re.search(r"mlp\.down_proj +[▁▂▃▄▅▆▇█]{6} +0\.\d{4} to 0\.\d{4} +1{6}", shown.stdout)
    assert re.search(r"this model +[▏▎▍▌▋▊▉█]+ +\d", shown.stdout)
    assert " ".join(report.samples[0]["quantized"].split()) in shown.stdout
    written = run_tritium("report", out, "--out", tmp_path / "report.html", "--format", "quiet")
    assert written.stdout == f"{tmp_path / 'report.html'}\n"
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_page(report)
    content = json.loads(run_tritium("report", out, "--format", "json").stdout)
    assert content["metrics"]["four_bit_bytes"] == report.metrics["four_bit_bytes"]
    assert content["timing"]["isa"] == report.timing.isa


def test_a_report_that_is_damaged_is_refused_without_a_traceback(
    run_tritium, quantized_by_the_program, tmp_path
):
    damaged = shutil.copytree(quantized_by_the_program[0], tmp_path / "damaged")
    manifest = json.loads((damaged / "tritium.json").read_bytes())
    del manifest["manifest_sha256"]
    manifest["metrics"]["bits_per_weight"] = "few"
    (damaged / "tritium.json").write_bytes(native._sealed(manifest))
    for options in ((), ("--out", tmp_path / "page.html")):
        done = run_tritium("report", damaged, *options)
        assert done.returncode == 2
        assert "is damaged" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "page.html").exists()
    again = run_tritium("eval", damaged)
    assert again.returncode == 1
    assert "metrics.bits_per_weight  'few', recomputed" in again.stdout


@given(st.floats(0, 1), st.integers(1, 60))
def test_a_bar_is_as_long_as_its_share_and_never_nothing_for_something(share, width):
    bar = horizontal_bar(share, width=width)
    eighths = sum("▏▎▍▌▋▊▉█".index(character) + 1 for character in bar)
    assert (len(bar) > 0) == (share > 0)
    assert abs(eighths - 8 * width * share) <= max(0.5, 1 if share else 0)
    assert len(bar) <= width


@given(st.floats(0, 10), st.floats(0, 10))
def test_a_higher_error_is_never_a_lower_bar(first, second):
    highest = max(first, second)
    low, high = (" ▁▂▃▄▅▆▇█".index(vertical_bar(value, highest=highest)) for value in sorted((first, second)))
    assert low <= high
    assert (high == 8) == (highest > 0)


def test_layers_stand_by_kind_in_the_order_of_their_blocks():
    layers = {f"model.layers.{block}.mlp.up": {"planes": block} for block in (10, 2, 0)} | {"head": {}}
    found = by_role(layers)
    assert [block for block, _ in found["mlp.up"]] == [0, 2, 10]
    assert list(found) == ["head", "mlp.up"]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_within_the_range(lowest, width):
    ticks = charts.ticks_between(lowest, lowest + width)
    assert len(ticks) <= 2 * charts.TICKS + 1
    assert all(lowest - 1e-6 * width <= tick <= lowest + width * (1 + 1e-6) for tick in ticks)


def test_an_axis_holds_every_interval():
    rows = [("a", "", {"value": 2.0, "low": 1.0, "high": 3.0}), ("b", "", {"value": 9.0})]
    axis = charts.value_axis(rows)
    places = [point.x for point in axis.points] + [axis.points[0].low_x, axis.points[0].high_x]
    assert charts.LABEL_WIDTH < min(places) < max(places) < charts.WIDTH - charts.VALUE_WIDTH
    assert axis.points[1].low_x is None
    assert charts.value_axis([]) is None


SOURCE = Path(tritium.__file__).parent
REPORT_CODE = (
    "quantize/report.py",
    "quantize/record.py",
    "quantize/figures.py",
    "quantize/recompute.py",
    "quantize/validate.py",
    "quantize/side_by_side.py",
    "quantize/samples.py",
    "quantize/model_report.py",
    "quantize/timing.py",
    "cli/figures.py",
    "cli/report.py",
    "cli/pictures.py",
    "cli/page.py",
    "cli/charts.py",
)
# Constants that are no figures: units, versions, how much is shown, how text is laid out.
NAMED = frozenset(
    {
        "BITS",
        "FLOAT32_BYTES",
        "FLOAT16_BYTES",
        "PERCENT",
        "MILLION",
        "TOLERANCE",
        "DECIMALS",
        "SMALLEST_LENGTH",
    }
    | {"RECORD_VERSION", "TIMING_VERSION", "LARGEST_PLAIN", "EIGHTHS", "BAR_WIDTH"}
    | {"SAMPLES", "PROMPT_TOKENS", "NEW_TOKENS", "NEIGHBOURS", "LONGEST_QUOTE", "ENOUGH_TO_BEGIN"}
    | {"WIDTH", "LABEL_WIDTH", "VALUE_WIDTH", "ROW_HEIGHT", "AXIS_HEIGHT", "MARGIN", "BAR_STEP", "BAR_HEIGHT"}
    | {"TICKS", "NICE_STEPS", "OVERHANG"}
    | {"RATIO_DIGITS", "PERPLEXITY_DIGITS", "COSINE_DIGITS"}
)


def literals(tree: ast.Module) -> list[str]:
    """Return the numbers of a module that have no name, other than 0, 1, 2 and digits=N."""
    allowed: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and {ast.unparse(target) for target in node.targets} <= NAMED:
            allowed |= {id(inner) for inner in ast.walk(node)}
        if isinstance(node, ast.keyword) and node.arg == "digits":
            allowed |= {id(inner) for inner in ast.walk(node)}
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "fixed":
            allowed.add(id(node.args[1]))
    return [
        f"line {node.lineno}: {node.value}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and type(node.value) in {int, float}
        and id(node) not in allowed
        and node.value not in {0, 1, 2}
    ]


@pytest.mark.parametrize("file", REPORT_CODE)
def test_no_figure_is_written_into_the_code_of_the_report(file):
    assert literals(ast.parse((SOURCE / file).read_text(encoding="utf-8"))) == []


def test_a_figure_written_into_the_code_would_be_found():
    assert literals(ast.parse("accuracy = 99.7")) == ["line 1: 99.7"]


def test_no_figure_is_written_into_the_text_of_the_page():
    template = (SOURCE / "cli" / TEMPLATE).read_text(encoding="utf-8")
    text = re.sub(r"<style>.*?</style>|\{%.*?%\}|\{\{.*?\}\}|<[^>]*>|&nbsp;", " ", template, flags=re.DOTALL)
    for name in ("fp32", "fp16", "SHA-256", "Q4_0", "Q6_K", "95 %"):
        text = text.replace(name, "")
    assert re.findall(r"\d+", text) == []
