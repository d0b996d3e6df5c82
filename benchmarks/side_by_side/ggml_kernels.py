"""ggml's matrix product (ggml_mul_mat on the CPU) through the libraries that llama-cpp-python brings."""

from __future__ import annotations

import ctypes
import math
import time
from ctypes import c_bool, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path

import llama_cpp
import numpy as np

TYPES = {"tq1_0": (34, 54), "tq2_0": (35, 66)}  # number, bytes of a block of 256
F32 = 0
COLD_BYTES = 320 << 20
BLOCK = 256
GRAPH_NODES = 2048


class _Settings(ctypes.Structure):
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


def _library() -> ctypes.CDLL:
    folder = Path(llama_cpp.__file__).parent / "lib"
    ctypes.CDLL(str(folder / "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(folder / "libggml-cpu.so"), mode=ctypes.RTLD_GLOBAL)
    signatures = {
        "ggml_init": (c_void_p, [_Settings]),
        "ggml_free": (None, [c_void_p]),
        "ggml_cpu_init": (None, []),
        "ggml_new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
        "ggml_mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
        "ggml_new_graph": (c_void_p, [c_void_p]),
        "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
        "ggml_get_data": (c_void_p, [c_void_p]),
        "ggml_graph_compute_with_ctx": (c_int, [c_void_p, c_void_p, c_int]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class GgmlKernels:
    """One graph multiplies by every cold copy in turn, so that starting its threads costs nearly nothing."""

    def __init__(self) -> None:
        self.ggml = _library()
        self.ggml.ggml_cpu_init()

    def kernel(
        self, *, kind: str, rows: int, columns: int, batch: int, threads: int, seconds: float
    ) -> float:
        """GOPS of ggml_mul_mat, which quantizes the activations itself."""
        number, block_bytes = TYPES[kind]
        size = rows * columns // BLOCK * block_bytes
        copies = math.ceil(COLD_BYTES / size)
        operations = 2 * batch * rows * columns
        products = max(1, min(copies, math.ceil(seconds * 300e9 / operations)))
        room = copies * size + products * rows * batch * 4 + 4 * columns * batch * (products + 4) + (64 << 20)
        context = self.ggml.ggml_init(_Settings(room, None, False))
        try:
            graph = self._graph(context, (number, rows, columns, batch), (copies, products), size)
            self.ggml.ggml_graph_compute_with_ctx(context, graph, threads)
            calls, begin = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - begin) < seconds:
                self.ggml.ggml_graph_compute_with_ctx(context, graph, threads)
                calls += 1
            return calls * products * operations / elapsed / 1e9
        finally:
            self.ggml.ggml_free(context)

    def _graph(
        self, context: int, shape: tuple[int, int, int, int], counts: tuple[int, int], size: int
    ) -> int:
        number, rows, columns, batch = shape
        ggml, random = self.ggml, np.random.default_rng(1)
        inputs = ggml.ggml_new_tensor_2d(context, F32, columns, batch)
        x = random.standard_normal(columns * batch).astype(np.float32)
        ctypes.memmove(ggml.ggml_get_data(inputs), x.ctypes.data, x.nbytes)
        blocks = self._random_blocks(number, rows * columns // BLOCK)
        graph = ggml.ggml_new_graph(context)
        copies, products = counts
        for copy in range(copies):
            weight = ggml.ggml_new_tensor_2d(context, number, columns, rows)
            ctypes.memmove(ggml.ggml_get_data(weight), blocks.ctypes.data, size)
            if copy < products:
                ggml.ggml_build_forward_expand(graph, ggml.ggml_mul_mat(context, weight, inputs))
        return int(graph)

    def _random_blocks(self, number: int, count: int) -> np.ndarray:
        """Valid blocks with the scale 1: any bytes are trits in TQ1_0; TQ2_0 has no code 3."""
        random = np.random.default_rng(1)
        kind = next(block for block in TYPES.values() if block[0] == number)
        blocks = random.integers(0, 256, (count, kind[1]), dtype=np.uint8)
        if number == TYPES["tq2_0"][0]:
            blocks &= ~((blocks & 0xAA) >> 1) & 0xFF
        blocks[:, -2:] = np.frombuffer(np.float16(1).tobytes(), np.uint8)
        return blocks
