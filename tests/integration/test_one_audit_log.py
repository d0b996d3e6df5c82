"""A database has one audit log: a second server with a data directory of its own is refused."""

from __future__ import annotations

import asyncio
import shutil
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from tritium_platform.audit.identity import IDENTITY
from tritium_platform.audit.verify import verify_log
from tritium_platform.changes import tenant_changed
from tritium_platform.cli.app import app
from tritium_platform.compose import initialize_platform
from tritium_platform.config import PlatformConfig
from tritium_platform.errors import PlatformError, ResourceError
from tritium_platform.tenancy.model import TenantTier


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def shared_url(request, tmp_path):
    """The URL of one database for several data directories."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgresql_url_of_one_test")
    return f"sqlite+aiosqlite:///{tmp_path / 'shared.sqlite3'}"


@pytest.fixture
def config(tmp_path, shared_url):
    """Makes the configuration of one data directory over the shared database."""
    return lambda name: PlatformConfig(data_dir=tmp_path / name, database_url=shared_url)


async def change(platform):
    """Make a change that the audit log hears of."""
    await platform.gateway.change(
        lambda: platform.tenancy.create_tenant(organization_name="Acme", tier=TenantTier.TEAM),
        describe=lambda tenant: tenant_changed("tenant.create", tenant),
    )


def entries(platform):
    report = verify_log(platform.config.audit_dir, platform.verifier_key)
    assert report.is_intact
    return report.entries


async def test_the_second_server_is_refused_and_the_first_has_every_entry(config):
    first = await initialize_platform(config("a"), is_audit_required=True, is_bookkeeper_apart=True)
    try:
        await change(first)
        with pytest.raises(
            ResourceError, match=r"in another data directory.*tritiumd audit adopt"
        ) as refused:
            await initialize_platform(config("b"), is_audit_required=True)
        assert str(config("a").audit_dir) in refused.value.message
        # A command that runs there does its work, and leaves the log to the server.
        command = await initialize_platform(config("b"))
        assert command.books.audit is None
        await change(command)
        await command.stop()
        await first.books.audit.recover()
        assert entries(first) == 2
    finally:
        await first.stop()
    assert not (config("b").audit_dir / "checkpoint").exists()
    again = await initialize_platform(config("a"), is_audit_required=True)  # it is not in its own way
    await again.stop()


async def test_a_directory_that_moved_is_the_same_log_and_an_emptied_one_is_not(config, tmp_path):
    first = await initialize_platform(config("a"), is_audit_required=True)
    await first.stop()
    (tmp_path / "a").rename(tmp_path / "moved")
    moved = await initialize_platform(config("moved"), is_audit_required=True)
    await moved.stop()
    shutil.rmtree(config("moved").audit_dir)
    with pytest.raises(ResourceError, match="another data directory"):
        await initialize_platform(config("moved"), is_audit_required=True)


async def test_a_damaged_identity_is_never_taken_for_a_new_one(config):
    first = await initialize_platform(config("a"), is_audit_required=True)
    await first.stop()
    (config("a").audit_dir / IDENTITY).write_text("not an id")
    with pytest.raises(PlatformError, match="damaged"):
        await initialize_platform(config("a"), is_audit_required=True)


async def test_a_log_that_is_lost_is_replaced_by_name_and_that_is_logged(config, tmp_path, shared_url):
    first = await initialize_platform(config("a"), is_audit_required=True)
    await first.stop()
    former = (config("a").audit_dir / IDENTITY).read_text().strip()

    def adopt(instead_of):
        arguments = ["audit", "adopt", "--instead-of", str(instead_of), "--data-dir", str(tmp_path / "b")]
        return invoke([*arguments, "--database-url", shared_url])

    assert (await adopt(uuid4())).exit_code != 0
    with pytest.raises(ResourceError):
        await initialize_platform(config("b"), is_audit_required=True)
    assert (await adopt(former)).exit_code == 0
    second = await initialize_platform(config("b"), is_audit_required=True)
    await second.books.audit.recover()
    assert entries(second) == 1
    await second.stop()
    with pytest.raises(ResourceError, match="another data directory"):
        await initialize_platform(config("a"), is_audit_required=True)


async def invoke(arguments):
    return await asyncio.to_thread(CliRunner().invoke, app, arguments)
