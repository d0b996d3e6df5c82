"""Weighted max-min shares of capacity, by filling all claims like vessels to one level; exact.

Everyone gets `clamp(weight * level, lower, upper)`: `lower` is what is guaranteed of what they ask for,
`upper` the least of what they ask for and what they may have at most. The level is as high as the capacity
allows. This is the one allocation that is max-min fair by weight within those bounds (Bertsekas and Gallager,
Data Networks, 6.5.2), and it wastes nothing: who gets less than `upper` does so only because the capacity is
given out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING

from tritium_platform.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence


class Resource(StrEnum):
    """What is shared out: processor time, bytes of memory and of an accelerator's memory, bytes a second."""

    CPU = "cpu"
    MEMORY = "memory"
    ACCELERATOR_MEMORY = "accelerator_memory"
    BANDWIDTH = "bandwidth"


class ShareBound(StrEnum):
    """What decided a share, in the words an operator reads."""

    DEMAND = "it has all it asks for"
    CAP = "it has the most it may have"
    FLOOR = "it has what is guaranteed, which is more than its weight would give"
    LEVEL = "it has its part by weight of what others leave"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What somebody asks for of one resource, in whole units.

    Attributes:
        weight: how much one counts beside the others; from 1 on.
        demand: what is asked for.
        floor: what is guaranteed as far as it is asked for.
        cap: the most one may have; None: all there is.
    """

    weight: int
    demand: int
    floor: int = 0
    cap: int | None = None

    def __post_init__(self) -> None:
        bounds = (self.demand, self.floor, self.cap or 0)
        if any(type(value) is not int or value < 0 for value in bounds):
            raise ValidationError("Demand, floor and cap of a claim are whole numbers from 0 on.")
        if type(self.weight) is not int or self.weight < 1:
            raise ValidationError("The weight of a claim is a whole number from 1 on.", field="weight")
        if self.cap is not None and self.floor > self.cap:
            raise ValidationError(f"A floor of {self.floor} lies above the cap of {self.cap}.", field="floor")

    @property
    def upper(self) -> int:
        """The most that can be used."""
        return self.demand if self.cap is None else min(self.demand, self.cap)

    @property
    def lower(self) -> int:
        """The least that is given."""
        return min(self.floor, self.upper)


@dataclass(frozen=True, slots=True)
class Share:
    """What somebody gets of one resource, and what decided it."""

    amount: Fraction
    bound: ShareBound


def allocate_tenant_resources(
    claims: Mapping[Hashable, Mapping[Resource, Claim]], *, capacity: Mapping[Resource, int]
) -> dict[Hashable, dict[Resource, Share]]:
    """Share out each resource among those who claim it; the order of the claims does not matter.

    Raises:
        ValidationError: what is guaranteed is more than there is, or a claim is of something nobody has.
    """
    shares: dict[Hashable, dict[Resource, Share]] = {holder: {} for holder in claims}
    for holder, wanted in claims.items():
        unknown = sorted(set(wanted) - set(capacity))
        if unknown:
            raise ValidationError(f"{holder} claims {unknown[0]}, and there is none.", field=unknown[0])
    for resource, amount in capacity.items():
        holders = [holder for holder, wanted in claims.items() if resource in wanted]
        filled = fill([claims[holder][resource] for holder in holders], capacity=amount, of=resource.value)
        for holder, share in zip(holders, filled, strict=True):
            shares[holder][resource] = share
    return shares


def fill(claims: Sequence[Claim], *, capacity: int, of: str = "the capacity") -> list[Share]:
    """Share out one resource.

    Raises:
        ValidationError: what is guaranteed is more than `capacity`; details: limit, current.
    """
    guaranteed = sum(claim.floor for claim in claims)
    if guaranteed > capacity:
        raise ValidationError(
            f"{guaranteed} of {of} are guaranteed, and there are {capacity}: lower the floors.",
            limit=capacity,
            current=guaranteed,
        )
    level = _level(claims, capacity=capacity)
    return [_share(claim, level=level) for claim in claims]


def _level(claims: Sequence[Claim], *, capacity: int) -> Fraction | None:
    """Return the highest level at which all fits; None if everybody can have all they can use.

    Between two neighbouring edges (a level at which somebody begins or ends to rise) the sum is a straight
    line.
    """
    if sum(claim.upper for claim in claims) <= capacity:
        return None
    edges = sorted(
        (Fraction(bound, claim.weight), change)
        for claim in claims
        for bound, change in ((claim.lower, claim.weight), (claim.upper, -claim.weight))
    )
    level, left, slope = Fraction(0), Fraction(capacity - sum(claim.lower for claim in claims)), 0
    for edge, change in edges:
        rise = (edge - level) * slope
        if rise > left:
            break
        level, left, slope = edge, left - rise, slope + change
    return level + left / slope  # what all can use is more than there is: somebody rises where it ends


def _share(claim: Claim, *, level: Fraction | None) -> Share:
    by_weight = None if level is None else level * claim.weight
    if by_weight is None or by_weight >= claim.upper:
        is_capped = claim.upper < claim.demand
        return Share(Fraction(claim.upper), ShareBound.CAP if is_capped else ShareBound.DEMAND)
    if by_weight < claim.lower:
        is_all = claim.lower == claim.demand
        return Share(Fraction(claim.lower), ShareBound.DEMAND if is_all else ShareBound.FLOOR)
    return Share(by_weight, ShareBound.LEVEL)
