"""`tritiumd price` and `tritiumd journal`: plans, contracts, and the journal for other programs."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

import json
import tomllib
from datetime import UTC, datetime
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritium.cli.output import FormatOption, OutputFormat, write_json, write_table, write_text
from tritium.errors import ValidationError
from tritium_platform.cli.billing import OPERATOR
from tritium_platform.cli.common import (
    ConfigFile,
    DatabaseUrl,
    DataDir,
    parse_id,
    read_config,
    with_platform,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium_platform.billing.contract import Contract
    from tritium_platform.billing.journal import JournalGroup
    from tritium_platform.billing.rating.plan import Plan
    from tritium_platform.compose import Platform

price_group = typer.Typer(no_args_is_help=True, help="Plans and contracts.")
plan_group = typer.Typer(no_args_is_help=True, help="Plans: prices that never change.")
journal_group = typer.Typer(no_args_is_help=True, help="The journal of double entry.")
price_group.add_typer(plan_group, name="plan")
MOST_SHOWN = 100


@journal_group.callback()
def _group() -> None:
    """Write the journal for other programs."""


@plan_group.command("add")
def add_plan(
    file: Annotated[Path, typer.Argument(help="The plan as JSON or TOML.", exists=True, dir_okay=False)],
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Publish a plan and show its id; the same content again is the same plan."""
    from tritium_platform.billing.rating.plan_json import plan_from_dict

    plan = plan_from_dict(_read(file))

    async def work(platform: Platform) -> str:
        return await platform.desk.plans.publish(plan, actor=OPERATOR)

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    identity = with_platform(config, work)
    if output_format is OutputFormat.JSON:
        write_json({"id": identity})
    else:
        write_text(f"{identity}\n")


@plan_group.command("list")
def list_plans(
    *,
    after: Annotated[str | None, typer.Option(help="Only those after this id.")] = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """List plans by their ids, up to 100."""
    from tritium_platform.billing.rating.plan_json import plan_id

    async def work(platform: Platform) -> Sequence[Plan]:
        return await platform.desk.plans.list(limit=MOST_SHOWN, after=after)

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    rows = [(plan_id(plan), plan.name, plan.currency) for plan in with_platform(config, work)]
    if output_format is OutputFormat.JSON:
        write_json({"plans": [dict(zip(("id", "name", "currency"), row, strict=True)) for row in rows]})
    elif output_format is OutputFormat.QUIET:
        write_text("".join(f"{identity}\n" for identity, _, _ in rows))
    else:
        write_table("Plans", ("id", "name", "currency"), rows)


@plan_group.command("show")
def show_plan(
    plan: Annotated[str, typer.Argument(help="The plan's id.")],
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show a plan in its canonical form, as JSON."""
    from tritium_platform.billing.rating.plan_json import plan_to_dict

    async def work(platform: Platform) -> Plan:
        return await platform.desk.plans.get(plan)

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    write_json(plan_to_dict(with_platform(config, work)))


@price_group.command("contract")
def conclude(
    tenant: Annotated[str, typer.Argument(help="The tenant's id.")],
    plan: Annotated[str, typer.Argument(help="The plan's id.")],
    *,
    starts_at: Annotated[str, typer.Option(help="From which instant on, such as 2026-12-17T00:00:00+00:00.")],
    ends_at: Annotated[str | None, typer.Option(help="Until when; by default until another one.")] = None,
    payment_days: Annotated[int, typer.Option(help="Days until an invoice is due.")] = 14,
    jurisdiction: Annotated[str, typer.Option(help="Where the tenant is taxed, such as DE.")] = "",
    tax_id: Annotated[str, typer.Option(help="The tenant's tax id.")] = "",
    reverse_charge: Annotated[bool, typer.Option(help="The tenant owes the tax itself.")] = False,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Conclude a contract that pins a plan for a tenant."""
    from tritium_platform.billing.rating.tax import TaxStatus

    tenant_id, start = parse_id(tenant), parse_moment(starts_at)
    end = parse_moment(ends_at) if ends_at else None
    status = TaxStatus(jurisdiction, reverse_charge, tax_id)

    async def work(platform: Platform) -> Contract:
        await platform.tenancy.get_tenant(tenant_id)
        return await platform.desk.plans.conclude(
            tenant_id,
            plan=plan,
            starts_at=start,
            ends_at=end,
            payment_days=payment_days,
            tax=status,
            actor=OPERATOR,
        )

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    contract = with_platform(config, work)
    if output_format is OutputFormat.JSON:
        from tritium_platform.api.money_schemas import contract_out

        write_json(contract_out(contract).model_dump(mode="json"))
    else:
        write_text(f"{contract.id}\n")


@price_group.command("contracts")
def list_contracts(
    tenant: Annotated[str, typer.Argument(help="The tenant's id.")],
    *,
    after: Annotated[str | None, typer.Option(help="Only those that start after this contract.")] = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """List a tenant's contracts by their starts, oldest first, up to 100."""
    tenant_id, later = parse_id(tenant), parse_id(after) if after else None

    async def work(platform: Platform) -> Sequence[Contract]:
        await platform.tenancy.get_tenant(tenant_id)
        return await platform.desk.plans.contracts(tenant_id, limit=MOST_SHOWN, after=later)

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    contracts = with_platform(config, work)
    if output_format is OutputFormat.JSON:
        from tritium_platform.api.money_schemas import contract_out

        write_json({"contracts": [contract_out(each).model_dump(mode="json") for each in contracts]})
    elif output_format is OutputFormat.QUIET:
        write_text("".join(f"{each.id}\n" for each in contracts))
    else:
        rows = [
            (
                str(each.id),
                each.plan_id,
                f"{each.starts_at:%Y-%m-%d}",
                f"{each.ends_at:%Y-%m-%d}" if each.ends_at else "open",
                each.tax.jurisdiction,
            )
            for each in contracts
        ]
        write_table("Contracts", ("id", "plan", "starts", "ends", "taxed in"), rows)


@journal_group.command("export")
def export(
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Write the whole journal as text for beancount."""
    from tritium_platform.billing.beancount import write_beancount

    async def work(platform: Platform) -> Sequence[JournalGroup]:
        return await platform.desk.whole_journal()

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    write_text("".join(f"{line}\n" for line in write_beancount(with_platform(config, work))))


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        plain = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ValidationError(f"{file} cannot be read as a plan: {error}.") from error
    if not isinstance(plain, dict):
        raise ValidationError(f"{file} is not a plan: a plan is an object.")
    return plain


def parse_moment(text: str) -> datetime:
    """Read an instant; ValidationError if it is none, or outside of the calendar in UTC."""
    try:
        moment = datetime.fromisoformat(text)
        moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValidationError(f"'{text[:40]}' is not an instant: write 2026-12-01T00:00:00+00:00.") from None
    return moment
