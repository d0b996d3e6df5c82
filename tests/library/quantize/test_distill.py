"""Layers that learn: the same mathematics in torch, gradients through rounding, and the profile best."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tritium.errors import ValidationError
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.safetensors import write_safetensors
from tritium.model.pretrained import load_model
from tritium.quantize import QuantizationConfig, Stage, plan_quantization, quantize_model
from tritium.quantize.generate import written_windows
from tritium.quantize.planes import quantize_planes
from tritium.quantize.source import open_source

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")

from tritium.quantize import distill as distill_module  # noqa: E402 - it needs torch
from tritium.quantize.differentiable import differentiable  # noqa: E402 - it needs torch
from tritium.quantize.straight_through import TernaryParameter  # noqa: E402 - it needs torch


def run(path: Path, token_ids: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
    with open_source(path) as source, torch.no_grad():
        model, weights = differentiable(source.config, source.weights), source.weights

        def apply(name: str, x: torch.Tensor) -> torch.Tensor:
            bias = weights.bias(name)
            return torch.nn.functional.linear(
                x,
                torch.from_numpy(np.array(weights.array(f"{name}.weight"))),
                None if bias is None else torch.from_numpy(np.array(bias)),
            )

        hidden = model.embed(token_ids, is_token)
        for index in range(source.config.num_layers):
            hidden = model.block(index, hidden, is_token, apply)
        return model.output(hidden, is_token)


def small_config(model_type: str) -> dict[str, Any]:
    classes = {
        "llama": "LlamaForCausalLM",
        "mistral": "MistralForCausalLM",
        "qwen2": "Qwen2ForCausalLM",
        "qwen3": "Qwen3ForCausalLM",
        "gemma2": "Gemma2ForCausalLM",
        "gemma3_text": "Gemma3ForCausalLM",
    }
    own: dict[str, dict[str, Any]] = {
        "mistral": {"sliding_window": 7},
        "qwen2": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
        "qwen3": {"head_dim": 24},
        # Caps that scores and logits of random weights feel.
        "gemma2": {
            "head_dim": 24, "query_pre_attn_scalar": 30, "sliding_window": 7,
            "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
        },
        "gemma3_text": {
            "head_dim": 24, "query_pre_attn_scalar": 30, "sliding_window": 7, "rope_local_base_freq": 77.0,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    }  # fmt: skip
    return {
        **own.get(model_type, {}),
        "model_type": model_type,
        "architectures": [classes[model_type]],
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 50,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000.0,
        "bos_token_id": 0,
        "tie_word_embeddings": model_type not in {"mistral", "qwen2", "qwen3"},
    }


DECODERS = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"]


@pytest.mark.parametrize("model_type", DECODERS)
def test_a_decoder_in_torch_gives_the_logits_of_ours(random_checkpoint, tmp_path, model_type):
    config = small_config(model_type)
    path = random_checkpoint(tmp_path / "model", config)
    token_ids = torch.arange(40).reshape(2, 20) % 50
    is_token = torch.ones((2, 20), dtype=torch.bool)
    is_token[1, 15:] = False
    found = run(path, token_ids, is_token)
    loaded = load_model(path)
    for row, logits in enumerate(found.split((20, 15))):
        expected = loaded.generator.forward_full(token_ids[row, : len(logits)].numpy().astype(np.int32))
        np.testing.assert_allclose(logits.numpy(), expected, atol=1e-4)


def test_an_encoder_in_torch_gives_the_vectors_of_ours_whatever_stands_beside_a_text(small_encoder):
    token_ids = torch.tensor([[2, 4, 5, 6, 3, 0, 0], [2, 4, 9, 7, 8, 5, 3]])
    is_token = torch.tensor([[True] * 5 + [False] * 2, [True] * 7])
    expected = load_model(small_encoder).encoder.encode([[2, 4, 5, 6, 3], [2, 4, 9, 7, 8, 5, 3]])
    np.testing.assert_allclose(run(small_encoder, token_ids, is_token).numpy(), expected, atol=1e-5)


@pytest.fixture
def weights() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 70)).astype(np.float32)


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("group_size", [32, 70])
def test_learning_begins_with_the_levels_and_scales_it_was_given(weights, planes, group_size):
    quantized = quantize_planes(weights, planes=planes, group_size=group_size)
    parameter = TernaryParameter(quantized, weights)
    np.testing.assert_allclose(parameter().detach().numpy(), quantized.dequantized(), rtol=1e-6, atol=1e-7)
    again = parameter.quantized()
    np.testing.assert_array_equal(again.levels, quantized.levels)
    np.testing.assert_array_equal(again.scales_float32, quantized.scales_float32)


def test_gradients_pass_the_rounding_and_scales_learn_what_rounding_did(weights):
    quantized = quantize_planes(weights, planes=1, group_size=32)
    parameter = TernaryParameter(quantized, weights)
    with torch.no_grad():
        parameter.latent[0, 0] = 9.0  # far outside the grid
    upstream = torch.from_numpy(np.random.default_rng(1).normal(size=weights.shape).astype(np.float32))
    (parameter() * upstream).sum().backward()
    scale = np.repeat(quantized.scales_float32, 32, axis=1)[:, :70]
    in_levels = parameter.latent.detach().numpy() / scale
    is_inside = np.abs(in_levels) <= 1.5
    assert not is_inside[0, 0]
    np.testing.assert_allclose(parameter.latent.grad.numpy(), np.where(is_inside, upstream, 0), rtol=1e-5)
    rounded = np.clip(np.rint(in_levels), -1, 1)
    by_weight = np.where(is_inside, rounded - in_levels, rounded) * upstream.numpy()
    expected = np.add.reduceat(by_weight, [0, 32, 64], axis=1)
    np.testing.assert_allclose(parameter.scales.grad.numpy(), expected, rtol=1e-3, atol=1e-4)


@pytest.fixture
def small_steps(monkeypatch):
    """Where it does not matter how well a model learns, a quarter of the tokens in a step are enough."""
    monkeypatch.setattr(distill_module, "TOKENS_PER_STEP", 512)


BEST = {"profile": "best", "group_size": 32, "max_planes": 1, "training_tokens": 2048, "window": 64}


@pytest.fixture(scope="module")
def small_decoder(random_checkpoint, tmp_path_factory) -> Path:
    """A llama of random weights and fifty tokens."""
    return random_checkpoint(tmp_path_factory.mktemp("decoder") / "model", small_config("llama"))


def lost(source: Path, quantized: Path, *, tokens: int = 512) -> float:
    """The mean Kullback-Leibler divergence of the next token, on text that the source writes."""
    original, other = load_model(source), load_model(quantized)
    divergences = []
    for window in written_windows(original, tokens=tokens, window=64, seed=9):
        wanted, found = (
            torch.from_numpy(each.generator.forward_full(window)).log_softmax(dim=-1)
            for each in (original, other)
        )
        divergences.append((wanted.exp() * (wanted - found)).sum(dim=-1).mean())
    return float(torch.stack(divergences).mean())


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("multiplies_bfloat16", [False, True])
def test_best_learns_from_what_the_model_writes_and_gives_the_same_bytes_again(
    small_decoder, tmp_path, monkeypatch, multiplies_bfloat16
):
    monkeypatch.setattr(distill_module, "MULTIPLIES_BFLOAT16", multiplies_bfloat16)
    steps = []
    config = QuantizationConfig(**BEST, calibration_tokens=256, training_steps=3)
    model = quantize_model(small_decoder, config, out=tmp_path / "out", progress=steps.append)
    assert model.metrics["strategies"] == {"distilled": 14}
    assert [step.completed for step in steps if step.stage is Stage.LEARN] == [1, 2, 3]
    quantize_model(small_decoder, config, out=tmp_path / "again", threads=1)
    first, second = (tmp_path / name / "model.safetensors" for name in ("out", "again"))
    assert first.read_bytes() == second.read_bytes()


TOKENS_OF_A_LESSON = 64  # in a step
KILLED_WHILE_IT_LEARNS = """
import json, os, signal, sys, threading
from tritium.quantize import QuantizationConfig, Stage, distill, quantize_model

source, config, tokens, *attempts = sys.argv[1:]
distill.SECONDS_BETWEEN_KEEPING, distill.SHARE_OF_KEEPING = 0.0, 1e9  # kept after every step
distill.TOKENS_PER_STEP = int(tokens)

def learn(out, step, after):
    def die(progress):
        if progress.stage is Stage.LEARN and progress.completed == step:
            threading.Timer(after, os.kill, (os.getpid(), signal.SIGKILL)).start()

    quantize_model(source, QuantizationConfig.from_dict(json.loads(config)), out=out, progress=die)
    threading.Event().wait(5)

for out, step, after in map(json.loads, attempts):  # forked: torch is loaded once
    child = os.fork()
    if child == 0:
        try:
            learn(out, step, after)
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_after_kill_9_at_any_moment_a_lesson_goes_on_and_ends_with_the_same_bytes(
    small_decoder, tmp_path, monkeypatch
):
    monkeypatch.setattr(distill_module, "TOKENS_PER_STEP", TOKENS_OF_A_LESSON)
    settings = BEST | {"training_tokens": 512, "calibration_tokens": 128, "training_steps": 12}
    config = QuantizationConfig(**settings)
    quantize_model(small_decoder, config, out=tmp_path / "whole")
    whole = (tmp_path / "whole" / "model.safetensors").read_bytes()
    draw = np.random.default_rng(3)
    # In the middle of a step, or of writing what was learned.
    attempts = [
        (tmp_path / f"out{attempt}", int(draw.integers(2, 11)), draw.uniform(0, 0.01)) for attempt in range(2)
    ]
    arguments = [str(small_decoder), json.dumps(config.to_dict()), str(TOKENS_OF_A_LESSON)]
    arguments += [json.dumps([str(out), step, after]) for out, step, after in attempts]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_IT_LEARNS, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    assert killed.stdout.split() == [str(-signal.SIGKILL)] * 2
    for out, step, _ in attempts:
        assert not out.exists()
        seen = []
        quantize_model(small_decoder, config, out=out, progress=seen.append)
        taken = [progress.completed for progress in seen if progress.stage is Stage.LEARN]
        assert taken == list(range(taken[0] if taken else 13, 13))
        assert not taken or taken[0] >= step  # at most the step in which it was killed is taken again
        assert (out / "model.safetensors").read_bytes() == whole


@pytest.mark.usefixtures("small_steps")
def test_a_lesson_that_is_damaged_or_another_plans_begins_again(small_decoder, tmp_path, monkeypatch):
    config = QuantizationConfig(**BEST, calibration_tokens=256, training_steps=4)
    quantize_model(small_decoder, config, out=tmp_path / "whole")

    def stopped(changes: dict[str, Any], out: Path, at: int) -> Path:
        """Stop after some steps, with everything kept; return the file of the lesson."""

        def stop(progress: Any) -> None:
            if progress.stage is Stage.LEARN and progress.completed == at:
                raise KeyboardInterrupt

        stopping = QuantizationConfig(**BEST | {"calibration_tokens": 256, "training_steps": 4} | changes)
        with monkeypatch.context() as patch:
            patch.setattr(distill_module, "SECONDS_BETWEEN_KEEPING", 0.0)
            patch.setattr(distill_module, "SHARE_OF_KEEPING", 1e9)
            with pytest.raises(KeyboardInterrupt):
                quantize_model(small_decoder, stopping, out=out, progress=stop)
        return next(out.parent.rglob(f".{out.name}.quantizing/distilled/lesson.safetensors"))

    other = stopped({"group_size": 64}, tmp_path / "other", at=3).read_bytes()
    for name, content in (("damaged", b"no lesson"), ("another", other)):
        lesson = stopped({}, tmp_path / name, at=2)
        lesson.write_bytes(content)
        seen = []
        quantize_model(small_decoder, config, out=tmp_path / name, progress=seen.append)
        assert [each.completed for each in seen if each.stage is Stage.LEARN] == [1, 2, 3, 4]
        first, second = (tmp_path / each / "model.safetensors" for each in ("whole", name))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("model_type", ["qwen3", "gemma2", "gemma3_text"])
def test_every_decoder_learns(random_checkpoint, tmp_path, model_type):
    source = random_checkpoint(tmp_path / "source", small_config(model_type))
    settings = BEST | {"training_tokens": 128, "calibration_tokens": 64, "window": 32}
    losses = {}
    for steps in (1, 40):
        config = QuantizationConfig(**settings, training_steps=steps)
        model = quantize_model(source, config, out=tmp_path / str(steps))
        assert model.metrics["strategies"] == {"distilled": 14}
        losses[steps] = lost(source, tmp_path / str(steps), tokens=128)
    assert losses[40] < losses[1]


@pytest.mark.usefixtures("small_steps")
def test_layers_that_are_ternary_in_the_source_do_not_learn(random_checkpoint, tmp_path):
    source = random_checkpoint(tmp_path / "source", small_config("llama"))
    with open_checkpoint(source) as checkpoint:
        tensors = {name: np.array(checkpoint.read(name)) for name in checkpoint.tensors}
    names = [name.removesuffix(".weight") for name in tensors if "self_attn" in name and "_proj" in name]
    for name in names:
        tensors[f"{name}.weight"] = np.sign(tensors[f"{name}.weight"]) * np.float32(0.1)
    write_safetensors(source / "model.safetensors", tensors)
    config = QuantizationConfig(**BEST, calibration_tokens=256, training_steps=3)
    model = quantize_model(source, config, out=tmp_path / "out")
    assert model.metrics["strategies"] == {"distilled": 6, "detected": 8}
    assert all(model.manifest["linears"][name]["is_lossless"] for name in names)


def test_a_model_that_learned_loses_less(small_decoder, tmp_path):
    losses = {}
    for profile in ("balanced", "best"):
        settings = BEST | {"profile": profile, "training_steps": 120, "calibration_tokens": 512}
        quantize_model(small_decoder, QuantizationConfig(**settings), out=tmp_path / profile)
        losses[profile] = lost(small_decoder, tmp_path / profile)
    assert losses["best"] < 0.9 * losses["balanced"]


def test_an_encoder_learns_its_vectors_from_a_text(small_encoder, tmp_path):
    text = "the cat sat on a mat. a cat sat on the mat. the mat sat on a cat. " * 40
    config = QuantizationConfig(**BEST, calibration_text=text, training_steps=4, validation_text=text)
    model = quantize_model(small_encoder, config, out=tmp_path / "out")
    assert set(model.metrics["strategies"]) == {"distilled"}


def test_without_torch_the_profile_best_is_refused_before_any_work(make_llama, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "tritium.quantize.differentiable")
    with pytest.raises(ValidationError, match=r"tritium\[train\]"):
        plan_quantization(make_llama(), QuantizationConfig(**BEST))


def test_an_architecture_that_training_does_not_know_is_refused_by_name(make_llama):
    path = make_llama(seed=5)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"hidden_act": "relu2"}))
    with pytest.raises(ValidationError, match="llama with relu2"):
        plan_quantization(path, QuantizationConfig(**BEST))
