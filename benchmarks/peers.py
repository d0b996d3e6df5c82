"""Tritium beside llama.cpp on the same weights, in one interleaved run; `make bench-peers` sets the peers up.

    python benchmarks/peers.py [--rounds 3] [--only whole,streams,kernels] [--avx2] [--loaded] [--rewrite]

Every program is a process of its own that has loaded what it runs and waits for its turn; within a round ours
and each peer take turns at every figure, and the machine's read bandwidth and int8 peak are measured between
them. The run ends at once on a machine that has other work, unless --loaded is given. Figures go to
docs/measurements/peers.json and peers.md and to docs/pictures/speed-*.svg; --rewrite makes page and pictures
again from the stored figures. --avx2 measures ours with TRITIUM_ISA=avx2 against a llama.cpp built for AVX2.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from side_by_side.machine import OthersWatch, complaint, describe_machine, noise
from side_by_side.picture import DARK, LIGHT, picture
from side_by_side.report import markdown, replace_figures
from side_by_side.workloads import Collected, Programs, concurrent_streams, kernels, whole_model

ROOT = Path(__file__).resolve().parent.parent
WORKLOADS = ("whole", "streams", "kernels")


def main() -> None:
    """Measure and write, or only write."""
    options = _options()
    name = "peers-avx2" if options.avx2 else "peers"
    stored = options.out / "measurements" / f"{name}.json"
    if options.rewrite:
        content = json.loads(stored.read_text(encoding="utf-8"))
    else:
        content = _measure(options)
        stored.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    page = stored.with_suffix(".md")
    page.write_text(replace_figures(page.read_text(encoding="utf-8"), markdown(content)), encoding="utf-8")
    if options.avx2:
        return
    pictures = options.out / "pictures"
    pictures.mkdir(exist_ok=True)
    for mode, palette in (("light", LIGHT), ("dark", DARK)):
        (pictures / f"speed-{mode}.svg").write_text(picture(content, palette), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(WORKLOADS), help="workloads, separated by commas")
    parser.add_argument("--loaded", action="store_true", help="measure on a busy machine all the same")
    parser.add_argument("--avx2", action="store_true", help="ours and theirs with AVX2 and nothing newer")
    parser.add_argument("--rewrite", action="store_true", help="write page and pictures from stored figures")
    parser.add_argument("--peer", type=Path, help="python of the environment with llama-cpp-python")
    parser.add_argument(
        "--llama-server", type=Path, default=ROOT / "build" / "peers" / "server" / "bin" / "llama-server"
    )
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "peers" / "models")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where figures and pictures go")
    return parser.parse_args()


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    seen = noise()
    problem = complaint(seen)
    if problem and not options.loaded:
        sys.exit(f"Not measured: {problem}. Wait, or give --loaded to measure all the same.")
    programs, watch = _programs(options), OthersWatch()
    only, collected = options.only.split(","), Collected()
    machine = describe_machine()
    with programs.our_worker("-", "2") as ours, programs.peer_worker("-") as peer:
        versions = {"ours": ours.ask("facts"), "peer": peer.ask("facts")}
    if options.avx2:
        kernels(programs, collected, rounds=options.rounds, kinds=("tq2_0",))
        whole_model(programs, collected, rounds=options.rounds, kinds=("tq2_0",))
    else:
        if "whole" in only:
            whole_model(programs, collected, rounds=options.rounds)
        if "streams" in only:
            concurrent_streams(programs, collected, rounds=options.rounds)
        if "kernels" in only:
            kernels(programs, collected, rounds=options.rounds)
    return {
        "command": " ".join(["python", "benchmarks/peers.py", *sys.argv[1:]]),
        "machine": machine,
        "versions": versions,
        "embedding": f"embedding and head at {programs.embedding_bits():.2f} bits (theirs Q6_K, 6.56)",
        "rounds": options.rounds,
        "is_loaded": options.loaded,
        "others_share": round(watch.share(), 4),
        "noise": [{"when": "start", **seen}, *collected.rounds],
        "figures": collected.figures,
    }


def _programs(options: argparse.Namespace) -> Programs:
    environment = ROOT / (".venv-peers-avx2" if options.avx2 else ".venv-peers")
    # Models are written again when what writes them changes.
    source = (ROOT / "benchmarks" / "random_models.py").read_bytes()
    models = options.models / hashlib.sha256(source).hexdigest()[:8]
    logs = ROOT / "build" / "peers" / "logs"
    for folder in (models, logs):
        folder.mkdir(parents=True, exist_ok=True)
    return Programs(
        ours=Path(sys.executable),
        peer=options.peer or environment / "bin" / "python",
        llama_server=options.llama_server if options.llama_server.exists() else None,
        models=models,
        logs=logs,
        environment={"TRITIUM_ISA": "avx2"} if options.avx2 else {},
    )


if __name__ == "__main__":
    main()
