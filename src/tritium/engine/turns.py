"""Turns: what takes them, and what a policy that gives them out is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence


class Claim(Protocol):
    """What waits for its turn: a text to be written, or an input to be embedded.

    Attributes:
        tenant: for whom it is.
        weight: the tenant's.
        priority: among the claims of a tenant the lower comes first,
        arrival: then the older,
        serial: then the one that was accepted first; no two have the same.
    """

    tenant: str
    weight: int
    priority: int
    arrival: float
    serial: int

    @property
    def num_due(self) -> int:
        """Tokens that are paid for when its turn comes: those to be read that were not paid for before."""


AnyClaim = TypeVar("AnyClaim", bound=Claim)


class SchedulingPolicy(Protocol[AnyClaim]):
    """Holds the claims that wait, says whose turn it is, and is told who gets what."""

    @property
    def is_shared(self) -> bool:
        """Whether tenants have shares of a step too: several were here lately, and are told apart."""

    def __len__(self) -> int:
        """Return how many claims wait."""

    def add(self, claim: AnyClaim) -> None:
        """Let a new claim wait."""

    def next(self) -> AnyClaim | None:
        """Return the one that waits and shall run next: None if nobody waits."""

    def start(self, claim: AnyClaim) -> None:
        """Take note that the next one runs."""

    def stop(self, claim: AnyClaim) -> None:
        """Take note that a running one has to wait again."""

    def charge(self, claim: AnyClaim) -> None:
        """Take note that a running one was given a token of its answer."""

    def remove(self, claim: AnyClaim) -> None:
        """Forget a claim, whether it waits or runs."""

    def rank(self, claim: AnyClaim) -> tuple[float, ...]:
        """Return the place of a running claim, unique per claim.

        The lowest gets its tokens first, the highest gives its blocks back first.
        """

    def gives_way(self, running: Sequence[AnyClaim]) -> AnyClaim | None:
        """Return which of all that run gives its place to the next one: None if none has to."""

    def has_more(self, claim: AnyClaim) -> bool:
        """Return whether claims of the same tenant wait."""
