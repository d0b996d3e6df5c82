"""What a decoder is made of: few operations, carried out at once (eager.py) or recorded (recorder.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium.model.layers import Embedding, Linear, RMSNorm

Value = TypeVar("Value")  # rows [T, width]: an array, or the number of a recorded value


class Operations(Protocol[Value]):
    """The operations of one forward pass; each makes new rows, and no row touches another but in `attend`."""

    def embed(self, table: Embedding) -> Value:
        """Look the tokens of the batch up: [T, hidden]."""
        ...

    def normalise(self, norm: RMSNorm, x: Value) -> Value:
        """Divide each row by its root mean square and multiply by the norm's weight."""
        ...

    def normalise_heads(self, norm: RMSNorm, x: Value) -> Value:
        """Do the same to every head of each row: the norm has the width of one."""
        ...

    def linears(self, names: Sequence[str], x: Value) -> list[Value]:
        """Run named linear layers on the same rows."""
        ...

    def attend(self, layer: int, q: Value, k: Value, v: Value) -> Value:
        """Turn q and k by their positions, keep k and v in the cache, and attend to the row's past."""
        ...

    def gate(self, gate: Value, up: Value) -> Value:
        """Multiply the activation of `gate` by `up`."""
        ...

    def bound(self, x: Value, cap: float) -> Value:
        """Keep each element between -cap and cap, smoothly: cap x tanh(x / cap)."""
        ...

    def add(self, x: Value, y: Value) -> Value:
        """Add elementwise."""
        ...

    def logit_rows(self, x: Value) -> Value:
        """Take the rows whose logits are wanted; they must be finite (ProcessingError)."""
        ...

    def head(self, head: Linear, x: Value) -> Value:
        """Map rows [S, hidden] to logits [S, vocabulary]."""
        ...
