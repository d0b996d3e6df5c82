"""CloudEvents 1.0 in binary mode: the attributes are headers (`ce-id` and so on), the body is the data.

Header values are read as the HTTP binding says: quotes of older senders are taken off, then percent-encoded
bytes are decoded once, as UTF-8.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from tritium_platform.api.event_json import CloudEvent, EventForm, read_cloud_event
from tritium_platform.api.problems import InvalidHeaderError, UnsupportedMediaTypeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium_platform.metering.event import ReportedEvent

PREFIX = "ce-"
REQUIRED = ("specversion", "id", "source", "type", "time")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")
_WRONG_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def is_binary(headers: Sequence[tuple[str, str]], *, content_type: str) -> bool:
    """Tell whether a request holds an event in binary mode; a content type of CloudEvents comes first."""
    if content_type.strip().lower().startswith("application/cloudevents"):
        return False
    return any(name.startswith(PREFIX) and name.removeprefix(PREFIX) in REQUIRED for name, _ in headers)


def read_binary_event(
    body: bytes, *, headers: Sequence[tuple[str, str]], content_type: str
) -> Sequence[ReportedEvent]:
    """Read the one event of a request in binary mode.

    Raises:
        UnsupportedMediaTypeError: the data is not JSON.
        InvalidJsonError: it says so, and is none.
        InvalidHeaderError: an attribute is missing, there twice, or malformed; the message names its header.
        ValidationError: the data has another form.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in {"", EventForm.OWN}:
        raise UnsupportedMediaTypeError(
            f"The data of an event in binary mode comes as {EventForm.OWN}.", accepted=EventForm.OWN.value
        )
    attributes: dict[str, str] = {}
    for header, value in headers:
        if header.startswith(PREFIX):
            name = header.removeprefix(PREFIX)
            if name in attributes:
                raise InvalidHeaderError(f"The header {header[:100]} is there twice.", field=header[:100])
            attributes[name] = decoded(value, header=header)
    for name in REQUIRED:
        if name not in attributes:
            raise InvalidHeaderError(f"The header {PREFIX}{name} is missing.", field=f"{PREFIX}{name}")
    return [read_cloud_event(attributes, data=body).reported()]


def decoded(value: str, *, header: str) -> str:
    """Return the value of an attribute; InvalidHeaderError if its header is malformed."""
    if value.startswith('"'):
        quoted = _QUOTED.fullmatch(value)
        if quoted is None:
            raise InvalidHeaderError(
                f"The header {header[:100]} has a quote that does not end.", field=header[:100]
            )
        value = _ESCAPED.sub(r"\1", quoted.group(1))
    if not value.isascii() or _WRONG_PERCENT.search(value):
        raise InvalidHeaderError(
            f"The header {header[:100]} must be percent-encoded: %25 for a percent sign, the bytes of UTF-8 "
            "for what is not ASCII.",
            field=header[:100],
        )
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        raise InvalidHeaderError(
            f"The percent-encoded bytes of the header {header[:100]} are not UTF-8.", field=header[:100]
        ) from None


def header_parameters() -> list[dict[str, Any]]:
    """Return the headers of binary mode, as the OpenAPI document says them."""
    meanings = {
        "specversion": f"`1.0`: with this header the body is the data of one event ({CloudEvent.__name__})",
        "id": "The id of the event, percent-encoded as all of these",
        "source": "Who counted it",
        "type": "`tritium.usage`",
        "time": "When it was used, RFC 3339",
        "subject": "The id of the tenant",
    }
    return [
        {"name": f"{PREFIX}{name}", "in": "header", "description": meaning, "schema": {"type": "string"}}
        for name, meaning in meanings.items()
    ]
