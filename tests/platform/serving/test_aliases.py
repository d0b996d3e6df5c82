"""Names that stand for deployments: where they lead, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_platform.adapters.memory.alias_store import MemoryAliasStore
from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.model_store import MemoryDeploymentStore
from tritium_platform.errors import ConflictError, NotFoundError, RequestTooLargeError, ValidationError
from tritium_platform.serving.aliases import MAX_ALIASES, AliasService, follow
from tritium_platform.serving.model import Deployment
from tritium_platform.values import uuid7


class Names:
    """A tenant with deployments `one` and `two`."""

    def __init__(self):
        self.clock, database = ManualClock(), MemoryDatabase()
        self.tenant_id = uuid7(self.clock)
        self.deployments = MemoryDeploymentStore(database)
        self.store = MemoryAliasStore(database)
        self.service = self.new_service()

    def new_service(self):
        return AliasService(store=self.store, deployments=self.deployments, clock=self.clock)

    async def deploy(self, *names):
        for name in names:
            deployment = Deployment(
                id=uuid7(self.clock),
                tenant_id=self.tenant_id,
                model_id=uuid7(self.clock),
                name=name,
                replicas=1,
                threads=1,
                memory_limit_bytes=0,
                created_at=self.clock.now(),
            )
            await self.deployments.add(deployment)
        return self

    async def point(self, name, target):
        self.service.publish(await self.service.put(self.tenant_id, name=name, target=target))

    def resolve(self, name):
        return self.service.resolve(self.tenant_id, name)


async def test_an_alias_leads_to_its_deployment_also_by_way_of_another_and_after_a_restart():
    names = await Names().deploy("one", "two")
    await names.point("stable", "one")
    await names.point("default", "stable")
    assert names.resolve("default") == "one"
    assert names.resolve("one") == "one"
    assert names.resolve("unknown") == "unknown"
    assert names.service.resolve(uuid7(names.clock), "default") == "default"  # another tenant's is another's
    await names.point("stable", "two")
    assert names.resolve("default") == "two"
    again = names.new_service()
    await again.load()
    assert again.resolve(names.tenant_id, "default") == "two"


async def test_an_alias_is_seen_when_it_is_published_and_not_before():
    names = await Names().deploy("one")
    alias = await names.service.put(names.tenant_id, name="chat", target="one")
    assert names.resolve("chat") == "chat"
    names.service.publish(alias)
    assert names.resolve("chat") == "one"
    names.service.withdraw(alias)
    assert names.resolve("chat") == "chat"


async def test_circles_loose_ends_and_taken_names_are_refused_by_name():
    names = await Names().deploy("one", "two")
    await names.point("a", "one")
    await names.point("b", "a")
    await names.point("c", "b")
    for name, target, error, words in (
        ("a", "c", ValidationError, "a would lead to itself by way of c"),
        ("a", "a", ValidationError, "a would lead to itself"),
        ("new", "new", ValidationError, "new would lead to itself"),
        ("d", "three", NotFoundError, "there is no three"),
        ("one", "two", ConflictError, "deployment with the name one"),
        ("-d", "one", ValidationError, "A name has"),
    ):
        with pytest.raises(error, match=words):
            await names.service.put(names.tenant_id, name=name, target=target)
    with pytest.raises(ConflictError, match="b is what c stands for"):
        await names.service.remove(names.tenant_id, "b")
    with pytest.raises(ConflictError, match="one is what a stands for"):
        await names.service.require_unused(names.tenant_id, "one")
    with pytest.raises(ConflictError, match="alias with the name a"):
        await names.service.require_free(names.tenant_id, "a")
    with pytest.raises(NotFoundError):
        await names.service.remove(names.tenant_id, "d")
    assert (await names.service.remove(names.tenant_id, "c")).target == "b"


async def test_a_tenant_has_a_bounded_number_of_aliases_and_can_still_turn_them():
    names = await Names().deploy("one", "two")
    for number in range(MAX_ALIASES):
        await names.point(f"a{number}", "one")
    with pytest.raises(RequestTooLargeError):
        await names.point("more", "one")
    await names.point("a0", "two")
    assert names.resolve("a0") == "two"


@given(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("abcdefxyz")), st.sampled_from("abcdefxyz"))
def test_every_chain_ends_and_one_that_comes_back_ends_where_it_began(targets, name):
    seen, place = [name], name
    while place in targets and targets[place] not in seen:
        place = targets[place]
        seen.append(place)
    is_circle = place in targets
    assert follow(targets, name) == (name if is_circle else place)
