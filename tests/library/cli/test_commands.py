from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tritium.cli.figures import interval, share
from tritium.cli.output import printable, readable_bytes
from tritium.cli.report import write_layers
from tritium.formats import native


def test_quantize_writes_a_model_and_a_report_of_measured_figures(quantized_by_the_program):
    out, report = quantized_by_the_program
    assert report["path"] == str(out)
    metrics, validation = report["metrics"], report["validation_report"]
    assert metrics["layers"] == 42
    assert 1.6 <= metrics["trit_bits_per_weight"] < 1.62
    assert metrics["quantized_bytes"] < metrics["source_bytes"] / 3
    assert validation["source_perplexity"]["value"] > 1
    assert math.isclose(
        validation["perplexity_ratio"]["value"],
        validation["quantized_perplexity"]["value"] / validation["source_perplexity"]["value"],
        rel_tol=1e-9,
    )


def test_quantize_shows_before_and_after_to_a_human_and_a_bar_on_stderr(
    run_tritium, scripture_llama, tmp_path
):
    text = tmp_path / "text.txt"
    text.write_text("And the evening and the morning were the first day.\n" * 20)
    done = run_tritium(
        "quantize", scripture_llama, "--out", tmp_path / "m", "--max-planes", "2", "--max-loss", "0.2",
        "--min-planes", "2", "--validation", text,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = {line[:20].strip(): line[20:].split() for line in done.stdout.splitlines()}
    assert lines[""] == ["source", "quantized", "change"]
    assert lines["size"][1::2] == ["MiB", "MiB"]
    assert lines["size"][-1].startswith("-")
    assert len(lines["perplexity"]) == 3
    assert lines["perplexity"][-1].startswith("x")
    assert "42 with 2" in done.stdout
    assert "━" in done.stderr
    assert "━" not in done.stdout


def test_quantize_takes_its_settings_from_a_file_and_options_win_over_it(
    run_tritium, scripture_llama, tmp_path
):
    settings = {"group_size": 64, "max_planes": 1, "layers": {"model.layers.0.*": {"planes": 2}}}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    words = ["--config", tmp_path / "settings.json", "--group-size", "256", "--format", "json"]
    done = run_tritium("quantize", scripture_llama, "--out", tmp_path / "m", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["planes"] == {"1": 35, "2": 7}
    layers = json.loads(run_tritium("show", tmp_path / "m", "--format", "json").stdout)["layers"]
    assert {layer["group_size"] for layer in layers.values()} == {256}


def test_quantize_keeps_a_bit_budget_and_tells_what_came_of_it(run_tritium, small_encoder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on a mat.\n\na mat sat.\n\non the mat a cat.")
    words = ["--average-bits", "3", "--group-size", "32", "--calibration", text]
    done = run_tritium("quantize", small_encoder, "--out", tmp_path / "m", *words)
    assert done.returncode == 0, done.stderr
    facts = [line.split() for line in done.stdout.splitlines()]
    (budget,) = [words for words in facts if words[:2] == ["bit", "budget"]]
    assert 2.5 < float(budget[2]) <= 3.0
    (loss,) = [words for words in facts if words[:1] == ["loss"]]
    shown = run_tritium("show", tmp_path / "m", "--format", "json")
    losses = [layer["predicted_loss"] for layer in json.loads(shown.stdout)["layers"].values()]
    assert float(loss[1]) == pytest.approx(sum(losses), abs=1e-4)
    assert "sensitivity" in run_tritium("show", tmp_path / "m").stdout


def test_quantize_codes_the_embedding_and_tells_its_size_and_error(run_tritium, scripture_llama, tmp_path):
    done = run_tritium("quantize", scripture_llama, "--out", tmp_path / "m", "--embedding-bits", "6")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "model.embed_tokens" in line]
    assert "codes of 6 bits, 6.500 with scales, 832.00 KiB, weight error 0.0212" in line
    shown = run_tritium("show", tmp_path / "m")
    assert "codes of 6 bits, 6.500 with scales" in shown.stdout
    assert "tritium 3" in shown.stdout
    refused = run_tritium("quantize", scripture_llama, "--out", tmp_path / "n", "--embedding-bits", "7")
    assert refused.returncode != 0
    assert "embedding_bits must be 6, 8 or 16" in refused.stderr


def test_quantize_makes_the_embedding_ternary_on_request(run_tritium, scripture_llama, tmp_path):
    done = run_tritium("quantize", scripture_llama, "--out", tmp_path / "m", "--embedding-planes", "2")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "model.embed_tokens" in line]
    assert re.search(
        r"2 trit-planes of 1\.6 bits, 3\.26\d with scales, 41\d\.\d\d KiB, weight error 0\.1", line
    )
    assert "tritium 4" in run_tritium("show", tmp_path / "m").stdout
    ran = run_tritium("run", tmp_path / "m", "In the beginning", "--max-tokens", "8", "--temperature", "0")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()
    both = ["--embedding-bits", "6", "--embedding-planes", "1"]
    refused = run_tritium("quantize", scripture_llama, "--out", tmp_path / "n", *both)
    assert refused.returncode != 0
    assert "give one" in refused.stderr


def test_quantize_in_quiet_prints_the_path_and_nothing_else(run_tritium, scripture_bitnet_offline, tmp_path):
    done = run_tritium("quantize", scripture_bitnet_offline, "--out", tmp_path / "m", "--format", "quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path / 'm'}\n", "")


def test_quantize_on_a_full_disk_says_what_to_do_and_leaves_no_model(
    tritium_program, scripture_llama, tmp_path
):
    import resource  # noqa: PLC0415 - not on every system
    import subprocess  # noqa: PLC0415

    done = subprocess.run(
        [*tritium_program, "quantize", str(scripture_llama), "--out", str(tmp_path / "m")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000)),
    )
    assert done.returncode == 4, done.stderr
    assert "No room to write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "m").exists()


def test_show_tells_a_quantized_model_from_its_sources(
    run_tritium, quantized_by_the_program, scripture_llama, scripture_bitnet_offline
):
    out, report = quantized_by_the_program
    native = json.loads(run_tritium("show", out, "--format", "json").stdout)
    assert native["format"] == "tritium 3"
    assert native["metrics"]["bits_per_weight"] == report["metrics"]["bits_per_weight"]
    assert len(native["layers"]) == 42
    dense = json.loads(run_tritium("show", scripture_llama, "--tensors", "--format", "json").stdout)
    assert (dense["format"], dense["ternary_convention"]) == ("safetensors", "none")
    assert dense["tensors"]["model.norm.weight"] == {"dtype": "BF16", "shape": [256], "bytes": 512}
    assert dense["elements"] == 5_770_496
    packed = json.loads(run_tritium("show", scripture_bitnet_offline, "--format", "json").stdout)
    assert packed["ternary_convention"] == "autobitlinear_offline"


def test_show_draws_both_for_a_human(run_tritium, quantized_by_the_program, scripture_llama):
    out, _ = quantized_by_the_program
    done = run_tritium("show", out)
    assert done.returncode == 0, done.stderr
    assert "bits per weight" in done.stdout
    assert "perplexity" in done.stdout
    layers = [line.split() for line in done.stdout.splitlines() if line.startswith("model.layers.")]
    assert len(layers) == 42
    assert all(words[1] == "standard" and 0 < float(words[5]) < 1 for words in layers)
    done = run_tritium("show", scripture_llama, "--tensors")
    assert done.returncode == 0, done.stderr
    assert "model.layers.5.self_attn.v_proj.weight" in done.stdout
    assert run_tritium("show", out, "--format", "quiet").stdout == "tritium 3\n"


def test_the_table_of_layers_puts_layer_2_before_layer_10(capsys):
    layer = {"strategy": "standard", "planes": 1, "group_size": 128, "bits_per_weight": 1.725}
    exact = {**layer, "is_lossless": True, "weight_error": 0.0, "output_error": None}
    write_layers({f"layers.{index}.up": exact for index in (10, 2, 1)})
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split() for line in lines] == [
        [f"layers.{index}.up", "standard", "1", "128", "1.725", "exact", "-"] for index in (1, 2, 10)
    ]


def test_show_refuses_a_model_that_was_tampered_with(run_tritium, quantized_by_the_program, tmp_path):
    shutil.copytree(quantized_by_the_program[0], tmp_path / "m")
    with (tmp_path / "m" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    done = run_tritium("show", tmp_path / "m")
    assert done.returncode == 2
    assert "model.safetensors: the content was altered" in done.stderr


def test_run_gives_the_same_text_for_the_same_seed_in_every_format(run_tritium, quantized_by_the_program):
    model, _ = quantized_by_the_program
    words = ["run", model, "In the beginning", "--max-tokens", "20", "--seed", "7"]
    human, quiet = run_tritium(*words), run_tritium(*words, "--format", "quiet")
    result = json.loads(run_tritium(*words, "--format", "json").stdout)
    assert human.stdout == quiet.stdout
    assert printable(result["text"]) + "\n" == quiet.stdout
    assert result["completion_tokens"] == 20
    assert result["finish_reason"] == "length"
    assert "tokens/s" in human.stderr
    assert quiet.stderr == ""


def test_run_reads_the_prompt_from_stdin_without_the_shells_newline(run_tritium, scripture_bitnet_bitlinear):
    options = ["--max-tokens", "8", "--temperature", "0", "--format", "json"]
    piped = run_tritium("run", scripture_bitnet_bitlinear, *options, stdin="In the beginning\n")
    given = run_tritium("run", scripture_bitnet_bitlinear, "In the beginning", *options)
    assert json.loads(piped.stdout)["text"] == json.loads(given.stdout)["text"]


@pytest.mark.parametrize("stdin", [b"", b"\xff\xfe", b"\xed\xa0\x80"])
@pytest.mark.parametrize("command", ["run", "embed"])
def test_stdin_that_is_empty_or_not_utf8_is_refused(
    run_tritium, scripture_llama, small_encoder, command, stdin
):
    model = scripture_llama if command == "run" else small_encoder
    done = run_tritium(command, model, stdin=stdin)
    assert done.returncode == 2
    assert "tandard input" in done.stderr
    assert "Traceback" not in done.stderr


def test_chat_answers_each_line_and_remembers_the_lines_before(run_tritium, scripture_llama):
    done = run_tritium(
        "chat",
        scripture_llama,
        "--max-tokens",
        "5",
        "--temperature",
        "0",
        "--format",
        "json",
        stdin="hello\n\nwho?\n",
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert second["prompt_tokens"] > first["prompt_tokens"] + first["completion_tokens"]


def test_chat_forgets_the_oldest_turns_where_the_context_ends(run_tritium, scripture_llama):
    long = "the earth and the heaven " * 60
    done = run_tritium(
        "chat",
        scripture_llama,
        "--max-tokens",
        "3",
        "--temperature",
        "0",
        "--format",
        "json",
        stdin=f"{long}\n" * 5,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == 5
    assert max(answer["prompt_tokens"] for answer in answers) < 1024
    assert "forgotten" in done.stderr


def test_one_line_that_is_too_long_for_the_model_is_refused(run_tritium, scripture_llama):
    done = run_tritium("chat", scripture_llama, stdin="word " * 3000)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_embed_writes_vectors_of_length_one(run_tritium, small_encoder):
    done = run_tritium("embed", small_encoder, "the cat sat", "a mat", "--format", "json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    vectors = np.array(result["embeddings"])
    assert vectors.shape == (2, result["dimensions"]) == (2, 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    quiet = run_tritium("embed", small_encoder, "--format", "quiet", stdin="the cat sat\n\na mat\n")
    np.testing.assert_array_equal(np.loadtxt(quiet.stdout.splitlines()), vectors)
    human = run_tritium("embed", small_encoder, "the cat sat", "a mat")
    assert f"{vectors[0] @ vectors[1]:.3f}" in human.stdout


def test_eval_measures_and_compares(run_tritium, quantized_by_the_program, scripture_llama, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("And God said, Let there be light: and there was light.\n\n" * 30)
    model, _ = quantized_by_the_program
    options = ["--text", text, "--window", "64"]
    alone = json.loads(run_tritium("eval", model, *options, "--format", "json").stdout)
    source = json.loads(run_tritium("eval", scripture_llama, *options, "--format", "json").stdout)
    both = run_tritium("eval", model, *options, "--against", scripture_llama, "--format", "json")
    compared = json.loads(both.stdout)
    assert math.isclose(compared["quantized_perplexity"]["value"], alone["perplexity"]["value"], rel_tol=1e-9)
    assert math.isclose(compared["source_perplexity"]["value"], source["perplexity"]["value"], rel_tol=1e-9)
    quiet = run_tritium("eval", model, *options, "--format", "quiet")
    assert math.isclose(float(quiet.stdout), alone["perplexity"]["value"], rel_tol=1e-9)
    human = run_tritium("eval", model, *options, "--against", scripture_llama)
    assert "perplexity" in human.stdout
    assert "same top token" in human.stdout


def test_eval_without_a_text_computes_the_report_again_and_names_what_differs(
    run_tritium, quantized_by_the_program, scripture_llama, tmp_path
):
    out, report = quantized_by_the_program
    again = run_tritium("eval", out)
    assert again.returncode == 0, again.stderr
    assert "figures of the report follow from its run record" in again.stdout
    figures = json.loads(run_tritium("eval", out, "--format", "json").stdout)["figures"]
    assert figures["metrics.bits_per_weight"] == report["metrics"]["bits_per_weight"]
    ratio = report["validation_report"]["perplexity_ratio"]["value"]
    assert figures["validation_report.perplexity_ratio.value"] == ratio

    nicer = shutil.copytree(out, tmp_path / "nicer")
    manifest = json.loads((nicer / "tritium.json").read_bytes())
    del manifest["manifest_sha256"]
    manifest["validation_report"]["perplexity_ratio"]["value"] = 1.0
    (nicer / "tritium.json").write_bytes(native._sealed(manifest))
    found = run_tritium("eval", nicer)
    assert found.returncode == 1
    assert f"validation_report.perplexity_ratio.value  1.0, recomputed {ratio!r}" in found.stdout
    quiet = run_tritium("eval", nicer, "--format", "quiet")
    assert (quiet.returncode, quiet.stdout) == (1, "validation_report.perplexity_ratio.value\n")
    (difference,) = json.loads(run_tritium("eval", nicer, "--format", "json").stdout)["differences"]
    assert (difference["stored"], difference["recomputed"]) == (1.0, ratio)

    (nicer / "record.json").write_text("{}")
    damaged = run_tritium("eval", nicer)
    assert (damaged.returncode, damaged.stdout) == (2, "")
    assert "record.json" in damaged.stderr
    dense = run_tritium("eval", scripture_llama)
    assert dense.returncode == 2
    assert "--text" in dense.stderr
    assert run_tritium("eval", out, "--against", scripture_llama).returncode == 2


def test_eval_compares_encoders_and_refuses_to_compare_unlike_models(
    run_tritium, small_encoder, scripture_llama, tmp_path
):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on a mat.\n\na cat sat on the mat.\n\nthe mat sat.\n")
    same = run_tritium("eval", small_encoder, "--text", text, "--against", small_encoder, "--format", "json")
    assert json.loads(same.stdout)["cosine_similarity"]["value"] == pytest.approx(1)
    unlike = run_tritium("eval", small_encoder, "--text", text, "--against", scripture_llama)
    assert unlike.returncode == 2
    assert "cannot be compared" in unlike.stderr
    assert run_tritium("eval", small_encoder, "--text", text).returncode == 2


def test_bench_times_what_it_is_asked_for(run_tritium, scripture_bitnet_bitlinear):
    words = ["bench", scripture_bitnet_bitlinear, "--streams", "1,3", "--prompt-tokens", "9"]
    words += ["--max-tokens", "5", "--repeat", "2"]
    done = run_tritium(*words, "--format", "json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert [result["streams"] for result in results] == [1, 3]
    for result in results:
        assert 7 <= result["prompt_tokens"] <= 11
        assert result["completion_tokens"] == 5
        assert result["tokens_per_second"] > 0
        assert result["seconds_to_first_token"] > 0
        assert result["seconds_between_tokens"] > 0
    assert "tokens/s" in run_tritium(*words).stdout


def test_env_tells_what_the_kernels_use(run_tritium):
    facts = json.loads(run_tritium("env", "--format", "json").stdout)
    assert facts["isa"] in facts["available_isas"]
    assert facts["threads"] >= 1
    assert set(facts["extras"]) == {"serve", "platform", "hub", "gguf", "train"}
    assert facts["isa"] in run_tritium("env").stdout


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc", "a\nb\tc"),
        ("\x1b[2J\x1b]0;owned\x07", "\ufffd[2J\ufffd]0;owned\ufffd"),
        ("\x9b31m\x7f\x00", "\ufffd31m\ufffd\ufffd"),
        ("line\r\noverwritten\r", "line\noverwritten"),
        ("grüße 日本 🙂\u00a0", "grüße 日本 🙂\u00a0"),
        ("\u202eright to left", "\ufffdright to left"),
    ],
)
def test_text_of_a_model_cannot_steer_the_terminal(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (11_540_992, "11.01 MiB"), (2**43, "8.00 TiB")],
)
def test_sizes_are_readable(count, shown):
    assert readable_bytes(count) == shown


def test_the_commands_stay_small_files():
    import tritium.cli  # noqa: PLC0415 - only to find its files

    for path in Path(tritium.cli.__file__).parent.glob("*.py"):
        assert len(path.read_text().splitlines()) < 300


def test_an_estimate_keeps_its_zeros_and_its_interval():
    estimate = {"value": 1.02, "low": 1.017, "high": 1.0232}
    assert interval(estimate, digits=3) == "1.020 [1.017, 1.023]"
    assert share({"value": 0.5, "low": None, "high": None}) == "50.0 %"
    assert interval({"value": 1e300, "low": None, "high": None}, digits=2) == "1e+300"


def test_a_broken_model_is_called_that_in_every_format(
    run_tritium, scripture_bitnet_offline, random_checkpoint, held_out_text, tmp_path
):
    shutil.copytree(scripture_bitnet_offline, tmp_path / "source")
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    (tmp_path / "source" / "config.json").write_text(json.dumps(config | {"hidden_act": "silu"}))
    del config["quantization_config"]
    text = tmp_path / "text"
    text.write_text(held_out_text[:4000])
    done = run_tritium("quantize", tmp_path / "source", "--out", tmp_path / "m", "--validation", text)
    assert done.returncode == 0
    assert "BROKEN" in done.stdout
    assert "Warning: this model is broken. With hidden_act=relu2" in done.stderr
    random = random_checkpoint(tmp_path / "random", config)
    shutil.copy(tmp_path / "source" / "tokenizer.json", random)
    done = run_tritium("eval", random, "--text", text, "--against", random, "--format", "json")
    assert "Warning: this model is broken." in done.stderr
    assert json.loads(done.stdout)["is_broken"] is True
