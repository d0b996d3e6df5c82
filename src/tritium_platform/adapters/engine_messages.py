"""What a gateway and an engine process say to one another, as MessagePack: tagged structs, never pickle."""

from __future__ import annotations

import msgspec

from tritium.engine.request import EmbeddingOutput, GenerationRequest, TokenOutput
from tritium.errors import BitNetServiceError, Plain, ProcessingError, Recovery
from tritium_platform.serving.model import EngineLoad, ModelFacts


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """Generate for this request; the answer is a row of `Tokens`. `traceparent` is W3C's, or empty."""

    request: GenerationRequest
    traceparent: str = ""


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Nobody waits for this request any more."""

    request_id: str


class Embed(msgspec.Struct, frozen=True, tag="embed"):
    """Embed these token id lists; the answer is one `Embedded`."""

    request_id: str
    token_ids: list[list[int]]


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The model is loaded."""

    facts: ModelFacts


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The model cannot be served, and trying again will not help."""

    message: str


class Tokens(msgspec.Struct, frozen=True, tag="tokens"):
    """The next tokens of one request; the last one carries a finish reason."""

    output: TokenOutput


class Embedded(msgspec.Struct, frozen=True, tag="embedded"):
    """The vectors of one `Embed`."""

    request_id: str
    output: EmbeddingOutput


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """One request failed; `error` is the class name in the tree of errors."""

    request_id: str
    error: str
    message: str
    recovery: str
    details: dict[str, Plain]

    @classmethod
    def of(cls, error: BitNetServiceError, *, request_id: str) -> Failed:
        """Write an error down for the other side."""
        return cls(request_id, type(error).__name__, error.message, error.recovery.value, dict(error.details))

    def to_error(self) -> BitNetServiceError:
        """Return the error that was written down; a class that is unknown here becomes ProcessingError."""
        kind = _subclasses(BitNetServiceError).get(self.error, ProcessingError)
        error = kind.__new__(kind)
        # Some classes build their message from arguments of their own; the message is complete here already.
        BitNetServiceError.__init__(error, self.message, recovery=Recovery(self.recovery), **self.details)
        return error


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """The process lives; its resident memory in bytes, and what it has to do."""

    resident_bytes: int
    load: EngineLoad


Command = Submit | Abort | Embed
Report = Ready | Refused | Tokens | Embedded | Failed | Heartbeat

decode_command = msgspec.msgpack.Decoder(Command).decode
decode_report = msgspec.msgpack.Decoder(Report).decode


def _subclasses(root: type[BitNetServiceError]) -> dict[str, type[BitNetServiceError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _subclasses(child)
    return found
