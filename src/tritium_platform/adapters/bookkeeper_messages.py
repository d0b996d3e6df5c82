"""What a gateway and its bookkeeper say to one another, as MessagePack; every command has one answer."""

from __future__ import annotations

from uuid import UUID

import msgspec

from tritium_platform.adapters.failed_message import Failed


class Position(msgspec.Struct, frozen=True, tag="position"):
    """Up to where is a spool in the books? The answer's value says it."""

    number: str
    spool_id: UUID


class Apply(msgspec.Struct, frozen=True, tag="apply"):
    """Bring settlements (see `settlement_codec`) into the books, with the position behind them."""

    number: str
    spool_id: UUID
    position: int
    settlements: bytes


class Forget(msgspec.Struct, frozen=True, tag="forget"):
    """The spool is gone."""

    number: str
    spool_id: UUID


class EmptyOutbox(msgspec.Struct, frozen=True, tag="empty_outbox"):
    """Log what lies in the outbox; the answer's value says how many intents that were."""

    number: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The books and the audit log are open."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """They cannot be opened."""

    message: str


class Done(msgspec.Struct, frozen=True, tag="done"):
    """A command was carried out."""

    number: str
    value: int = 0


Command = Position | Apply | Forget | EmptyOutbox
Answer = Ready | Refused | Done | Failed  # of `Failed`, `request_id` is the command's number

decode_command = msgspec.msgpack.Decoder(Command).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
