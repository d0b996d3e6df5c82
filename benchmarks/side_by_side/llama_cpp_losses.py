"""Losses of llama.cpp on windows of tokens: python -m side_by_side.llama_cpp_losses GGUF IDS LOSSES (npy).

Prints why, and ends with 3, if llama.cpp does not load the file. Weights stay as they are in the file: copies
laid out for AMX crash on some machines (ggml-org/llama.cpp#20824).
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import llama_cpp
import numpy as np

REFUSED = 3


def load(file: str) -> Any:
    """Return the model, or end the program with what llama.cpp says."""
    messages: list[str] = []

    def keep(level: int, text: bytes, data: Any) -> None:
        del level, data
        messages.append(text.decode(errors="replace").strip())

    callback = llama_cpp.llama_log_callback(keep)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    settings = llama_cpp.llama_model_default_params()
    settings.use_extra_bufts = False
    model = llama_cpp.llama_model_load_from_file(file.encode(), settings)
    llama_cpp.llama_log_set(llama_cpp.llama_log_callback(0), ctypes.c_void_p(0))
    if not model:
        reasons = [text for text in messages if "error loading model" in text or "tensor info" in text]
        sys.stderr.write((reasons or ["no reason given"])[0] + "\n")
        sys.exit(REFUSED)
    return model


def main(file: str, windows: str, losses: str) -> None:
    """Write the sum of negative log-likelihoods of each window, float64 [windows]."""
    ids, model = np.load(windows), load(file)
    length = ids.shape[1]
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = length
    settings.n_threads = settings.n_threads_batch = 1
    context = llama_cpp.llama_init_from_model(model, settings)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(length, 0, 1)
    sums = []
    for window in ids:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        batch.n_tokens = length
        for i, token in enumerate(window.tolist()):
            batch.token[i], batch.pos[i], batch.logits[i] = token, i, True
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        if llama_cpp.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        stored = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), shape=(length, vocabulary))
        logits = stored[:-1].astype(np.float64)
        peak = logits.max(axis=1)
        normalizers = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))
        sums.append(float((normalizers - logits[np.arange(length - 1), window[1:]]).sum()))
    np.save(losses, np.array(sums))


if __name__ == "__main__":
    main(*sys.argv[1:4])
