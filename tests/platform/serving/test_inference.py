"""Inference for tenants, with fakes in the place of engines and the registry."""

from __future__ import annotations

from types import SimpleNamespace
from uuid import UUID

import pytest

from tritium.model.tokenizer import Tokenizer
from tritium_platform.errors import ValidationError
from tritium_platform.serving.inference import InferenceService
from tritium_platform.tenancy.model import TIER_LIMITS, Scope, TenantContext, TenantTier

CONTEXT = TenantContext(
    tenant_id=UUID(int=1),
    organization_name="Acme",
    tier=TenantTier.TEAM,
    limits=TIER_LIMITS[TenantTier.TEAM],
    key_id="key",
    scopes=frozenset({Scope.INFERENCE}),
)


class Pool:
    deployment = SimpleNamespace(name="m", model_id=UUID(int=2))

    def choose(self):
        return SimpleNamespace(status=SimpleNamespace(facts=SimpleNamespace(kind="x", maximum_positions=128)))

    def note_tier(self, tier):
        pass


class Deployments:
    async def lease(self, tenant_id, name, *, version):
        return SimpleNamespace(pool=Pool(), release=lambda: None)


class Registry:
    def __init__(self, path):
        self.path = path

    async def get(self, tenant_id, model_id):
        return SimpleNamespace(path=str(self.path))


@pytest.mark.parametrize("failure", [OSError("the disk is away"), ValidationError("The file is damaged.")])
async def test_a_tokenizer_that_could_not_be_read_is_read_again_by_the_next_request(scripture_llama, failure):
    tries = []

    def load(path):
        tries.append(path)
        if len(tries) == 1:
            raise failure
        return Tokenizer(path)

    service = InferenceService(
        deployments=Deployments(),
        registry=Registry(scripture_llama),
        aliases=SimpleNamespace(resolve=lambda tenant_id, model: model),
        load_tokenizer=load,
    )
    with pytest.raises(type(failure)):
        await service.tokenize(CONTEXT, model="m", prompt="In the")
    for _ in range(2):
        assert (await service.tokenize(CONTEXT, model="m", prompt="In the")).token_ids
    assert len(tries) == 2
