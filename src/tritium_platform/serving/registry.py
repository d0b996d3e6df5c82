"""The models of tenants: where they came from, where they lie, under which name they are found."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.native import is_native, open_native
from tritium.model.config import parse_config
from tritium_platform.errors import NotFoundError, ValidationError
from tritium_platform.serving import policy
from tritium_platform.serving.model import ModelKind, RegisteredModel
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tritium.engine.config import EngineConfig
    from tritium_platform.tenancy.model import TenantContext
    from tritium_platform.values import Clock

# An engine process before it has read a model: 64 MB (CPython 3.11 on Linux), and room for its batches.
_PROCESS_BYTES = 96 * 2**20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class CheckedPath:
    """A checkpoint directory that was looked at."""

    path: Path
    kind: ModelKind
    size_bytes: int


class ModelStore(Protocol):
    """Remembers models; a tenant's name for a model is unique within the tenant."""

    async def add(self, model: RegisteredModel) -> None:
        """Keep a model; raises ConflictError when the tenant already uses the name."""

    async def list(self, tenant_id: UUID) -> Sequence[RegisteredModel]:
        """Return the tenant's models, oldest first."""

    async def remove(self, *, tenant_id: UUID, model_id: UUID) -> bool:
        """Forget a model; False if the tenant has no such model."""


class RegistryService:
    """Registers, finds and forgets the models of tenants.

    Args:
        store: where they are remembered.
        roots: the directories below which a tenant may point at a checkpoint.
        clock: the time.
    """

    def __init__(self, *, store: ModelStore, roots: Sequence[Path], clock: Clock) -> None:
        self._store = store
        self._roots = tuple(root.resolve() for root in roots)
        self._clock = clock

    def check_path(self, context: TenantContext, *, name: str, path: str) -> CheckedPath:
        """Look at a checkpoint directory on the platform's disk; call it in a thread, it may be large.

        Raises:
            ValidationError: the name or the checkpoint is bad, or the path is outside the allowed roots.
            ModelSizeExceededError: it is larger than the tier serves.
        """
        require_name(name)
        directory = self.resolve(path)
        kind, size = inspect_checkpoint(directory)
        policy.require_model_size(size, max_model_size=context.limits.max_model_size)
        return CheckedPath(directory, kind, size)

    async def register(self, tenant_id: UUID, *, name: str, checked: CheckedPath) -> RegisteredModel:
        """Register a directory that `check_path` accepted; raises ConflictError when the name is taken."""
        return await self.add(
            tenant_id, name=name, path=checked.path, kind=checked.kind, size=checked.size_bytes, source="path"
        )

    async def add(
        self, tenant_id: UUID, *, name: str, path: Path, kind: ModelKind, size: int, source: str
    ) -> RegisteredModel:
        """Remember a model that lies in `path`; raises ConflictError when the name is taken."""
        require_name(name)
        model = RegisteredModel(
            id=uuid7(self._clock),
            tenant_id=tenant_id,
            name=name,
            path=str(path),
            kind=kind,
            size_bytes=size,
            source=source,
            created_at=self._clock.now(),
        )
        await self._store.add(model)
        return model

    async def get(self, tenant_id: UUID, name_or_id: str) -> RegisteredModel:
        """Return one model by name or id; raises NotFoundError, also for somebody else's."""
        for model in await self._store.list(tenant_id):
            if name_or_id in {model.name, str(model.id)}:
                return model
        raise NotFoundError("There is no such model.", kind="model")

    async def list(self, tenant_id: UUID) -> Sequence[RegisteredModel]:
        """Return the tenant's models, oldest first."""
        return await self._store.list(tenant_id)

    async def remove(self, tenant_id: UUID, name_or_id: str) -> RegisteredModel:
        """Forget a model; its files stay with whoever owns them. Raises NotFoundError."""
        model = await self.get(tenant_id, name_or_id)
        if not await self._store.remove(tenant_id=tenant_id, model_id=model.id):  # somebody was faster
            raise NotFoundError("There is no such model.", kind="model")
        return model

    def resolve(self, path: str) -> Path:
        """Return the real directory of a path below an allowed root; ValidationError for anything else.

        The answer is the same for a forbidden path and one that is not there: it is no oracle of the disk.
        """
        refusal = ValidationError("The path is not a model directory below an allowed root.", field="path")
        if "\0" in path:
            raise refusal
        try:
            real = Path(path).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            raise refusal from None
        if not real.is_dir() or not any(real.is_relative_to(root) for root in self._roots):
            raise refusal
        return real


def require_name(name: str) -> None:
    """Refuse a name that could not stand in a URL or a file name."""
    if not NAME.fullmatch(name):
        raise ValidationError(
            "A name has 1 to 100 letters, digits, dots, dashes or underscores and begins with no sign.",
            field="name",
        )


def read_report(model: RegisteredModel) -> dict[str, Any]:
    """Return what its quantization measured: configuration, sizes, quality against the source.

    Raises:
        NotFoundError: the model was not made by a quantization.
    """
    if not is_native(model.path):
        raise NotFoundError(f"{model.name} was not quantized here, so there is no report.", kind="report")
    with open_native(model.path, verify=False) as native:
        return {key: native.manifest.get(key) for key in ("quantization", "metrics", "validation_report")}


def memory_need(model: RegisteredModel, limits: EngineConfig) -> int:
    """Return the bytes that one engine may come to need: its process, the weights, the key-value cache.

    The weights count twice what is stored: they are laid out for the kernels while they are read. The engine
    reports what it has really taken once it runs.

    Raises:
        ValidationError: the checkpoint cannot be read any more.
    """
    if is_native(model.path):
        with open_native(model.path, verify=False) as native:
            config = parse_config(native.checkpoint.config or native.manifest.get("config", {}))
    else:
        with open_checkpoint(model.path, allow_hub=False) as checkpoint:
            config = parse_config(checkpoint.config)
    cache = 0 if config.is_encoder else limits.cache_bytes(config)
    return _PROCESS_BYTES + 2 * model.size_bytes + cache


def inspect_checkpoint(directory: Path) -> tuple[ModelKind, int]:
    """Check a checkpoint and return what it does and its weights' bytes; ValidationError if it is broken."""
    if is_native(directory):
        with open_native(directory) as native:
            config = parse_config(native.checkpoint.config or native.manifest.get("config", {}))
            size = native.checkpoint.total_bytes
    else:
        with open_checkpoint(directory, allow_hub=False) as checkpoint:
            config = parse_config(checkpoint.config)
            size = checkpoint.total_bytes
    return (ModelKind.EMBED if config.is_encoder else ModelKind.GENERATE), size
