import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.kernels import _native, cpu, reference_coded
from tritium.kernels.coded import CODE_BITS, CodedWeight, tiles_shape
from tritium.kernels.weight import MAX_IN_FEATURES, padded

CASES = st.fixed_dictionaries(
    {"rows": st.integers(1, 70), "columns": st.integers(1, 330), "bits": st.sampled_from(CODE_BITS)}
)
SEED = st.integers(0, 2**32)


def random_matrix(random, rows, columns):
    """A matrix whose groups differ in size and spread; some are zero."""
    matrix = random.standard_t(3, (rows, columns)) * 10.0 ** random.integers(-4, 4)
    matrix[:, : random.integers(0, columns + 1)] *= random.choice([0.0, 1.0, 1e-3])
    return matrix.astype(np.float32)


def random_coded(random, *, rows, columns, bits):
    """Codes and scales over their whole range, as a file may hold them."""
    shape = tiles_shape(rows, columns, bits=bits)
    tiles = random.integers(1, 256, shape, dtype=np.uint8)
    scales = random.uniform(0.0, 2.0, (*shape[:2], 32)).astype(np.float32)
    tiles[..., -64:] = (scales.view(np.uint32) >> 16).astype("<u2").view(np.uint8)
    return CodedWeight(tiles=tiles, bits=bits, in_features=columns, out_features=rows)


@settings(deadline=None)
@given(case=CASES, batch=st.integers(0, 11), seed=SEED)
@example(case={"rows": 1, "columns": 1, "bits": 6}, batch=1, seed=0)
@example(case={"rows": 33, "columns": 65, "bits": 8}, batch=40, seed=1)
def test_coded_products_equal_the_reference_bit_for_bit(isa, case, batch, seed):
    random = np.random.default_rng(seed)
    weight, columns = random_coded(random, **case), case["columns"]
    q = np.zeros((batch, padded(columns)), np.int8)
    q[:, :columns] = random.integers(-128, 128, (batch, columns))
    scale = random.uniform(0.5, 2.0, batch).astype(np.float32)
    result = cpu.coded_matmul(cpu.prepare_coded(weight), q, scale)
    np.testing.assert_array_equal(result, reference_coded.coded_matmul(weight, q, scale), strict=True)


@settings(deadline=None, max_examples=50)
@given(case=CASES, is_half=st.booleans(), seed=SEED)
def test_rounding_equals_the_reference_bit_for_bit(isa, case, is_half, seed):
    rows, bits = case["rows"], case["bits"]
    matrix = random_matrix(np.random.default_rng(seed), rows, case["columns"])
    given_matrix = (matrix.view(np.uint32) >> 16).astype(np.uint16) if is_half else matrix
    coded, error = cpu.round_to_codes(given_matrix, bits=bits, threads=2)
    expected = reference_coded.round_to_codes(given_matrix, bits=bits)
    np.testing.assert_array_equal(coded.tiles, expected.tiles, strict=True)
    exact = (given_matrix.astype(np.uint32) << 16).view(np.float32) if is_half else matrix
    everything = np.arange(rows, dtype=np.int32)
    difference = cpu.coded_lookup(cpu.prepare_coded(coded), everything) - exact
    length = np.linalg.norm(exact.astype(np.float64))
    assert error == pytest.approx(np.linalg.norm(difference) / length if length else 0.0, rel=1e-3)


@settings(deadline=None, max_examples=50)
@given(case=CASES, seed=SEED)
def test_lookups_equal_the_reference_bit_for_bit(isa, case, seed):
    random = np.random.default_rng(seed)
    weight = random_coded(random, **case)
    ids = random.integers(0, case["rows"], 9).astype(np.int32)
    result = cpu.coded_lookup(cpu.prepare_coded(weight), ids)
    np.testing.assert_array_equal(result, reference_coded.coded_lookup(weight, ids), strict=True)


@pytest.mark.parametrize("bits", CODE_BITS)
def test_a_row_does_not_depend_on_batch_or_threads(isa, bits):
    random = np.random.default_rng(7)
    weight = cpu.prepare_coded(random_coded(random, rows=1000, columns=257, bits=bits), threads=2)
    q, scale = cpu.quantize_activations(random.standard_normal((67, 257)).astype(np.float32))
    whole = cpu.coded_matmul(weight, q, scale)
    for threads in (2, 3, 8):
        np.testing.assert_array_equal(cpu.coded_matmul(weight, q, scale, threads=threads), whole)
    for row in range(67):
        alone = cpu.coded_matmul(weight, q[row : row + 1], scale[row : row + 1])
        np.testing.assert_array_equal(alone[0], whole[row])


def test_every_instruction_set_gives_the_same_floats():
    random = np.random.default_rng(3)
    matrix = random_matrix(random, 100, 600)
    q, scale = cpu.quantize_activations(random.standard_normal((5, 600)).astype(np.float32))
    before, results = _native.isa(), []
    for name in _native.available_isas():
        _native.set_isa(name)
        coded, _ = cpu.round_to_codes(matrix, bits=6)
        results.append((coded.tiles, cpu.coded_matmul(cpu.prepare_coded(coded), q, scale)))
    _native.set_isa(before)
    for tiles, product in results[1:]:
        np.testing.assert_array_equal(tiles, results[0][0])
        np.testing.assert_array_equal(product, results[0][1])


@pytest.mark.parametrize("bits", CODE_BITS)
@pytest.mark.parametrize(("sign", "activation"), [(1, 127), (1, -128), (-1, -128), (-1, 127)])
def test_the_largest_sums_do_not_saturate(isa, bits, sign, activation):
    columns, most = 640, 2 ** (bits - 1) - 1
    coded, error = cpu.round_to_codes(np.full((17, columns), sign * most, np.float32), bits=bits)
    assert error == 0
    q = np.full((2, columns), activation, np.int8)
    result = cpu.coded_matmul(cpu.prepare_coded(coded), q, np.ones(2, np.float32))
    assert (result == sign * most * activation * columns).all()


@pytest.mark.parametrize(("bits", "most"), [(6, 0.0212), (8, 0.0050)])
def test_the_error_of_normal_weights_and_the_bits_of_a_weight(bits, most):
    matrix = np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32)
    coded, error = cpu.round_to_codes(matrix, bits=bits)
    assert error < most
    assert 8 * coded.nbytes / matrix.size == bits + 0.5
    assert cpu.prepare_coded(coded).nbytes == coded.nbytes


def test_the_search_beats_the_largest_value_over_the_largest_code():
    matrix = np.random.default_rng(1).standard_normal((64, 256)).astype(np.float32)
    _, error = cpu.round_to_codes(matrix, bits=6)
    groups = matrix.reshape(-1, 32)
    scale = np.abs(groups).max(1, keepdims=True) / 31
    plain = groups - np.rint(groups / scale) * scale
    assert error < 0.97 * np.linalg.norm(plain) / np.linalg.norm(groups)


def test_tiny_groups_become_zeros_and_the_smallest_scale_is_no_accident():
    matrix = np.full((3, 64), 1e-31, np.float32)
    matrix[1] = 1e-29
    coded, _ = cpu.round_to_codes(matrix, bits=6)
    rows = cpu.coded_lookup(cpu.prepare_coded(coded), np.arange(3, dtype=np.int32))
    assert not rows[0].any()
    np.testing.assert_allclose(rows[1], matrix[1], rtol=0.01)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2e15])
@pytest.mark.parametrize("round_to_codes", [cpu.round_to_codes, reference_coded.round_to_codes])
def test_a_matrix_that_cannot_be_coded_is_refused(round_to_codes, value):
    matrix = np.ones((40, 70), np.float32)
    matrix[39, 69] = value
    with pytest.raises(ValidationError, match="not finite or beyond"):
        round_to_codes(matrix, bits=6)


def test_arguments_that_are_not_possible_are_refused():
    matrix = np.ones((4, 40), np.float32)
    for wrong in (5, 7, 16, -6):
        with pytest.raises(ValidationError, match="6 or 8 bits"):
            cpu.round_to_codes(matrix, bits=wrong)
    for wrong_matrix in (matrix[0], matrix.astype(np.float64), matrix[:, ::2], matrix[:0], matrix[:, :0]):
        with pytest.raises(ValidationError):
            cpu.round_to_codes(wrong_matrix, bits=6)
    with pytest.raises(ValidationError, match="threads"):
        cpu.round_to_codes(matrix, bits=6, threads=0)


def test_arrays_that_do_not_fit_the_weight_are_refused():
    coded, _ = cpu.round_to_codes(np.ones((20, 200), np.float32), bits=6)
    weight = cpu.prepare_coded(coded)
    q, scale = np.zeros((2, 256), np.int8), np.ones(2, np.float32)
    for wrong in (q[:, :128].copy(), q.astype(np.int16), q[0], np.zeros((2, 512), np.int8)[:, ::2]):
        with pytest.raises(ValidationError, match="q must be"):
            cpu.coded_matmul(weight, wrong, scale)
    with pytest.raises(ValidationError, match="scale must be"):
        cpu.coded_matmul(weight, q, np.ones(3, np.float32))
    with pytest.raises(ValidationError, match="threads"):
        cpu.coded_matmul(weight, q, scale, threads=0)
    with pytest.raises(ValidationError):
        cpu.coded_matmul(coded, q, scale)
    for wrong_id in (-1, 20):
        with pytest.raises(ValidationError, match="not one of the table's 20 rows"):
            cpu.coded_lookup(weight, np.array([0, wrong_id], np.int32))
    with pytest.raises(ValidationError):
        cpu.coded_lookup(weight, np.zeros(3, np.int64))


@pytest.mark.parametrize(
    "change",
    [
        {"bits": 7},
        {"bits": 8},
        {"in_features": 0},
        {"in_features": MAX_IN_FEATURES + 1},
        {"in_features": 65},
        {"out_features": 0},
        {"out_features": 33},
        {"tiles": np.zeros((2, 1, 832), np.int8)},
        {"tiles": np.zeros((2, 832), np.uint8)},
        {"tiles": np.zeros((2, 1, 1664), np.uint8)[..., ::2]},
    ],
)
def test_a_weight_that_contradicts_itself_is_refused(change):
    fields = {"tiles": np.zeros((2, 1, 832), np.uint8), "bits": 6, "in_features": 64, "out_features": 20}
    CodedWeight(**fields)
    with pytest.raises(ValidationError):
        CodedWeight(**(fields | change))


@pytest.mark.parametrize("bits", CODE_BITS)
@pytest.mark.parametrize("scale", [0x7F80, 0x7FC0, 0xFF80, 0x8001, 0xBF80])
def test_a_scale_that_is_not_finite_or_negative_is_damage(bits, scale):
    coded, _ = cpu.round_to_codes(np.ones((20, 100), np.float32), bits=bits)
    tiles = coded.tiles.copy()
    tiles[1, 1, -2:] = np.array([scale], "<u2").view(np.uint8)
    with pytest.raises(ValidationError, match="damaged"):
        cpu.prepare_coded(CodedWeight(tiles=tiles, bits=bits, in_features=100, out_features=20), threads=2)


def test_a_code_of_8_bits_that_is_no_weight_is_damage():
    coded, _ = cpu.round_to_codes(np.ones((20, 100), np.float32), bits=8)
    tiles = coded.tiles.copy()
    tiles[1, 0, 1023] = 0
    with pytest.raises(ValidationError, match="damaged"):
        cpu.prepare_coded(CodedWeight(tiles=tiles, bits=8, in_features=100, out_features=20))
