"""The decoders against the official package, and against encoders written here, weight by weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tritium.errors import ValidationError
from tritium.formats.gguf import BLOCKS, GGUFTensor, TensorType, write_gguf
from tritium.formats.gguf_blocks import encode_q6_k, encode_q8_0, encode_tq1_0, encode_tq2_0
from tritium.formats.gguf_decode import ROUNDED, dequantize, dequantize_ternary, ternary_scales, ternary_trits
from tritium.formats.gguf_shards import GGUFFiles
from tritium.formats.gguf_weights import GGUFWeights
from tritium.kernels.packing import unpack_trits

if TYPE_CHECKING:
    from pathlib import Path


def i2_s(trits: np.ndarray, scale: float) -> np.ndarray:
    """Encode a whole tensor, one weight after another."""
    flat, out = trits.reshape(-1), bytearray(trits.size // 4)
    for index, trit in enumerate(flat):
        block, j = divmod(index, 128)
        out[32 * block + j % 32] |= (int(trit) + 1) << (6 - 2 * (j // 32))
    return np.frombuffer(bytes(out) + np.float32(scale).tobytes() + bytes(28), np.uint8)


def q2_0(trits: np.ndarray, scales: np.ndarray, group: int) -> np.ndarray:
    """Encode blocks of `group` weights, one weight after another."""
    out = bytearray()
    for block, scale in zip(trits.reshape(-1, group), scales.reshape(-1), strict=True):
        codes = bytearray(group // 4)
        for i, trit in enumerate(block):
            codes[i // 4] |= (int(trit) + 1) << (2 * (i % 4))
        out += np.float16(scale).tobytes() + codes
    return np.frombuffer(bytes(out), np.uint8)


ENCODERS = {
    "tq1_0": (TensorType.TQ1_0, 256, lambda trits, scales: encode_tq1_0(trits, scales).reshape(-1)),
    "tq2_0": (TensorType.TQ2_0, 256, lambda trits, scales: encode_tq2_0(trits, scales).reshape(-1)),
    "q2_0 g64": (TensorType.Q2_0, 64, lambda trits, scales: q2_0(trits, scales, 64)),
    "q2_0 g128": (TensorType.Q2_0, 128, lambda trits, scales: q2_0(trits, scales, 128)),
}


@settings(max_examples=60)
@given(
    data=st.data(), name=st.sampled_from(sorted(ENCODERS)), rows=st.integers(1, 5), blocks=st.integers(1, 3)
)
def test_every_trit_and_every_scale_byte_comes_back(data, name, rows, blocks):
    kind, block, encode = ENCODERS[name]
    trits = data.draw(arrays.arrays(np.int8, (rows, block * blocks), elements=st.integers(-1, 1)))
    scales = data.draw(arrays.arrays(np.float16, (rows, blocks), elements=st.floats(-100, 100, width=16)))
    stored = encode(trits, scales)
    np.testing.assert_array_equal(ternary_trits(kind, stored, block=block), trits.reshape(-1))
    found = ternary_scales(kind, stored, block=block)
    assert found.tobytes() == scales.tobytes()
    wide = np.repeat(scales.astype(np.float32), block, axis=1)
    np.testing.assert_array_equal(dequantize_ternary(kind, stored, block=block), (trits * wide).reshape(-1))


@settings(max_examples=40)
@given(data=st.data(), rows=st.integers(1, 5), blocks=st.integers(1, 3), scale=st.floats(0, 1e9, width=32))
def test_every_trit_and_the_scale_of_i2_s_come_back(data, rows, blocks, scale):
    trits = data.draw(arrays.arrays(np.int8, (rows, 128 * blocks), elements=st.integers(-1, 1)))
    stored = i2_s(trits, scale)
    found = ternary_trits(TensorType.I2_S, stored[:-32], block=trits.size)
    np.testing.assert_array_equal(found, trits.reshape(-1))
    assert ternary_scales(TensorType.I2_S, stored, block=trits.size).tolist() == [scale]
    expected = (trits * np.float32(scale)).reshape(-1)
    np.testing.assert_array_equal(dequantize_ternary(TensorType.I2_S, stored, block=trits.size), expected)


def test_a_code_that_is_no_trit_is_refused():
    for kind, block, size in (
        (TensorType.TQ2_0, 256, 66),
        (TensorType.Q2_0, 64, 18),
        (TensorType.Q2_0, 128, 34),
        (TensorType.I2_S, 256, 64),
    ):
        for position in (3, size // 2):  # neither is a byte of a scale
            for shift in (0, 2, 4, 6):
                stored = np.zeros(size, np.uint8)
                stored[position] = 3 << shift
                with pytest.raises(ValidationError, match="a code is 3"):
                    ternary_trits(kind, stored, block=block)


def test_bytes_that_stand_for_no_digits_are_refused():
    written = set()
    for value in range(243):
        trits = np.zeros((1, 256), np.int8)
        trits[0, :160:32] = [value // 3**n % 3 - 1 for n in (4, 3, 2, 1, 0)]
        written.add(int(encode_tq1_0(trits, np.ones((1, 1), np.float16))[0, 0]))
    assert len(written) == 243
    stored = encode_tq1_0(np.zeros((1, 256), np.int8), np.ones((1, 1), np.float16)).reshape(-1)
    for byte in range(256):
        damaged = stored.copy()
        damaged[0] = byte
        if byte in written:
            assert ternary_trits(TensorType.TQ1_0, damaged, block=256).size == 256
        else:
            with pytest.raises(ValidationError, match=f"a byte of {byte} stands for no 5 trits"):
                ternary_trits(TensorType.TQ1_0, damaged, block=256)
    damaged = stored.copy()
    damaged[48] += 1  # a fifth digit where there are four
    with pytest.raises(ValidationError, match="no 4 trits"):
        ternary_trits(TensorType.TQ1_0, damaged, block=256)


@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_a_scale_that_is_no_number_is_refused(scale):
    trits = np.zeros((2, 256), np.int8)
    scales = np.array([[1.0], [scale]], np.float16)
    for kind, encode in ((TensorType.TQ1_0, encode_tq1_0), (TensorType.TQ2_0, encode_tq2_0)):
        with pytest.raises(ValidationError, match="the scale of block 1 is"):
            ternary_scales(kind, encode(trits, scales).reshape(-1), block=256)
    with pytest.raises(ValidationError, match="the scale of block 1 is"):
        ternary_scales(TensorType.Q2_0, q2_0(trits[:, :64], scales, 64), block=64)
    with pytest.raises(ValidationError, match="the scale of block 0 is"):
        ternary_scales(TensorType.I2_S, i2_s(trits, scale), block=512)


def test_a_negative_scale_of_i2_s_is_refused():
    with pytest.raises(ValidationError, match=r"scale of block 0 is -1\.0"):
        ternary_scales(TensorType.I2_S, i2_s(np.zeros((1, 128), np.int8), -1), block=128)


@pytest.mark.gguf
@settings(max_examples=80)
@given(
    data=st.data(), kind=st.sampled_from(sorted(ROUNDED)), rows=st.integers(1, 4), blocks=st.integers(1, 3)
)
def test_any_bytes_become_the_bits_that_the_official_package_gives(data, kind, rows, blocks):
    import gguf  # noqa: PLC0415 - the bare wheel comes without it

    size = blocks * BLOCKS[kind][1]
    stored = data.draw(arrays.arrays(np.uint8, (rows, size)))
    with np.errstate(all="ignore"):  # scales are any fp16 here, NaN too
        expected = gguf.dequantize(stored, gguf.GGMLQuantizationType[kind.name])
    found = dequantize(kind, stored.reshape(-1))
    np.testing.assert_array_equal(found.reshape(rows, -1).view(np.uint32), expected.view(np.uint32))


@pytest.mark.gguf
@settings(max_examples=40)
@given(data=st.data(), name=st.sampled_from(["TQ1_0", "TQ2_0"]), rows=st.integers(1, 4))
def test_ternary_blocks_of_the_official_package_are_read_without_loss(data, name, rows):
    import gguf  # noqa: PLC0415 - the bare wheel comes without it

    trits = data.draw(arrays.arrays(np.int8, (rows, 512), elements=st.integers(-1, 1)))
    scales = data.draw(arrays.arrays(np.float16, (rows, 2), elements=st.floats(2**-14, 100, width=16)))
    weights = trits * np.repeat(scales.astype(np.float32), 256, axis=1)
    stored = gguf.quantize(weights, gguf.GGMLQuantizationType[name]).reshape(-1)
    np.testing.assert_array_equal(
        dequantize_ternary(TensorType[name], stored, block=256), weights.reshape(-1)
    )


def q4_k_block(codes: np.ndarray, scales: np.ndarray, minima: np.ndarray, d: float, m: float) -> bytes:
    """Encode the 256 codes of a block, their eight scales and minima, one after another."""
    packed, out = bytearray(12), bytearray(128)
    for j in range(8):
        if j < 4:
            packed[j] |= int(scales[j])
            packed[j + 4] |= int(minima[j])
        else:
            packed[j + 4] = int(scales[j] & 15) | int(minima[j] & 15) << 4
            packed[j - 4] |= int(scales[j] >> 4) << 6
            packed[j] |= int(minima[j] >> 4) << 6
    for i, code in enumerate(codes):
        out[32 * (i // 64) + i % 32] |= int(code) << (4 * (i // 32 % 2))
    return np.array([d, m], np.float16).tobytes() + bytes(packed) + bytes(out)


def test_4_bits_with_scales_and_minima_are_read_weight_by_weight():
    rng = np.random.default_rng(1)
    codes, (scales, minima) = rng.integers(0, 16, 256), rng.integers(0, 64, (2, 8))
    stored = np.frombuffer(q4_k_block(codes, scales, minima, 0.25, 0.5), np.uint8)
    expected = [0.25 * scales[i // 32] * codes[i] - 0.5 * minima[i // 32] for i in range(256)]
    np.testing.assert_array_equal(dequantize(TensorType.Q4_K, stored), np.array(expected, np.float32))


def test_plain_4_bits_are_read_weight_by_weight():
    codes = np.random.default_rng(2).integers(0, 16, 32)
    packed = bytes(int(codes[i] | codes[i + 16] << 4) for i in range(16))
    stored = np.frombuffer(np.float16(0.5).tobytes() + packed, np.uint8)
    np.testing.assert_array_equal(dequantize(TensorType.Q4_0, stored), ((codes - 8) * 0.5).astype(np.float32))


@settings(max_examples=30)
@given(data=st.data(), rows=st.integers(1, 4), blocks=st.integers(1, 3))
def test_what_was_rounded_to_8_bits_is_rounded_again_to_the_same(data, rows, blocks):
    values = data.draw(
        arrays.arrays(np.float32, (rows, 32 * blocks), elements=st.floats(-1e3, 1e3, width=16))
    )
    stored = encode_q8_0(values)
    back = dequantize(TensorType.Q8_0, stored.reshape(-1)).reshape(values.shape)
    steps = np.abs(values).reshape(rows, blocks, 32).max(axis=2).repeat(32, axis=1) / 127
    assert (np.abs(back - values) <= 0.51 * steps + 1e-6 + 64 * 2**-24 * 127).all()
    normal = steps > 2**-13  # fp16 holds the scale in full
    again = dequantize(TensorType.Q8_0, encode_q8_0(back).reshape(-1)).reshape(values.shape)
    np.testing.assert_array_equal(again[normal], back[normal])


def stored_as(path: Path, kind: TensorType, shape: tuple[int, ...], data: np.ndarray) -> GGUFFiles:
    held = np.ascontiguousarray(data)
    write_gguf(path, metadata={}, tensors=[GGUFTensor("w", shape, kind, lambda: [held.data])])
    return GGUFFiles(path)


def test_scales_are_kept_once_where_they_repeat(tmp_path):
    trits = np.random.default_rng(3).integers(-1, 2, (6, 512)).astype(np.int8)
    one, rows, blocks = (
        np.ones((6, 2)),
        np.arange(1, 7)[:, None] * np.ones((1, 2)),
        np.arange(12).reshape(6, 2),
    )
    for scales, kept, group in ((one, (1, 1), 512), (rows, (6, 1), 512), (blocks, (6, 2), 256)):
        data = encode_tq2_0(trits, scales.astype(np.float16))
        weights = GGUFWeights(stored_as(tmp_path / "m.gguf", TensorType.TQ2_0, (6, 512), data))
        weights.add_ternary("layer", [weights._files.tensors["w"]])
        found = weights.read(weights.tensors["layer.scales"])
        assert (found.shape, found.dtype) == (kept, np.float16)
        np.testing.assert_array_equal(np.broadcast_to(found, (6, kept[1])), scales[:, : kept[1]])
        assert weights.linears["layer"]["group_size"] == group
        packed = weights.read(weights.tensors["layer.trits"])
        assert packed.shape == weights.tensors["layer.trits"].shape
        np.testing.assert_array_equal(unpack_trits(packed[0], count=trits.size).reshape(6, 512), trits)
        assert sum(info.nbytes for info in weights.tensors.values()) == data.nbytes


def test_interleaved_rows_of_a_head_come_in_our_order(tmp_path):
    trits = np.random.default_rng(4).integers(-1, 2, (12, 256)).astype(np.int8)
    scales = np.arange(1, 13, dtype=np.float16)[:, None]
    order = np.arange(12).reshape(2, 2, 3).swapaxes(1, 2).reshape(-1)  # as ggml wants two heads of six rows
    data = encode_tq1_0(trits[order], scales[order])
    weights = GGUFWeights(stored_as(tmp_path / "m.gguf", TensorType.TQ1_0, (12, 256), data))
    weights.add_ternary("layer", [weights._files.tensors["w"]], interleaved=6)
    packed = weights.read(weights.tensors["layer.trits"])[0]
    np.testing.assert_array_equal(unpack_trits(packed, count=trits.size).reshape(12, 256), trits)
    np.testing.assert_array_equal(weights.read(weights.tensors["layer.scales"]), scales)


def test_a_factor_takes_the_place_of_scales_that_say_nothing(tmp_path):
    trits, factor = np.ones((2, 256), np.int8), np.array([0.37], np.float32)
    for scale in (1.0, 0.5):
        data = encode_tq2_0(trits, np.full((2, 1), scale, np.float16))
        weights = GGUFWeights(stored_as(tmp_path / "m.gguf", TensorType.TQ2_0, (2, 256), data))
        if scale == 1:
            weights.add_ternary("layer", [weights._files.tensors["w"]], factor=factor)
            assert weights.read(weights.tensors["layer.scales"]).tobytes() == factor.tobytes()
        else:
            with pytest.raises(ValidationError, match="scales of its own and a factor"):
                weights.add_ternary("layer", [weights._files.tensors["w"]], factor=factor)


def test_a_large_dense_tensor_is_decoded_in_pieces_and_stays_whole(tmp_path):
    values = np.random.default_rng(5).standard_normal((2100, 512)).astype(np.float32)
    data = encode_q6_k(values)
    weights = GGUFWeights(stored_as(tmp_path / "m.gguf", TensorType.Q6_K, values.shape, data))
    weights.add_dense("w", weights._files.tensors["w"])
    expected = dequantize(TensorType.Q6_K, data.reshape(-1)).reshape(values.shape)
    np.testing.assert_array_equal(weights.read(weights.tensors["w"]), expected)
    assert np.sqrt(((expected - values) ** 2).mean()) < 0.025


def test_an_embedding_of_trits_is_read_as_weights(tmp_path):
    trits = np.random.default_rng(6).integers(-1, 2, (3, 256)).astype(np.int8)
    scales = np.arange(1, 4, dtype=np.float16)[:, None]
    for kind, data in (
        (TensorType.TQ2_0, encode_tq2_0(trits, scales)),
        (TensorType.TQ1_0, encode_tq1_0(trits, scales)),
    ):
        weights = GGUFWeights(stored_as(tmp_path / "m.gguf", kind, (3, 256), data))
        weights.add_dense("w", weights._files.tensors["w"])
        np.testing.assert_array_equal(weights.read(weights.tensors["w"]), trits * scales.astype(np.float32))
