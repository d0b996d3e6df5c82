"""Wires what keeps models in memory and runs them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium.engine.config import EngineConfig
from tritium.model.tokenizer import Tokenizer
from tritium_platform.adapters.engine_options import EngineOptions
from tritium_platform.adapters.engine_process import EngineProcess
from tritium_platform.adapters.sql.alias_store import SqlAliasStore
from tritium_platform.adapters.sql.model_store import SqlDeploymentStore
from tritium_platform.adapters.trace_analyst import new_trace
from tritium_platform.serving.aliases import AliasService
from tritium_platform.serving.deployments import DeploymentService, ServingLimits
from tritium_platform.serving.inference import InferenceService
from tritium_platform.serving.residency import Residency
from tritium_platform.serving.swapping import SwapService

if TYPE_CHECKING:
    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.config import PlatformConfig
    from tritium_platform.serving.registry import RegistryService
    from tritium_platform.serving.replica import ReplicaLauncher
    from tritium_platform.values import Clock

# Unix socket paths end at 107 bytes; the longest name we append has about 40.


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What keeps models in memory and runs them."""

    aliases: AliasService
    residency: Residency
    deployments: DeploymentService
    swaps: SwapService
    inference: InferenceService


def open_serving(
    config: PlatformConfig,
    *,
    database: Database,
    registry: RegistryService,
    launch: ReplicaLauncher | None,
    clock: Clock,
) -> Serving:
    """Return deployments, aliases and what loads and runs them."""
    store = SqlDeploymentStore(database)
    aliases = AliasService(store=SqlAliasStore(database), deployments=store, clock=clock)
    residency = Residency(
        budget_bytes=config.models_memory_bytes,
        load_seconds=config.model_load_seconds,
        idle_seconds=config.model_idle_seconds,
        drain_seconds=config.drain_seconds,
        clock=clock,
    )
    deployments = DeploymentService(
        store=store,
        registry=registry,
        aliases=aliases,
        residency=residency,
        launch=launch or _process_launcher(config),
        clock=clock,
        limits=ServingLimits(
            threads=config.threads_per_engine,
            cores=os.cpu_count() or 1,
            memory_bytes=config.engine_memory_bytes,
            engine=_engine_limits(config),
        ),
    )
    swaps = SwapService(
        store=store,
        registry=registry,
        deployments=deployments,
        residency=residency,
        load_seconds=config.model_load_seconds,
    )
    inference = InferenceService(
        deployments=deployments, registry=registry, aliases=aliases, load_tokenizer=Tokenizer
    )
    return Serving(
        aliases=aliases, residency=residency, deployments=deployments, swaps=swaps, inference=inference
    )


def _engine_limits(config: PlatformConfig) -> EngineConfig:
    """Return the limits of an engine: a tenant may fill half of the places to wait.

    They are as many as the highest tier has requests at a time.
    """
    return EngineConfig(
        max_running=config.engine_max_running,
        max_batched_tokens=config.engine_max_batched_tokens,
        kv_cache_bytes=config.engine_kv_cache_bytes,
        latency_seconds=config.engine_latency_seconds,
        tuning=config.engine_tuning,
        max_waiting=512,
        max_waiting_seconds=60.0,
    )


def _process_launcher(config: PlatformConfig) -> ReplicaLauncher:
    def launch(*, name: str, model_path: str, threads: int, memory_limit_bytes: int) -> EngineProcess:
        options = EngineOptions(
            threads=threads,
            memory_limit_bytes=memory_limit_bytes,
            limits=_engine_limits(config),
            trace=new_trace(config.traces_dir, name) if config.engine_traces else None,
            shares_processor=config.engine_cpu_shares,
            log_level=config.log_level,
        )
        return EngineProcess(name=name, model_path=model_path, options=options)

    return launch
