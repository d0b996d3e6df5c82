"""The tensors that a model asks of its checkpoint, dense, ternary or coded, and whether they are there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tritium.errors import ValidationError
from tritium.formats.bitnet_hf import TernaryConvention
from tritium.formats.mapped_pages import release_pages
from tritium.formats.native import TRITS_PER_BYTE
from tritium.kernels.coded import tiles_shape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tritium.formats.checkpoint import Checkpoint
    from tritium.model.architecture import Architecture, LinearShape
    from tritium.model.config import ModelConfig

_CODES_PER_BYTE = 4
_ROWS_AT_ONCE = 4096


class ExpectedTensors:
    """What a checkpoint has to hold.

    Args:
        config: of the model.
        architecture: the model's own names and shapes.
        checkpoint: where the tensors are looked for.
        prefix: what the checkpoint puts before every name.
        native: what is said of linear layers that are stored in our own ternary form, by their full names.
        coded: likewise of tables that are coded or ternary.
    """

    def __init__(
        self,
        *,
        config: ModelConfig,
        architecture: Architecture,
        checkpoint: Checkpoint,
        prefix: str,
        native: Mapping[str, Any],
        coded: Mapping[str, Any],
    ) -> None:
        self._config = config
        self._architecture = architecture
        self._checkpoint = checkpoint
        self._prefix = prefix
        self._native = native
        self._coded = coded

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of what the model reads, by the names that the checkpoint has for it."""
        return {self._prefix + name: shape for name, shape in self._expected()}

    def check(self) -> None:
        """Check that each is there in its shape, and nothing that the config does not explain.

        Raises:
            ValidationError: it is otherwise; the message names what is wrong.
        """
        expected = self.shapes()
        tensors = self._checkpoint.tensors
        missing = sorted(expected.keys() - tensors.keys())
        if missing:
            raise _wrong_tensors("misses tensors that its config asks for", missing)
        extra = sorted(name for name in tensors.keys() - expected.keys() if not self._is_optional(name))
        if extra:
            raise _wrong_tensors("has tensors that its config does not explain", extra)
        for name, shape in expected.items():
            found = tensors[name].shape
            if found != shape:
                raise ValidationError(
                    f"The tensor {name} has shape {list(found)}; the config asks for {list(shape)}.",
                    tensor=name,
                )
        self._check_tied_head()

    def _expected(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        self._check_coded()
        for name, sizes in self._architecture.tensors.items():
            entry = self._coded.get(self._prefix + stem(name))
            if entry is None:
                yield name, sizes
            elif "planes" in entry:
                yield from self._expected_trits(stem(name), entry)
            else:
                rows, columns = sizes
                yield f"{stem(name)}.codes", tiles_shape(rows, columns, bits=entry["bits"])
        for name, shape in self._architecture.linears.items():
            if shape.has_bias:
                yield f"{name}.bias", (shape.out_features,)
            if self._prefix + name in self._native:
                yield from self._expected_native(name, shape)
            elif self._is_packed(name):
                yield f"{name}.weight", (-(-shape.out_features // _CODES_PER_BYTE), shape.in_features)
                yield f"{name}.weight_scale", (1,)
            else:
                yield f"{name}.weight", (shape.out_features, shape.in_features)

    def _expected_native(self, name: str, shape: LinearShape) -> Iterator[tuple[str, tuple[int, ...]]]:
        entry = self._native[self._prefix + name]
        declared = (entry["out_features"], entry["in_features"])
        if declared != (shape.out_features, shape.in_features):
            raise ValidationError(
                f"The layer {name} is stored as {declared[0]} x {declared[1]}; "
                f"the config asks for {shape.out_features} x {shape.in_features}.",
                layer=name,
            )
        yield from self._expected_trits(name, entry)

    def _expected_trits(self, name: str, entry: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
        trits = entry["out_features"] * entry["in_features"]
        yield f"{name}.trits", (entry["planes"], -(-trits // TRITS_PER_BYTE))
        yield f"{name}.scales", self._checkpoint.tensors[f"{self._prefix}{name}.scales"].shape

    def _check_coded(self) -> None:
        """Check that only tables are coded, in the shape of the config."""
        tables = {
            self._prefix + stem(name): self._architecture.tensors[name] for name in self._architecture.tables
        }
        for name, entry in self._coded.items():
            if name not in tables:
                raise ValidationError(
                    f"The manifest holds {name} as a coded matrix; here only {', '.join(tables)} can be one.",
                    tensor=name,
                )
            declared = (entry["out_features"], entry["in_features"])
            if declared != tables[name]:
                raise ValidationError(
                    f"The manifest says {declared[0]} x {declared[1]} for {name}; "
                    f"the config asks for {tables[name][0]} x {tables[name][1]}.",
                    tensor=name,
                )

    def _is_packed(self, name: str) -> bool:
        settings = self._config.ternary
        return settings.converts(name) and settings.convention is not TernaryConvention.AUTOBITLINEAR_ONLINE

    def _is_optional(self, name: str) -> bool:
        plain = name.removeprefix(self._prefix)
        is_tied_head = self._config.tie_word_embeddings and plain == "lm_head.weight" and not self._coded
        return is_tied_head or any(
            plain == optional or (optional.endswith(".") and name.startswith(optional))
            for optional in self._architecture.optional
        )

    def _check_tied_head(self) -> None:
        """A head beside tied embeddings must be their copy; if not, one of the two would silently be lost."""
        head, table = "lm_head.weight", "model.embed_tokens.weight"
        is_read = self._config.tie_word_embeddings and not self._config.is_encoder
        if not is_read or self._coded or head not in self._checkpoint.tensors:
            return
        if not _are_equal(self._checkpoint.read(head), self._checkpoint.read(table)):
            raise ValidationError(
                f"The config ties the head to the embeddings, and {head} differs from {table}.", tensor=head
            )


def stem(name: str) -> str:
    """Return the name of a matrix without `.weight`: what the parts of a stored one go on from."""
    return name.removesuffix(".weight")


def _are_equal(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> bool:
    """Compare two matrices piece by piece; where they are memory-mapped no pages stay behind."""
    if first.shape != second.shape:
        return False
    for start in range(0, len(first), _ROWS_AT_ONCE):
        one, other = (matrix[start : start + _ROWS_AT_ONCE] for matrix in (first, second))
        if not np.array_equal(one, other):
            return False
        release_pages(one)
        release_pages(other)
    return True


def _wrong_tensors(problem: str, names: list[str]) -> ValidationError:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")  # noqa: PLR2004 - a line
    return ValidationError(f"The checkpoint {problem}: {shown}.", tensor=names[0])
