"""Models whose embedding and head are coded matrices: close to the dense ones, and in memory once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tritium.errors import ValidationError
from tritium.formats.native import open_native, save_native
from tritium.kernels.coded import CODE_BITS
from tritium.model.export_gguf import export_gguf
from tritium.model.layers import CodedLinear
from tritium.model.pretrained import QuantizedModel, load_model
from tritium.quantize import QuantizationConfig, quantize_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

TABLE = "model.embed_tokens"


@pytest.fixture(scope="module")
def quantized(scripture_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The trained llama, once for each number of bits of its embedding."""
    folder = tmp_path_factory.mktemp("coded")
    for bits in (*CODE_BITS, 16):
        config = QuantizationConfig(embedding_bits=bits, group_size=256, max_planes=1)
        quantize_model(scripture_llama, config, out=folder / str(bits))
    return {bits: folder / str(bits) for bits in (*CODE_BITS, 16)}


def rewritten(path: Path, target: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    """Save a model again after `change(tensors, manifest)`."""
    with open_native(path) as native:
        tensors = {name: native.checkpoint.read(name) for name in native.checkpoint.tensors}
        manifest = json.loads(
            json.dumps({key: native.manifest[key] for key in ("config", "linears", "coded")})
        )
        change(tensors, manifest)
        files = {
            name: (path / name).read_bytes() for name in native.manifest["files"] if "model." not in name
        }
        save_native(target, tensors=tensors, manifest=manifest, files=files)
    return target


@pytest.mark.parametrize(("bits", "most_error", "least_agreement"), [(8, 0.02, 0.95), (6, 0.04, 0.92)])
def test_logits_are_close_to_those_of_the_dense_table(
    quantized, held_out_text, bits, most_error, least_agreement
):
    dense, coded = load_model(quantized[16]), load_model(quantized[bits])
    token_ids = dense.tokenizer.encode(held_out_text[:1500])[:256]
    expected = dense.generator.forward_full(token_ids)
    actual = coded.generator.forward_full(token_ids)
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < most_error
    assert (actual.argmax(1) == expected.argmax(1)).mean() > least_agreement


def test_the_tied_table_is_in_memory_once_and_coded(quantized):
    model = load_model(quantized[6]).generator
    assert isinstance(model.head, CodedLinear)
    assert model.head.weight is model._embedding.weight
    assert model.head.weight.nbytes == 4096 * 256 * 13 // 16
    assert (model.head.out_features, model.head.in_features) == (4096, 256)


def test_results_do_not_depend_on_threads_or_batch(quantized, held_out_text):
    one, two = (load_model(quantized[6], threads=threads).generator for threads in (1, 2))
    token_ids = load_model(quantized[6]).tokenizer.encode(held_out_text[:400])[:40]
    whole = one.forward_full(token_ids)
    np.testing.assert_array_equal(two.forward_full(token_ids), whole)
    np.testing.assert_array_equal(one.forward_full(token_ids[:7]), whole[:7])


def test_saving_again_gives_the_same_files(quantized, tmp_path):
    QuantizedModel.from_pretrained(quantized[6]).save_pretrained(tmp_path / "again")
    for file in sorted(path for path in quantized[6].rglob("*") if path.is_file()):
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(quantized[6])).read_bytes()


def test_codes_that_are_damaged_behind_a_good_digest_are_refused(quantized, tmp_path):
    def infinite_scale(tensors, manifest):
        del manifest
        codes = tensors[f"{TABLE}.codes"].copy()
        codes[3, 1, -2:] = np.array([0x7F80], "<u2").view(np.uint8)
        tensors[f"{TABLE}.codes"] = codes

    with pytest.raises(ValidationError, match=r"embed_tokens\.codes: .*damaged"):
        load_model(rewritten(quantized[8], tmp_path / "m", infinite_scale))


def test_a_table_of_another_size_than_the_config_is_refused(quantized, tmp_path):
    def shorter(tensors, manifest):
        tensors[f"{TABLE}.codes"] = tensors[f"{TABLE}.codes"][:255]
        manifest["coded"][TABLE]["out_features"] = 4080

    with pytest.raises(ValidationError, match="the config asks for 4096 x 256"):
        load_model(rewritten(quantized[6], tmp_path / "m", shorter))


def test_a_coded_tensor_that_is_no_table_is_refused(quantized, tmp_path):
    def renamed(tensors, manifest):
        tensors["model.norm.codes"] = tensors.pop(f"{TABLE}.codes")
        manifest["coded"] = {"model.norm": manifest["coded"][TABLE]}

    with pytest.raises(ValidationError, match="as a coded matrix"):
        load_model(rewritten(quantized[6], tmp_path / "m", renamed))


@pytest.mark.parametrize("name", [f"{TABLE}.weight", "lm_head.weight"])
def test_a_dense_table_beside_the_coded_one_is_refused(quantized, tmp_path, name):
    def doubled(tensors, manifest):
        del manifest
        tensors[name] = np.zeros((4096, 256), np.float32)

    with pytest.raises(ValidationError, match="does not explain"):
        load_model(rewritten(quantized[6], tmp_path / "m", doubled))


def test_a_coded_head_beside_a_tied_table_is_refused(quantized, tmp_path):
    def doubled(tensors, manifest):
        tensors["lm_head.codes"] = tensors[f"{TABLE}.codes"]
        manifest["coded"]["lm_head"] = manifest["coded"][TABLE]

    with pytest.raises(ValidationError, match=r"lm_head as a coded matrix; here only model\.embed_tokens"):
        load_model(rewritten(quantized[6], tmp_path / "m", doubled))


def test_a_coded_model_is_exported(quantized, tmp_path):
    report = export_gguf(quantized[6], tmp_path / "model.gguf", embedding_type="q8_0")
    assert report.ternary_tensors == 42
