"""The oracle: transformers' own BitLinear, in fp32, must agree in every bit."""

import numpy as np
import pytest

from tritium.kernels import cpu, packing
from tritium.kernels.weight import TernaryWeight

pytestmark = pytest.mark.oracle

SHAPES = [(4, 1), (8, 33), (64, 128), (12, 200), (96, 1000), (20, 6912)]


@pytest.fixture(scope="module")
def torch():
    """Runs torch without its compiler: it needs minutes and changes nothing in fp32."""
    module = pytest.importorskip("torch")
    before = module._dynamo.config.disable
    module._dynamo.config.disable = True
    yield module
    module._dynamo.config.disable = before


@pytest.fixture(scope="module")
def bitnet(torch):
    """What is compared with; no other worker pays the seconds and the memory of importing it."""
    return pytest.importorskip("transformers.integrations.bitnet")


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("magnitude", [1e-7, 0.03, 1.0, 500.0])
def test_a_bitlinear_layer_is_bit_identical_to_transformers(torch, bitnet, isa, *, rows, columns, magnitude):
    random = np.random.default_rng(rows * columns)
    trits = random.integers(-1, 2, (rows, columns)).astype(np.int8)
    weight_scale = np.float32(random.uniform(0.2, 60))
    x = (random.standard_normal((9, columns)) * magnitude).astype(np.float32)
    x[3] = 0
    layer = bitnet.BitLinear(columns, rows, bias=False, dtype=torch.float32)
    layer.weight = bitnet.pack_weights(torch.from_numpy(trits.copy()))
    layer.weight_scale = torch.tensor([weight_scale])
    weight = TernaryWeight(
        planes=packing.to_compute_layout(trits)[None],
        scales=np.array([[weight_scale]], np.float32),
        group_size=columns,
        in_features=columns,
        out_features=rows,
        divides=True,
    )
    expected_q, expected_scale = layer.activation_quant(torch.from_numpy(x))
    q, scale = cpu.quantize_activations(x)
    np.testing.assert_array_equal(q[:, :columns], expected_q.numpy())
    np.testing.assert_array_equal(scale, expected_scale.numpy()[:, 0])
    expected = layer(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(cpu.ternary_matmul(cpu.prepare(weight), q, scale, threads=2), expected)


def test_the_activation_scale_is_bit_identical_over_many_magnitudes(torch, bitnet, isa):
    random = np.random.default_rng(9)
    x = (random.standard_normal((3000, 24)) * 10.0 ** random.uniform(-8, 8, (3000, 1))).astype(np.float32)
    layer = bitnet.BitLinear(24, 4, bias=False, dtype=torch.float32)
    expected_q, expected_scale = layer.activation_quant(torch.from_numpy(x))
    q, scale = cpu.quantize_activations(x)
    np.testing.assert_array_equal(scale, expected_scale.numpy()[:, 0])
    np.testing.assert_array_equal(q[:, :24], expected_q.numpy())
