"""Embeddings: the wire form becomes a call, vectors become wire objects."""

from __future__ import annotations

import base64
from array import array
from typing import TYPE_CHECKING

from tritium.engine.prompt import embedding_inputs
from tritium.errors import ValidationError
from tritium.protocol.calls import EmbeddingCall

if TYPE_CHECKING:
    from tritium.engine.request import EmbeddingOutput
    from tritium.protocol.schemas import EmbeddingRequest


def embedding_call(body: EmbeddingRequest, *, request_id: str, principal: object) -> EmbeddingCall:
    """Return the one call of an embedding request."""
    inputs = embedding_inputs(body.input)
    return EmbeddingCall(request_id=request_id, model=body.model, inputs=inputs, principal=principal)


def embedding_answer(body: EmbeddingRequest, output: EmbeddingOutput, *, model: str) -> dict[str, object]:
    """Return the wire object: vectors as lists, or as base64 of little-endian 32-bit floats.

    Raises:
        ValidationError: `dimensions` is not the model's own number (vectors are not shortened).
    """
    width = len(output.vectors[0])
    if body.dimensions not in {None, width}:
        raise ValidationError(
            f"dimensions must be {width} for this model: vectors are not shortened.",
            param="dimensions",
            limit=width,
        )
    is_base64 = body.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if is_base64 else list(vector)}
        for index, vector in enumerate(output.vectors)
    ]
    usage = {"prompt_tokens": output.prompt_tokens, "total_tokens": output.prompt_tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _base64(vector: tuple[float, ...]) -> str:
    # Every platform this runs on is little-endian, which is what the wire format asks for.
    return base64.b64encode(array("f", vector).tobytes()).decode("ascii")
