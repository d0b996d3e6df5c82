"""What a gateway and an engine process say to one another, as MessagePack: tagged structs, never pickle."""

from __future__ import annotations

import msgspec

from tritium.engine.request import EmbeddingOutput, GenerationRequest, TokenOutput
from tritium_platform.adapters.failed_message import Failed
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


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """The process lives; its resident memory in bytes, and what it has to do."""

    resident_bytes: int
    load: EngineLoad


Command = Submit | Abort | Embed
Report = Ready | Refused | Tokens | Embedded | Failed | Heartbeat

decode_command = msgspec.msgpack.Decoder(Command).decode
decode_report = msgspec.msgpack.Decoder(Report).decode
