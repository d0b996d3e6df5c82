"""The forms in which events arrive: our own JSON, and CloudEvents 1.0 one by one or in batches.

CloudEvents whose attributes are headers are read in `event_headers`.

A body that is not of its form is refused as a whole, with the place of its first mistake. What an event of
the right form says is judged event by event, see `tritium_platform.metering.event`.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from uuid import UUID

import msgspec

from tritium.protocol.schemas import InvalidJsonError
from tritium_platform.api.problems import InvalidHeaderError, UnsupportedMediaTypeError
from tritium_platform.errors import RequestTooLargeError, ValidationError
from tritium_platform.metering.event import ReportedEvent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Form = TypeVar("Form")
MOST_EVENTS = 10_000
LONGEST_MESSAGE = 300


class EventForm(StrEnum):
    """A form of events, by its media type."""

    OWN = "application/json"
    CLOUD_EVENT = "application/cloudevents+json"
    CLOUD_EVENTS = "application/cloudevents-batch+json"


class EventBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Events in our own form."""

    events: list[ReportedEvent]


class CloudEventData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a CloudEvent of ours carries."""

    meter: str
    quantity: int
    dimensions: dict[str, str] = {}


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """CloudEvents 1.0 in its JSON form; `subject` is the tenant, other attributes are left alone."""

    specversion: Literal["1.0"]
    type: Literal["tritium.usage"]
    source: str
    id: str
    time: datetime
    data: CloudEventData
    subject: UUID | None = None

    def reported(self) -> ReportedEvent:
        """Return the same in our own form."""
        return ReportedEvent(
            source=self.source,
            id=self.id,
            meter=self.data.meter,
            quantity=self.data.quantity,
            event_time=self.time,
            tenant_id=self.subject,
            dimensions=self.data.dimensions,
        )


_BATCH = msgspec.json.Decoder(EventBatch)
_EVENT = msgspec.json.Decoder(ReportedEvent)
_CLOUD_EVENT = msgspec.json.Decoder(CloudEvent)
_DATA = msgspec.json.Decoder(CloudEventData)
_CLOUD_EVENTS = msgspec.json.Decoder(list[CloudEvent])


def form_of(content_type: str) -> EventForm:
    """Return the form that a header names; our own where it names none. UnsupportedMediaTypeError."""
    media_type = content_type.partition(";")[0].strip().lower()
    if not media_type:
        return EventForm.OWN
    if media_type not in set(EventForm):
        known = ", ".join(EventForm)
        raise UnsupportedMediaTypeError(f"Events come as one of {known}.", accepted=known)
    return EventForm(media_type)


def read_events(body: bytes, *, form: EventForm) -> Sequence[ReportedEvent]:
    """Read events in one of the forms.

    Raises:
        InvalidJsonError: it is no JSON.
        ValidationError: it has another form.
        RequestTooLargeError: there are too many.
    """
    events: Sequence[ReportedEvent]
    if form is EventForm.OWN:
        events = _decoded(_BATCH, body).events
    elif form is EventForm.CLOUD_EVENT:
        events = [_decoded(_CLOUD_EVENT, body).reported()]
    else:
        events = [each.reported() for each in _decoded(_CLOUD_EVENTS, body)]
    if len(events) > MOST_EVENTS:
        raise RequestTooLargeError(limit_name="events at once", limit=MOST_EVENTS, current=len(events))
    return events


def read_event(line: bytes) -> ReportedEvent:
    """Read one event in our own form; InvalidJsonError, ValidationError."""
    return _decoded(_EVENT, line)


def read_cloud_event(attributes: Mapping[str, str], *, data: bytes) -> CloudEvent:
    """Read an event whose attributes came apart from its data.

    Raises:
        InvalidJsonError: the data is no JSON.
        ValidationError: the data has another form.
        InvalidHeaderError: an attribute has; the message names its header.
    """
    contents = _decoded(_DATA, data)
    try:
        return msgspec.convert({**attributes, "data": contents}, CloudEvent)
    except msgspec.ValidationError as error:
        # `Invalid RFC3339 encoded datetime - at `$.time``: the attribute is a header here.
        message = str(error)[:LONGEST_MESSAGE].replace("`$.", "`ce-")
        raise InvalidHeaderError(f"{message}.") from None


def request_schema() -> dict[str, Any]:
    """Return what the routes take, as the OpenAPI document says it."""
    kinds = {
        EventForm.OWN: EventBatch,
        EventForm.CLOUD_EVENT: CloudEvent,
        EventForm.CLOUD_EVENTS: list[CloudEvent],
    }
    (data, *schemas), named = msgspec.json.schema_components(
        [CloudEventData, *kinds.values()], ref_template="{name}"
    )
    content = {
        form.value: {"schema": _whole(schema, named)} for form, schema in zip(kinds, schemas, strict=True)
    }
    own = content[EventForm.OWN.value]
    own["schema"] = {"anyOf": [own["schema"], _whole(data, named)]}
    return {"required": True, "content": content}


def _decoded(decoder: msgspec.json.Decoder[Form], body: bytes) -> Form:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise ValidationError(f"{str(error)[:LONGEST_MESSAGE]}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidJsonError("The body is not valid JSON.") from None
    except RecursionError:
        raise InvalidJsonError("The body is nested too deeply.") from None


def _whole(schema: Any, named: Mapping[str, Any]) -> Any:
    """Return a schema with what it refers to put in its place."""
    if isinstance(schema, list):
        return [_whole(each, named) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _whole(named[schema["$ref"]], named)
    return {name: _whole(value, named) for name, value in schema.items()}
