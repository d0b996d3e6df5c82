"""A price per combination of properties: which model ran, on which device, at which tier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tritium_platform.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritium_platform.billing.rating.flat import FlatPrice
    from tritium_platform.billing.rating.graduated import GraduatedPrice
    from tritium_platform.billing.rating.package import PackagePrice
    from tritium_platform.billing.rating.per_unit import UnitPrice
    from tritium_platform.billing.rating.volume import VolumePrice

    ScalarPrice = FlatPrice | UnitPrice | GraduatedPrice | VolumePrice | PackagePrice

ANY = "*"
DIMENSIONS = ("model", "device", "tier")


@dataclass(frozen=True, slots=True)
class MatrixCell:
    """The price of what has these properties, in the order of the matrix's dimensions; `*` is any."""

    values: tuple[str, ...]
    price: ScalarPrice

    def matches(self, properties: tuple[str, ...]) -> bool:
        """Return whether this is the price of something."""
        return all(mine in (ANY, theirs) for mine, theirs in zip(self.values, properties, strict=True))


@dataclass(frozen=True, slots=True)
class MatrixPrice:
    """The first cell that matches decides; the last one matches everything: nothing is without a price."""

    kind: ClassVar[str] = "matrix"
    dimensions: tuple[str, ...]
    cells: tuple[MatrixCell, ...]

    def __post_init__(self) -> None:
        if not self.dimensions or not set(self.dimensions) <= set(DIMENSIONS):
            raise ValidationError(
                f"A matrix has dimensions among {', '.join(DIMENSIONS)}.", field="dimensions"
            )
        if len(set(self.dimensions)) < len(self.dimensions):
            raise ValidationError("Each dimension of a matrix appears once.", field="dimensions")
        if any(len(cell.values) != len(self.dimensions) for cell in self.cells):
            raise ValidationError("Each cell of a matrix has a value for each dimension.", field="cells")
        if len({cell.values for cell in self.cells}) < len(self.cells):
            raise ValidationError("Two cells of a matrix are for the same thing.", field="cells")
        if not self.cells or set(self.cells[-1].values) != {ANY}:
            raise ValidationError("The last cell of a matrix is for anything: '*' everywhere.", field="cells")

    def place_of(self, properties: Mapping[str, str]) -> int:
        """Return the place of the cell that prices something."""
        mine = tuple(properties[name] for name in self.dimensions)
        return next(place for place, cell in enumerate(self.cells) if cell.matches(mine))
