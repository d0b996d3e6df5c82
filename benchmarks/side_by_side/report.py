"""The figures of a run as Markdown: medians, their spread, and ratios of medians."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from side_by_side.workloads import KERNEL_BATCHES, KERNEL_SHAPES, KINDS, THREADS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BEGIN, END = "<!-- figures: written by benchmarks/peers.py -->", "<!-- end of figures -->"
SERVERS = ("tritium serve", "llama-server", "llama-cpp-python server")


class Results:
    """Reads the stored JSON of a run."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    def values(self, section: str, name: str) -> list[float]:
        """All rounds of one figure; empty if it was not measured."""
        return list(self.content["figures"].get(section, {}).get(name, []))

    def median(self, section: str, name: str) -> float | None:
        """The middle round, or None."""
        values = self.values(section, name)
        return median(values) if values else None

    def cell(self, section: str, name: str, *, digits: int = 0) -> str:
        """Median and, with more than one round, the least and the largest."""
        values = self.values(section, name)
        if not values:
            return "-"
        middle = f"{median(values):,.{digits}f}"
        if len(values) == 1:
            return middle
        return f"{middle} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"

    def ratio(self, section: str, ours: str, theirs: str) -> str:
        """How many times ours is theirs, in bold."""
        a, b = self.median(section, ours), self.median(section, theirs)
        return "-" if a is None or not b else f"**{a / b:.2f}x**"


def replace_figures(page: str, figures: str) -> str:
    """Return the page with what stands between its two marks replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{figures}\n{END}{after}"


def markdown(content: dict[str, Any]) -> str:
    """Return all tables of a run."""
    results = Results(content)
    parts = [_machine(results), _whole_model(results), _streams(results), _kernels(results)]
    return "\n".join(part for part in parts if part)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _machine(results: Results) -> str:
    machine, versions = results.content["machine"], results.content["versions"]
    changed = ", with changes" if machine["is_changed"] else ""
    rows = [
        ["measured", f"{machine['time']}, commit {machine['commit']}{changed}"],
        ["command", f"`{results.content['command']}`"],
        ["machine", f"{machine['cores']} cores of {machine['processor']}, {machine['memory_gib']} GiB"],
        ["flags", ", ".join(machine["flags"])],
        ["system", f"Linux {machine['kernel']}, Python {machine['python']}"],
        [
            "Tritium",
            f"{versions['ours']['version']}, {versions['ours']['isa']}; {results.content['embedding']}",
        ],
        ["llama-cpp-python", versions["peer"]["version"]],
        ["its build", versions["peer"]["build"]],
        ["rounds", f"{results.content['rounds']}; median (least-largest)"],
        ["other work", _noise(results)],
    ]
    for threads in THREADS:
        bandwidth = results.cell("machine", f"read_gb_s, {threads} threads", digits=1)
        peak = results.cell("machine", f"int8_gops, {threads} threads")
        rows.append([f"ceilings, {threads} threads", f"read {bandwidth} GB/s, int8 {peak} GOPS"])
    return _table(["", ""], rows)


def _noise(results: Results) -> str:
    others = results.content["others_share"]
    stolen = max(entry["steal_share"] for entry in results.content["noise"])
    allowed = "; started with --loaded" if results.content["is_loaded"] else ""
    return (
        f"{others:.1%} of the processors over the whole run, at most {stolen:.1%} stolen by the host{allowed}"
    )


def _whole_model(results: Results) -> str:
    rows = []
    for what in ("decode", "prefill"):
        for threads in THREADS:
            label = f"{what}, {threads} threads"
            cells = [results.cell("whole_model", f"{who}: {label}", digits=1) for who in ("ours", *KINDS)]
            ratio = results.ratio("whole_model", f"ours: {label}", f"tq2_0: {label}")
            rows.append([label, *cells, ratio])
    if not results.values("whole_model", "ours: decode, 2 threads"):
        return ""
    head = ["tokens/s", "Tritium", "llama.cpp TQ2_0", "llama.cpp TQ1_0", "against TQ2_0"]
    return "## The 2B4T shape, one stream: tg128 and pp512\n\n" + _table(head, rows)


def _streams(results: Results) -> str:
    if not results.values("streams", "tritium serve: tokens_per_s"):
        return ""
    rows = []
    for server in SERVERS:
        names = ("first_p50_ms", "first_p99_ms", "between_p50_ms", "between_p99_ms")
        speed = f"{server}: tokens_per_s"
        cells = [results.cell("streams", f"{server}: {name}", digits=1) for name in names]
        ratio = results.ratio("streams", "tritium serve: tokens_per_s", speed)
        rows.append([server, results.cell("streams", speed), *cells, ratio])
    for label, name in (
        ("Tritium without a server (LLM.generate)", "ours, LLM.generate"),
        ("llama.cpp without a server (llama_decode)", "llama_decode of 16 sequences"),
    ):
        ratio = results.ratio("streams", "tritium serve: tokens_per_s", f"{name}: tokens_per_s")
        rows.append([label, results.cell("streams", f"{name}: tokens_per_s"), "-", "-", "-", "-", ratio])
    head = ["16 streams", "tokens/s", "first p50 ms", "first p99 ms", "between p50 ms", "between p99 ms"]
    text = "## Sixteen streams of the 125M shape, 2 threads\n\n"
    text += _table([*head, "`tritium serve` against it"], rows)
    shown = {
        "median_before_ms": ("median gap before, ms", 1),
        "median_during_ms": ("median during, ms", 1),
        "longest_during_ms": ("longest during, ms", 1),
        "ratio": ("longest during / median before", 1),
        "longest_without_ms": ("longest without it, ms", 1),
        "long_first_s": ("its own first token, s", 2),
    }
    rows = [
        [
            server,
            *(
                results.cell("intrusion", f"{server}: {name}", digits=digits)
                for name, (_, digits) in shown.items()
            ),
        ]
        for server in SERVERS[:2]
    ]
    head = ["", *(title for title, _ in shown.values())]
    text += "\n## A prompt of 2,000 tokens while the sixteen streams run\n\n"
    return text + _table(head, rows)


def _kernels(results: Results) -> str:
    if not results.content["figures"].get("kernels"):
        return ""
    text = "## The ternary product alone, weights cold: GOPS at 1 / 2 threads\n"
    for rows_, columns in KERNEL_SHAPES:
        rows = []
        for batch in KERNEL_BATCHES:
            label = f"{rows_} x {columns}, batch {batch}"
            pairs = [_pair(results, who, label) for who in ("ours", *KINDS)]
            ratio = results.ratio("kernels", f"ours: {label}, 2 threads", f"tq2_0: {label}, 2 threads")
            rows.append([str(batch), *pairs, ratio])
        head = ["batch", "Tritium", "ggml TQ2_0", "ggml TQ1_0", "against TQ2_0, 2 threads"]
        text += f"\n{rows_} x {columns} (out x in)\n\n" + _table(head, rows)
    return text


def _pair(results: Results, who: str, label: str) -> str:
    values = [results.median("kernels", f"{who}: {label}, {threads} threads") for threads in THREADS]
    return " / ".join("-" if value is None else f"{value:.0f}" for value in values)
