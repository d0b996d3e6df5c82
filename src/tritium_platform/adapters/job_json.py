"""What DBOS keeps is JSON: nothing that comes out of a database may run code, and pickle would."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from dbos import Serializer


class JsonSerializer(Serializer):
    """Writes JSON only; an exception is kept as its name and message."""

    def serialize(self, data: Any) -> str:
        """Return JSON."""
        if isinstance(data, BaseException):
            data = {"__exception__": type(data).__name__, "message": str(data)}
        return json.dumps(data, default=_moment)

    def deserialize(self, serialized_data: str) -> Any:
        """Read JSON."""
        data = json.loads(serialized_data, object_hook=_read_moment)
        if isinstance(data, dict) and "__exception__" in data:
            return RuntimeError(f"{data['__exception__']}: {data['message']}")
        return data

    def name(self) -> str:
        """Return the name under which DBOS remembers this form."""
        return "tritium_json"


def _moment(value: object) -> dict[str, str]:
    """Write an instant, which a schedule hands to its workflow."""
    if isinstance(value, datetime):
        return {"__datetime__": value.isoformat()}
    raise TypeError(f"{type(value).__name__} is not JSON.")


def _read_moment(data: dict[str, Any]) -> Any:
    return datetime.fromisoformat(data["__datetime__"]) if data.keys() == {"__datetime__"} else data
