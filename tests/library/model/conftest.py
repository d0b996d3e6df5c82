"""The oracle (transformers on torch, eager, float32), tiny checkpoints, and the tracing of a divergence."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tritium.formats.bitnet_hf import pack_bitnet, ternarise_online
from tritium.kernels import cpu
from tritium.model.batch import ForwardBatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tritium.model.decoder import DecoderModel


class Oracle:
    """transformers in float32 on the CPU, without compilation: its formulas, one operation after another."""

    def __init__(self, torch: Any, transformers: Any) -> None:
        self.torch, self.transformers = torch, transformers

    def load(self, path: Path, *, attention: str = "eager") -> Any:
        """Load a causal model; what transformers leaves in bfloat16 becomes float32, unchanged."""
        model = self.transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=self.torch.float32, attn_implementation=attention
        )
        for parameter in model.parameters():
            parameter.data = parameter.data.float()
        return model.eval()

    def logits(self, model: Any, token_ids: np.ndarray) -> np.ndarray:
        """Logits [B, T, vocabulary] of whole sequences [B, T]."""
        with self.torch.no_grad():
            return model(self.torch.tensor(np.atleast_2d(token_ids))).logits.numpy()

    def record(self, model: Any) -> Recording:
        """Keep the inputs of the linear layers of every forward until `stop`."""
        return Recording(self, model)

    def greedy(self, model: Any, prompts: np.ndarray, count: int) -> tuple[np.ndarray, Recording]:
        """Continue prompts [B, P] by `count` tokens with a cache; also return the inputs of every layer."""
        recording = Recording(self, model)
        tokens = self.torch.tensor(prompts)
        past, generated = None, []
        with self.torch.no_grad():
            for _ in range(count):
                output = model(tokens, past_key_values=past, use_cache=True)
                past, tokens = output.past_key_values, output.logits[:, -1:].argmax(-1)
                generated.append(tokens)
        recording.stop()
        return self.torch.cat(generated, dim=1).numpy(), recording


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    """transformers and torch, imported here because the bare wheel has neither."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch  # noqa: PLC0415
        import transformers  # noqa: PLC0415

        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    return Oracle(torch, transformers)


class Recording:
    """Inputs of the linear layers that do not share one with the layer before, [B, T, K] by name."""

    def __init__(self, oracle: Oracle, model: Any) -> None:
        self.torch = oracle.torch
        self.pieces: dict[str, list[Any]] = {}
        self.hooks = [
            module.register_forward_pre_hook(self._hook(name))
            for name, module in model.named_modules()
            if name.endswith(("q_proj", "o_proj", "gate_proj", "down_proj"))
        ]

    def _hook(self, name: str) -> Callable[..., None]:
        def keep(module: Any, inputs: tuple[Any, ...]) -> None:
            self.pieces.setdefault(name, []).append(inputs[0].detach().clone())

        return keep

    def stop(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def inputs(self, sequence: int) -> dict[str, np.ndarray]:
        """Inputs of one sequence, [T, K] by name."""
        return {
            name: self.torch.cat([piece[sequence] for piece in pieces]).numpy()
            for name, pieces in self.pieces.items()
        }


@dataclass(frozen=True)
class Divergence:
    """Where two runs first rounded an activation differently, and how far each was from the tie."""

    layer: str
    largest_distance: float
    largest_input_difference: float


def observed_inputs(model: DecoderModel, token_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Run one sequence; return the input [T, K] of every linear layer."""
    seen: dict[str, np.ndarray] = {}
    model.observer = lambda name, x: seen.__setitem__(name, x.copy())
    try:
        model.forward_full(token_ids)
    finally:
        model.observer = None
    return seen


def first_divergence(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> Divergence | None:
    """Find the first layer where an activation was rounded to another integer; None if none was.

    Up to there both runs multiplied the same integers, so only the order of float32 sums can have differed.
    """
    for name, expected in theirs.items():
        actual = ours[name][: len(expected)]
        (q, scale), (q2, scale2) = cpu.quantize_activations(actual), cpu.quantize_activations(expected)
        differs = q != q2
        if differs.any():
            rows, columns = np.nonzero(differs)
            distances = [
                np.abs(
                    np.abs(
                        x[rows, columns] * s[rows]
                        - (q[rows, columns].astype(np.float64) + q2[rows, columns]) / 2
                    )
                )
                for x, s in ((actual, scale), (expected, scale2))
            ]
            return Divergence(name, float(np.max(distances)), float(np.abs(actual - expected).max()))
    return None


def greedy(model: DecoderModel, prompts: np.ndarray, count: int) -> np.ndarray:
    """Continue prompts [B, P] by `count` tokens through the paged cache, all sequences in one batch."""
    sequences, length = prompts.shape
    total = -(-(length + count) // 16)
    cache = model.new_cache(sequences * total)
    tables = np.arange(sequences * total, dtype=np.int32).reshape(sequences, total)
    tokens, start, generated = prompts.astype(np.int32), 0, []
    for _ in range(count):
        width = tokens.shape[1]
        positions = np.tile(np.arange(start, start + width, dtype=np.int32), sequences)
        rows = np.repeat(np.arange(sequences), width)
        batch = ForwardBatch(
            token_ids=tokens.ravel(),
            positions=positions,
            sequence_starts=np.arange(sequences + 1, dtype=np.int32) * width,
            block_tables=tables,
            context_lengths=np.full(sequences, start + width, dtype=np.int32),
            slots=tables[rows, positions // 16].astype(np.int64) * 16 + positions % 16,
            logit_rows=np.arange(1, sequences + 1, dtype=np.int32) * width - 1,
        )
        logits = model.forward(batch, cache)
        start += width
        tokens = logits.argmax(-1).astype(np.int32)[:, None]
        generated.append(tokens)
    return np.concatenate(generated, axis=1)


@dataclass(frozen=True)
class TinyModels:
    """Writes small random checkpoints with transformers, so that names and shapes are its own."""

    oracle: Oracle

    def dense(self, directory: Path, model_type: str, *, seed: int = 0, **fields: Any) -> Path:
        """Write a random model of a type; weights large enough that every part matters."""
        transformers, torch = self.oracle.transformers, self.oracle.torch
        names = {
            "llama": ("LlamaConfig", "LlamaForCausalLM"),
            "mistral": ("MistralConfig", "MistralForCausalLM"),
            "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
            "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
            "gemma2": ("Gemma2Config", "Gemma2ForCausalLM"),
            "gemma3_text": ("Gemma3TextConfig", "Gemma3ForCausalLM"),
            "bitnet": ("BitNetConfig", "BitNetForCausalLM"),
            "bert": ("BertConfig", "BertModel"),
        }
        make_config, make_model = (getattr(transformers, name) for name in names[model_type])
        torch.manual_seed(seed)
        model = make_model(make_config(**fields))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                is_norm = "norm" in name.lower() and name.endswith("weight")
                centre = 1.0 if is_norm and not model_type.startswith("gemma") else 0.0
                parameter.copy_(torch.randn_like(parameter) * 0.2 + centre)
        model.save_pretrained(directory)
        return directory

    def ternary(self, directory: Path, convention: str, *, seed: int = 0, **fields: Any) -> Path:
        """Write a random model in one of the three conventions of native ternary checkpoints."""
        model_type = fields.pop("model_type", "bitnet")
        self.dense(directory, model_type, seed=seed, **fields)
        settings = CONVENTIONS[convention]
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
        if convention == "online":
            return directory
        tensors = load_file(directory / "model.safetensors")
        for name in [name for name in tensors if name.endswith("_proj.weight")]:
            trits, inverse = ternarise_online(tensors[name])
            tensors[name] = pack_bitnet(trits)
            scale = inverse if convention == "bitlinear" else np.float32(1) / inverse
            tensors[f"{name}_scale"] = np.array([scale], dtype=np.float32)
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return directory

    def rename(self, directory: Path, renamed: Callable[[str], str]) -> None:
        """Give every tensor of a checkpoint another name."""
        tensors = load_file(directory / "model.safetensors")
        save_file(
            {renamed(name): tensor for name, tensor in tensors.items()},
            directory / "model.safetensors",
            metadata={"format": "pt"},
        )


CONVENTIONS = {
    "bitlinear": {"quant_method": "bitnet"},
    "offline": {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"},
    "online": {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"},
}


@pytest.fixture(scope="session")
def tiny_models(oracle: Oracle) -> TinyModels:
    return TinyModels(oracle)


@pytest.fixture(scope="session")
def trace() -> SimpleNamespace:
    return SimpleNamespace(observed_inputs=observed_inputs, first_divergence=first_divergence, greedy=greedy)
