"""The linear layers of a model by name: looked up, replaced, and watched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.errors import ValidationError
from tritium.model.layers import Float32, Linear, Observer, apply_linears

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class LinearTable:
    """Named linear layers in the order of the forward pass; an observer sees every input."""

    def __init__(self, linears: Mapping[str, Linear]) -> None:
        self._linears = dict(linears)
        self.observer: Observer | None = None

    def as_dict(self) -> dict[str, Linear]:
        """Return a copy of the table."""
        return dict(self._linears)

    def replace(self, name: str, linear: Linear) -> None:
        """Put another layer of the same shape in place of a named one.

        Raises:
            ValidationError: there is no such layer, or the shape differs.
        """
        current = self._linears.get(name)
        if current is None:
            raise ValidationError(f"The model has no linear layer {name!r}.", layer=name)
        expected = (current.out_features, current.in_features)
        if (linear.out_features, linear.in_features) != expected:
            raise ValidationError(
                f"The linear layer {name!r} is {expected[0]} x {expected[1]}, "
                f"not {linear.out_features} x {linear.in_features}.",
                layer=name,
            )
        self._linears[name] = linear

    def apply(self, names: Sequence[str], x: Float32) -> list[Float32]:
        """Run named layers on the same rows [M, K]."""
        if self.observer is not None:
            for name in names:
                self.observer(name, x)
        return apply_linears([self._linears[name] for name in names], x)
