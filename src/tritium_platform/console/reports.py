"""The report of a model's quantization as a page: the one that `tritium report --out` writes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tritium.cli.page import render_page
from tritium.formats.native import is_native
from tritium.quantize.model_report import open_report
from tritium_platform.errors import NotFoundError, ValidationError

if TYPE_CHECKING:
    from uuid import UUID

    from tritium_platform.compose import Platform
    from tritium_platform.serving.model import RegisteredModel


class PlatformReports:
    """A `ReportSource` over a platform: the models of all its tenants."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    async def read(self, tenant_id: UUID, model_id: UUID) -> str:
        """Return the page of a model's quantization.

        Raises:
            NotFoundError: there is no such model, or it was not quantized here.
            ValidationError: its report is damaged.
        """
        model = await self._platform.registry.get(tenant_id, str(model_id))
        return await asyncio.to_thread(draw_report, model)


def draw_report(model: RegisteredModel) -> str:
    """Return the page of a model's quantization; raises as `PlatformReports.read` does."""
    if not is_native(model.path):
        raise NotFoundError(f"{model.name} was not quantized here, so there is no report.", kind="report")
    try:
        return render_page(open_report(model.path))
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValidationError(f"The report of {model.name} is damaged.", file="tritium.json") from error
