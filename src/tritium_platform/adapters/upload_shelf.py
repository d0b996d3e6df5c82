"""The uploads on the disk, as retention sees them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from tritium_platform.privacy.retention import DataKind, KeptThing
from tritium_platform.serving.job import OPEN_STATES

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from tritium_platform.serving.job import JobState, QuantizationJob
    from tritium_platform.serving.uploads import UploadService


class OpenJobs(Protocol):
    """Knows the quantizations that are not over."""

    async def list_in(self, states: Collection[JobState]) -> Sequence[QuantizationJob]:
        """Return the jobs in these states."""
        ...


class UploadShelf:
    """Lists `<directory>/<tenant>/<upload>`; an upload that an open job reads is held."""

    def __init__(self, *, directory: Path, uploads: UploadService, jobs: OpenJobs) -> None:
        self._directory = directory
        self._uploads = uploads
        self._jobs = jobs

    async def list_kept(self) -> Sequence[KeptThing]:
        """Return every upload; what is no upload (an archive on its way) is left out."""
        in_use = [Path(job.source_path) for job in await self._jobs.list_in(OPEN_STATES)]
        return await asyncio.to_thread(self._list, in_use)

    async def remove(self, tenant_id: UUID, thing_id: UUID) -> None:
        """Delete an upload and give its storage back; NotFoundError if it is gone already."""
        await self._uploads.remove(tenant_id, thing_id)

    def _list(self, in_use: Sequence[Path]) -> list[KeptThing]:
        found: list[KeptThing] = []
        for path in sorted(self._directory.glob("*/*")):
            tenant_id, upload_id = _parse(path.parent.name), _parse(path.name)
            if tenant_id is None or upload_id is None or not path.is_dir():
                continue
            is_read = any(
                source.is_relative_to(place) for source in in_use for place in (path, path.resolve())
            )
            found.append(
                KeptThing(
                    kind=DataKind.UPLOAD,
                    id=upload_id,
                    tenant_id=tenant_id,
                    created_at=datetime.fromtimestamp(path.stat().st_mtime, tz=UTC),
                    held_because="a quantization reads it" if is_read else None,
                )
            )
        return found


def _parse(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None
