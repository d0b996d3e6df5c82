"""A model in GGUF files as a checkpoint: our names, our order of rows, its config and its tokenizer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tritium.formats.checkpoint import CONFIG, GGUF_SUFFIX, Checkpoint, open_checkpoint
from tritium.formats.gguf import MAGIC
from tritium.formats.gguf_decode import TERNARY
from tritium.formats.gguf_shards import GGUFFiles
from tritium.formats.gguf_vocabulary import tokenizer_files
from tritium.formats.gguf_weights import GGUFWeights
from tritium.formats.refusal import refusal
from tritium.model.companions import with_tokenizer
from tritium.model.gguf_config import file_architecture, gguf_config
from tritium.model.gguf_names import OUTER, ROPE_FACTORS, ROTATED
from tritium.model.gguf_planes import sibling_planes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tritium.formats.gguf_reader import StoredTensor
    from tritium.model.gguf_architecture import GGUFArchitecture

_IN_BLOCK = re.compile(r"blk\.(0|[1-9]\d{0,5})\.(\w+)\.(weight|bias|scale)")


def is_gguf(source: str | Path) -> bool:
    """Tell whether this is a GGUF file: by its name, or by how it begins."""
    path = Path(source)
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return path.suffix.lower() == GGUF_SUFFIX or stream.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):  # not a possible path, or not for us to read: opening it says more
        return False


def open_model(source: str | Path) -> Checkpoint:
    """Open and verify a GGUF file, or what `open_checkpoint` opens; its tokenizer is a tokenizer.json.

    Raises:
        ValidationError: names file, tensor and reason.
    """
    return open_gguf(source) if is_gguf(source) else with_tokenizer(open_checkpoint(source))


def open_gguf(source: str | Path) -> Checkpoint:
    """Open a GGUF file and verify that all of it is known: architecture, metadata, tensors, tokenizer.

    Any shard of a model that was cut into several opens all of them.
    Ternary layers appear as trits and scales of ours (`Checkpoint.linears`), everything else under the names
    of a config.json's architecture; tokenizer files and config.json are in `Checkpoint.embedded`.

    Raises:
        ValidationError: names the file, the tensor or the key, and the reason.
    """
    file = GGUFFiles(Path(source))
    weights = _weights(file)
    config = gguf_config(file, rope_factors=_rope_factors(file))
    content = json.dumps(config, indent=2).encode() + b"\n"
    return Checkpoint(
        file.path,
        config,
        weights.tensors,
        is_memory_mapped=True,
        _files=dict.fromkeys(file.paths, weights),
        format=f"gguf {file.version}",
        linears=weights.linears,
        embedded={CONFIG: content, **tokenizer_files(file.metadata, file=file.path)},
    )


def _weights(file: GGUFFiles) -> GGUFWeights:
    weights = GGUFWeights(file)
    architecture = file_architecture(file)
    planes = sibling_planes(file, most=architecture.planes)
    added = {plane.name for others in planes.values() for plane in others}
    if architecture.means.has_rope_factors:
        added.add(ROPE_FACTORS)
    for name, stored in file.tensors.items():
        if name in OUTER:
            weights.add_dense(OUTER[name], stored, added=_added(architecture.means, stored))
        elif name not in added:
            _add_from_block(weights, file, stored, planes.get(name, []), architecture.means)
    return weights


def _added(means: GGUFArchitecture, stored: StoredTensor) -> float:
    """Return what the file's writer added to a tensor: to the weights of norms, which are the vectors."""
    return means.norm_offset if len(stored.shape) == 1 and stored.name.endswith(".weight") else 0.0


def _add_from_block(
    weights: GGUFWeights,
    file: GGUFFiles,
    stored: StoredTensor,
    siblings: Sequence[StoredTensor],
    means: GGUFArchitecture,
) -> None:
    found = _IN_BLOCK.fullmatch(stored.name)
    roles = {part: role for role, part in means.roles.items()}
    if found is None or found[2] not in roles:
        raise refusal("no tensor of this name is known", file=file.path, tensor=stored.name)
    block, part, kind = found.groups()
    layer = f"model.layers.{block}.{roles[part]}"
    rotates = means.is_interleaved and part in ROTATED and kind != "scale"
    interleaved = _head_rows(file, stored, part) if rotates else 0
    if kind == "scale":
        if f"blk.{block}.{part}.weight" not in file.tensors:
            raise refusal("there is no tensor for it to scale", file=file.path, tensor=stored.name)
        _one_factor(file, stored)
    elif kind == "weight" and stored.type in TERNARY:
        factor = file.tensors.get(f"blk.{block}.{part}.scale")
        weights.add_ternary(
            layer,
            [stored, *siblings],
            interleaved=interleaved,
            factor=None if factor is None else _one_factor(file, factor),
        )
    else:
        name = f"{layer}.{kind}"
        weights.add_dense(name, stored, interleaved=interleaved, added=_added(means, stored))
        _refuse_factor(file, f"blk.{block}.{part}.scale")


def _head_rows(file: GGUFFiles, stored: StoredTensor, part: str) -> int:
    """Return the rows of one head of the queries or keys (ValidationError: they are no whole heads)."""
    arch = file.metadata["general.architecture"]
    heads = file.metadata.get(f"{arch}.attention.head_count")
    if part != "attn_q":
        heads = file.metadata.get(f"{arch}.attention.head_count_kv", heads)
    if type(heads) is not int or heads < 1 or stored.shape[0] % (2 * heads):
        raise refusal(f"{stored.shape[0]} rows are no {heads} heads", file=file.path, tensor=stored.name)
    return stored.shape[0] // heads


def _one_factor(file: GGUFFiles, stored: StoredTensor) -> NDArray[np.float32]:
    """Read the one number that multiplies what a layer of trits gives."""
    factor = _float32(file, stored)
    if factor.size != 1 or not (np.isfinite(factor).all() and (factor > 0).all()):
        raise refusal("one positive number is needed", file=file.path, tensor=stored.name)
    return factor


def _refuse_factor(file: GGUFFiles, name: str) -> None:
    stored = file.tensors.get(name)
    if stored is not None and _one_factor(file, stored)[0] != 1:
        raise refusal("a layer that is not ternary has a factor beside it", file=file.path, tensor=name)


def _rope_factors(file: GGUFFiles) -> NDArray[np.float32] | None:
    stored = file.tensors.get(ROPE_FACTORS)
    return None if stored is None else _float32(file, stored)


def _float32(file: GGUFFiles, stored: StoredTensor) -> NDArray[np.float32]:
    weights = GGUFWeights(file)
    weights.add_dense(stored.name, stored)
    with_checks = Checkpoint(
        file.path, {}, weights.tensors, is_memory_mapped=True, _files={stored.file: weights}
    )
    return with_checks.read_float32(stored.name).reshape(-1)
