from __future__ import annotations

import json


def test_export_writes_a_file_for_llama_cpp_and_says_what_is_in_it(run_tritium, scripture_llama, tmp_path):
    settings = ["--group-size", "256", "--max-planes", "1", "--format", "quiet"]
    assert run_tritium("quantize", scripture_llama, "--out", tmp_path / "m", *settings).returncode == 0
    out = tmp_path / "m.gguf"
    done = run_tritium("export", tmp_path / "m", out, "--type", "tq1_0", "--format", "json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["tensor_types"] == {"F32": 13, "Q6_K": 1, "TQ1_0": 42}
    assert report["bytes"] == out.stat().st_size
    assert out.read_bytes()[:4] == b"GGUF"
    human = run_tritium("export", tmp_path / "m", out, "--embedding", "f16")
    assert "42 TQ2_0" in human.stdout
    assert "exact" in human.stdout


def test_export_says_when_llama_cpp_cannot_load_the_file(run_tritium, scripture_llama, tmp_path):
    settings = ["--group-size", "256", "--min-planes", "2", "--max-planes", "2", "--format", "quiet"]
    assert run_tritium("quantize", scripture_llama, "--out", tmp_path / "m", *settings).returncode == 0
    done = run_tritium("export", tmp_path / "m", tmp_path / "m.gguf", "--format", "quiet")
    assert done.returncode == 0
    assert done.stderr.startswith("Note: llama.cpp refuses this file: layers have up to 2 trit-planes")


def test_export_writes_a_directory_for_transformers(run_tritium, scripture_bitnet_offline, tmp_path):
    done = run_tritium("export", scripture_bitnet_offline, tmp_path / "hf", "--to", "huggingface")
    assert done.returncode == 0, done.stderr
    assert "42 uint8" in done.stdout
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["quantization_config"]["linear_class"] == "autobitlinear"
    options = ["--to", "huggingface", "--linear-class", "bitlinear", "--format", "json"]
    done = run_tritium("export", scripture_bitnet_offline, tmp_path / "other", *options)
    assert json.loads(done.stdout)["notes"] == ["weight_scale was inverted for bitlinear and is float32."]


def test_export_refuses_what_does_not_fit_and_unknown_formats(
    run_tritium, quantized_by_the_program, tmp_path
):
    quantized, _ = quantized_by_the_program
    done = run_tritium("export", quantized, tmp_path / "m.gguf")
    assert done.returncode == 2
    assert "group_size 256" in done.stderr
    done = run_tritium("export", quantized, tmp_path / "m.onnx", "--to", "onnx")
    assert (done.returncode, done.stderr) == (2, "Error: --to must be gguf or huggingface, not 'onnx'.\n")
    assert list(tmp_path.iterdir()) == []
