"""The encoders against byte fixtures and against decoders written here, weight by weight, from the layout."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tritium.errors import ValidationError
from tritium.formats.gguf_blocks import encode_i2_s, encode_q6_k, encode_q8_0, encode_tq1_0, encode_tq2_0

# What ggml (llama.cpp) makes of the 512 weights of `fixture_trits` x (0.5, 1.25), and of `fixture_values`.
GGML_TQ1_0 = (
    "23512f7205f590678def2960b969b4c3d4cc1cf87f8c3d1095b34198a1a69c742fec1fcad1d6f8bc9233b9aa392ba9058872"
    "5ff700381b497d6554e87da3b730c018c1cae3f2d65c3ad7a2072ea012a0f16170657cacf029f0ef46520b9f20df6f5784f8"
    "117a7cbe39f1003d"
)
GGML_TQ2_0 = (
    "84689405409a0991a51a1411522182625646a02a55a548908982881999695905908982881999695905215aa5015066426469"
    "4685445408a0981551a84a1529120038a0981551a84a1529122422606206a65a568108962980949990995a11a15115029990"
    "995a11a1511502682645946a52454a840988581881a956952042250a2065003d"
)
# What bitnet.cpp's quantize_i2_s makes of the 512 weights of `fixture_trits` x 1.25; its tail after the scale
# is not written.
BITNET_CPP_I2_S = (
    "1229165001a660465aa414448548828995910aa8555a2106628222646669655006628222646669655048a55a400599811969"
    "91521115200a2654452aa15468840a2654452aa154688418880989909aa595422096680216660666a5444a455480660666a5"
    "444a45548029985116a98551a11260222524426a9556088158a008590000a03f"
)
GGML_Q8_0 = (
    "332b81df3d9af856b41270cd2b89e745a2005ebb1977d53390ee4caa0866c3217fdc0e2b3c96f656b0106fca2984e3439efd"
    "5db71777d1318beb4ba50565bf1f7fd93993"
)


def fixture_trits() -> np.ndarray:
    i = np.arange(512)
    return ((i * i // 5 + i // 7) % 3 - 1).astype(np.int8)[None]


def half(block: bytes) -> float:
    return float(np.frombuffer(block, "<f2")[0])


def decode_tq2_0(block: bytes) -> list[float]:
    d, out = half(block[64:66]), [0.0] * 256
    for h in range(2):
        for m in range(32):
            for n in range(4):
                out[128 * h + 32 * n + m] = d * ((block[32 * h + m] >> (2 * n) & 3) - 1)
    return out


def decode_tq1_0(block: bytes) -> list[float]:
    d, out = half(block[52:54]), [0.0] * 256

    def digit(byte: int, n: int) -> int:
        return (byte * 3**n % 256 * 3 >> 8) - 1

    for n in range(5):
        for m in range(32):
            out[m + 32 * n] = d * digit(block[m], n)
        for m in range(16):
            out[160 + m + 16 * n] = d * digit(block[32 + m], n)
    for n in range(4):
        for m in range(4):
            out[240 + m + 4 * n] = d * digit(block[48 + m], n)
    return out


def decode_i2_s(data: bytes, shape: tuple[int, int]) -> np.ndarray:
    count = shape[0] * shape[1]
    scale, out = float(np.frombuffer(data, "<f4", 1, count // 4)[0]), [0.0] * count
    for block in range(count // 128):
        for m in range(32):
            for n in range(4):
                code = data[32 * block + m] >> (6 - 2 * n) & 3
                out[128 * block + 32 * n + m] = scale * (code - 1)
    return np.array(out).reshape(shape)


def decode_q6_k(block: bytes) -> list[float]:
    scales, d, out = np.frombuffer(block[192:208], np.int8), half(block[208:210]), []
    for i in range(256):
        h, l, part = i // 128, i % 32, i % 128 // 32  # noqa: E741 - the name of the layout
        low = block[64 * h + l + 32 * (part % 2)] >> (4 * (part // 2)) & 15
        high = block[128 + 32 * h + l] >> (2 * part) & 3
        out.append(d * int(scales[i // 16]) * ((low | high << 4) - 32))
    return out


def decode_q8_0(block: bytes) -> list[float]:
    d = half(block[:2])
    return [d * int(code) for code in np.frombuffer(block[2:34], np.int8)]


def decoded(rows: np.ndarray, size: int, decode) -> np.ndarray:
    assert rows.dtype == np.uint8
    blocks = rows.reshape(-1, size)
    values = np.array([decode(block.tobytes()) for block in blocks], np.float64)
    return values.reshape(rows.shape[0], -1)


@pytest.mark.parametrize(
    ("encode", "expected"), [(encode_tq1_0, GGML_TQ1_0), (encode_tq2_0, GGML_TQ2_0)], ids=["tq1_0", "tq2_0"]
)
def test_ternary_blocks_are_those_of_ggml_byte_for_byte(encode, expected):
    scales = np.array([[0.5, 1.25]], np.float16)
    assert encode(fixture_trits(), scales).tobytes().hex() == expected


def test_8_bit_blocks_are_those_of_ggml_byte_for_byte():
    i = np.arange(64)
    values = ((i * 37 % 101 - 50) / 7).astype(np.float32)[None]
    assert encode_q8_0(values).tobytes().hex() == GGML_Q8_0


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    rows=st.integers(1, 4),
    blocks=st.integers(1, 3),
    tail=st.sampled_from([(encode_tq1_0, 54, decode_tq1_0), (encode_tq2_0, 66, decode_tq2_0)]),
)
def test_every_trit_and_scale_comes_back(data, rows, blocks, tail):
    encode, size, decode = tail
    trits = data.draw(arrays.arrays(np.int8, (rows, 256 * blocks), elements=st.integers(-1, 1)))
    scales = data.draw(arrays.arrays(np.float16, (rows, blocks), elements=st.floats(2**-14, 100, width=16)))
    expected = trits * np.repeat(scales.astype(np.float64), 256, axis=1)
    np.testing.assert_array_equal(decoded(encode(trits, scales), size, decode), expected)


@pytest.mark.parametrize("spread", [1e-3, 1.0, 300.0])
def test_6_bits_are_within_the_steps_they_have(spread):
    values = (np.random.default_rng(3).standard_normal((3, 1024)) * spread).astype(np.float32)
    values[1, 256:512] = 0  # a block of zeros has no scale
    values[2, :16] = 0
    back = decoded(encode_q6_k(values), 210, decode_q6_k)
    largest = np.abs(values).reshape(3, -1, 16).max(axis=2)
    coarsest = np.abs(values).reshape(3, -1, 256).max(axis=2).repeat(16, axis=1)
    # A step of a code (half of one but at the short end of -32..31), and 32 codes times half a step of their
    # scale, which fp16 may have coarsened.
    allowed = largest / 32 + 1.15 * coarsest / 256
    assert (np.abs(back - values).reshape(3, -1, 16).max(axis=2) <= allowed).all()
    assert np.sqrt(((back - values) ** 2).mean() / (values**2).mean()) < 0.025
    assert not back[1, 256:512].any()


def test_6_bits_keep_the_largest_weight_of_a_group():
    values = np.zeros((1, 256), np.float32)
    values[0, ::16] = np.linspace(0.25, 4, 16)
    back = decoded(encode_q6_k(values), 210, decode_q6_k)
    np.testing.assert_allclose(back[0, ::16], values[0, ::16], atol=4 / 256)


def test_what_does_not_fit_is_refused():
    trits, scales = np.zeros((2, 384), np.int8), np.ones((2, 1), np.float16)
    with pytest.raises(ValidationError, match="multiple of 256"):
        encode_tq2_0(trits, scales)
    with pytest.raises(ValidationError, match=r"float16 of shape \(2, 1\)"):
        encode_tq1_0(trits[:, :256], scales.astype(np.float32))
    with pytest.raises(ValidationError, match="multiple of 256"):
        encode_q6_k(np.zeros((2, 300), np.float32))
    with pytest.raises(ValidationError, match="multiple of 32"):
        encode_q8_0(np.zeros((2, 40), np.float32))
    with pytest.raises(ValidationError, match="too large"):
        encode_q8_0(np.full((1, 32), 1e9, np.float32))


@given(
    trits=st.tuples(st.integers(1, 5), st.integers(1, 3)).flatmap(
        lambda sizes: arrays.arrays(np.int8, (sizes[0], 128 * sizes[1]), elements=st.integers(-1, 1))
    ),
    scale=st.floats(2**-20, 2**20, width=32),
)
def test_i2_s_holds_every_trit_and_the_whole_scale(trits, scale):
    data = encode_i2_s(trits, np.float32(scale)).tobytes()
    assert len(data) == trits.size // 4 + 32
    assert not any(data[trits.size // 4 + 4 :])
    np.testing.assert_array_equal(decode_i2_s(data, trits.shape), trits * np.float64(scale))


def test_a_byte_of_i2_s_holds_weights_that_lie_32_apart_the_first_in_its_highest_bits():
    trits = np.zeros((1, 128), np.int8)
    trits[0, [5, 37, 69, 101]] = [1, -1, 0, 1]
    assert encode_i2_s(trits, np.float32(1))[5] == 0b10_00_01_10


def test_i2_s_is_what_bitnet_cpp_writes():
    assert encode_i2_s(fixture_trits(), np.float32(1.25))[:132].tobytes().hex() == BITNET_CPP_I2_S


def test_rows_that_are_no_whole_blocks_of_i2_s_are_refused():
    with pytest.raises(ValidationError, match="multiple of 128"):
        encode_i2_s(np.zeros((2, 192), np.int8), np.float32(1))
