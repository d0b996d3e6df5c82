"""What a line of an invoice is called, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tritium_platform.billing.party import plain_text
from tritium_platform.billing.rating.matrix import ANY
from tritium_platform.billing.rating.plan import COMMITMENT

if TYPE_CHECKING:
    from collections.abc import Mapping


DIFFERENCE_TO_COMMITMENT = "Difference to the agreed minimum"


def line_title(line: Mapping[str, Any]) -> str:
    """Return the name of a line: its charge in words, and what of it, such as the model."""
    if line["charge"] == COMMITMENT:
        return DIFFERENCE_TO_COMMITMENT
    words = line["charge"].replace(".", " \N{MIDDLE DOT} ").replace("_", " ")
    named = [plain_text(each) for each in line.get("cell", ()) if each and each != ANY]
    return ", ".join([words[:1].upper() + words[1:], *named])
