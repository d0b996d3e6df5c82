"""`tritiumd invoice pay` and `tritiumd payment`: being paid, and giving money back."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from tritium.cli.output import FormatOption, OutputFormat, write_json, write_table, write_text
from tritium_platform.cli.billing import MOST_SHOWN, OPERATOR, InvoiceId, TenantId, invoice_group
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

    from tritium_platform.billing.dunning_notice import DunningNotice
    from tritium_platform.billing.payment import PaymentAttempt, PaymentRefund
    from tritium_platform.compose import Platform

payment_group = typer.Typer(no_args_is_help=True, help="Payments and refunds.")
PaymentId = Annotated[str, typer.Argument(help="The payment attempt's id.")]
Amount = Annotated[int | None, typer.Option(min=1, help="Minor units; by default all.")]
Key = Annotated[str | None, typer.Option(help="Names the operation: a second one under it changes nothing.")]


@invoice_group.command("pay")
def pay(
    invoice: InvoiceId,
    *,
    amount_minor: Amount = None,
    key: Key = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Try to be paid for an invoice: by the tenant's payment method, else by a bank transfer."""
    invoice_id = parse_id(invoice)

    async def work(platform: Platform) -> PaymentAttempt:
        return await platform.desk.payments.service.process_payment(
            invoice_id, amount_minor=amount_minor, key=key, actor=OPERATOR
        )

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    _write_attempts([with_platform(config, work)], output_format=output_format)


@payment_group.command("list")
def list_payments(
    *,
    tenant: Annotated[str | None, typer.Option(help="Only those of a tenant, by its id.")] = None,
    after: Annotated[str | None, typer.Option(help="Only older ones than this attempt.")] = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """List attempts to be paid, newest first, up to 100."""
    tenant_id = parse_id(tenant) if tenant else None
    older = parse_id(after) if after else None

    async def work(platform: Platform) -> list[PaymentAttempt]:
        store = platform.desk.books.payments
        return list(await store.list(tenant_id=tenant_id, limit=MOST_SHOWN, after=older))

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    _write_attempts(with_platform(config, work), output_format=output_format)


@payment_group.command("notices")
def list_notices(
    *,
    tenant: Annotated[str | None, typer.Option(help="Only those to a tenant, by its id.")] = None,
    after: Annotated[str | None, typer.Option(help="Only newer ones than this notice.")] = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """List what customers are to be told of declined charges, oldest first, up to 100; json has the texts."""
    tenant_id = parse_id(tenant) if tenant else None
    newer = parse_id(after) if after else None

    async def work(platform: Platform) -> list[DunningNotice]:
        store = platform.desk.books.payments
        return list(await store.notices(tenant_id=tenant_id, limit=MOST_SHOWN, after=newer))

    notices = with_platform(read_config(config_file, data_dir=data_dir, database_url=database_url), work)
    if output_format is OutputFormat.JSON:
        plain = [asdict(each) | {"created_at": each.created_at.isoformat()} for each in notices]
        write_json({"notices": [{name: str(value) for name, value in each.items()} for each in plain]})
    elif output_format is OutputFormat.QUIET:
        write_text("".join(f"{each.id}\n" for each in notices))
    else:
        rows = [
            [str(each.id), f"{each.created_at:%Y-%m-%d}", str(each.tenant_id), each.kind.value, each.subject]
            for each in notices
        ]
        write_table("Notices", ("id", "day", "tenant", "kind", "subject"), rows)


@payment_group.command("method")
def set_method(
    tenant: TenantId,
    *,
    customer: Annotated[str, typer.Option(help="The provider's name for the tenant.")],
    method: Annotated[str, typer.Option(help="The provider's name for what is charged.")],
    provider: Annotated[str, typer.Option(help="The provider.")] = "stripe",
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Let a tenant be charged at a provider from now on; its invoices are charged when they are due."""
    tenant_id = parse_id(tenant)

    async def work(platform: Platform) -> None:
        await platform.tenancy.get_tenant(tenant_id)
        await platform.desk.payments.service.set_method(
            tenant_id, provider=provider, customer=customer, method=method, actor=OPERATOR
        )

    with_platform(read_config(config_file, data_dir=data_dir, database_url=database_url), work)


@payment_group.command("receive")
def receive(
    payment: PaymentId,
    *,
    amount_minor: Annotated[int, typer.Option(min=1, help="Minor units.")],
    reference: Annotated[str, typer.Option(help="What the transfer says.")],
    key: Key = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Note that the transfer came in that an attempt waits for; what is too much becomes credit."""
    attempt_id = parse_id(payment)

    async def work(platform: Platform) -> PaymentAttempt:
        return await platform.desk.payments.service.receive(
            attempt_id, amount_minor=amount_minor, reference=reference, key=key, actor=OPERATOR
        )

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    _write_attempts([with_platform(config, work)], output_format=output_format)


@payment_group.command("cancel")
def cancel(
    payment: PaymentId,
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Give up an attempt that waits for the payer."""
    attempt_id = parse_id(payment)

    async def work(platform: Platform) -> PaymentAttempt:
        return await platform.desk.payments.service.cancel(attempt_id)

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    _write_attempts([with_platform(config, work)], output_format=output_format)


@payment_group.command("refund")
def refund(
    payment: PaymentId,
    *,
    reason: Annotated[str, typer.Option(help="Why; it is written into the audit log.")],
    amount_minor: Amount = None,
    credit_note: Annotated[str | None, typer.Option(help="Pay out a credit note's credit.")] = None,
    key: Key = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Give money back (a bank transfer: note that you did); without a credit note the invoice opens again."""
    attempt_id = parse_id(payment)
    credit_note_id = parse_id(credit_note) if credit_note else None

    async def work(platform: Platform) -> PaymentRefund:
        return await platform.desk.payments.refunds.refund(
            attempt_id,
            amount_minor=amount_minor,
            reason=reason,
            credit_note_id=credit_note_id,
            key=key,
            actor=OPERATOR,
        )

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    made = with_platform(config, work)
    if output_format is OutputFormat.JSON:
        from tritium_platform.api.payment_schemas import refund_out

        write_json(refund_out(made).model_dump(mode="json"))
    elif output_format is OutputFormat.QUIET:
        write_text(f"{made.id}\n")
    else:
        rows = [(str(made.id), made.state.value, str(made.amount_minor), made.reason)]
        write_table("Refund", ("id", "state", "minor units", "reason"), rows)


def _write_attempts(attempts: Sequence[PaymentAttempt], *, output_format: OutputFormat) -> None:
    if output_format is OutputFormat.JSON:
        from tritium_platform.api.payment_schemas import attempt_out

        write_json({"attempts": [attempt_out(each).model_dump(mode="json") for each in attempts]})
    elif output_format is OutputFormat.QUIET:
        write_text("".join(f"{each.id}\n" for each in attempts))
    else:
        from tritium_platform.values import Money

        rows = [
            (
                str(each.id),
                str(each.invoice_id),
                str(each.number),
                each.provider,
                each.state.value,
                str(Money(each.amount_minor, each.currency)),
                str(Money(each.received_minor - each.refunded_minor, each.currency)),
                each.code,
            )
            for each in attempts
        ]
        columns = ("id", "invoice", "attempt", "provider", "state", "asked", "kept", "code")
        write_table("Payments", columns, rows)
