"""A GGUF file where a model is asked for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

TEXT = "And God said, Let there be light: and there was light.\n\n" * 30


@pytest.fixture(scope="module")
def both(run_tritium, scripture_llama, tmp_path_factory) -> tuple[Path, Path]:
    """A ternary model, and the GGUF file it was exported to."""
    folder = tmp_path_factory.mktemp("gguf")
    settings = ["--group-size", "256", "--max-planes", "1", "--format", "quiet"]
    assert run_tritium("quantize", scripture_llama, "--out", folder / "model", *settings).returncode == 0
    done = run_tritium("export", folder / "model", folder / "model.gguf", "--embedding", "q8_0")
    assert done.returncode == 0, done.stderr
    return folder / "model", folder / "model.gguf"


def test_show_tells_what_a_file_holds(run_tritium, both):
    _, file = both
    found = json.loads(run_tritium("show", file, "--format", "json", "--tensors").stdout)
    assert (found["format"], found["ternary_layers"]) == ("gguf 3", 42)
    assert found["bytes_by_dtype"].keys() == {"Q8_0", "F32", "TQ2_0", "F16"}
    assert found["config"]["hidden_size"] == 256
    assert found["tensors"]["model.embed_tokens.weight"]["dtype"] == "Q8_0"
    human = run_tritium("show", file)
    assert "42 layers" in human.stdout
    assert "gguf 3" in human.stdout


def test_run_continues_a_text(run_tritium, both):
    _, file = both
    words = ["And God said unto Noah,", "--max-tokens", "8", "--temperature", "0", "--format", "json"]
    done = run_tritium("run", file, *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["completion_tokens"] == 8


def test_eval_finds_the_perplexity_of_the_model_it_was_exported_from(run_tritium, both, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    found = [
        json.loads(run_tritium("eval", model, "--text", tmp_path / "text.txt", "--format", "json").stdout)
        for model in both
    ]
    values = [each["perplexity"]["value"] for each in found]
    assert values[1] == pytest.approx(values[0], rel=0.02)  # embeddings of 8 bits


def test_quantize_imports_the_trits_and_warns_of_what_was_quantized_before(run_tritium, both, tmp_path):
    _, file = both
    done = run_tritium("quantize", file, "--out", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert "the source is already quantized (dequantized tensors: 1 of Q8_0)" in done.stderr
    shown = run_tritium("show", tmp_path / "model")
    assert "1 of Q8_0" in shown.stdout
    content = json.loads(run_tritium("show", tmp_path / "model", "--format", "json").stdout)
    assert all(layer["is_lossless"] for layer in content["layers"].values())
    again = run_tritium("export", tmp_path / "model", tmp_path / "model.gguf", "--embedding", "q8_0")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "model.gguf").read_bytes() == file.read_bytes()


def test_a_damaged_file_is_refused_by_name(run_tritium, both, tmp_path):
    (tmp_path / "cut.gguf").write_bytes(both[1].read_bytes()[:-1000])
    done = run_tritium("run", tmp_path / "cut.gguf", "And")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: cut.gguf: tensor ")
    assert "Traceback" not in done.stderr
