"""The commands under one name."""

from __future__ import annotations

import typer

from tritium_platform.cli import (
    aliases,
    audit,
    billing,
    capacity,
    compliance,
    documents,
    fairuse,
    health,
    models,
    payments,
    prepaid,
    prices,
    quantize,
    recommend,
    reconcile,
    retention,
    run,
    spending,
    tenants,
    usage,
    usage_series,
)

app = typer.Typer(
    name="tritiumd",
    help="Serves ternary models to many tenants and keeps the books.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich would make --help three times as slow
    pretty_exceptions_enable=False,  # its traceback prints local variables, and with them secrets
)
app.command("up")(run.up)
app.command("serve")(run.serve)
app.command("gateway")(run.gateway)
app.command()(run.worker)
app.command()(run.migrate)
app.command()(recommend.recommend)
app.command()(reconcile.reconcile)
app.command("reconciliations")(reconcile.list_runs)
usage.usage_group.command("series")(usage_series.series)
usage.usage_group.command("summary")(usage_series.summary)
models.model_group.command("quantize")(quantize.quantize_model)
models.model_group.command("cancel")(quantize.cancel_quantization)
for name, group in (
    ("config", run.config_group),
    ("tenant", tenants.tenant_group),
    ("key", tenants.key_group),
    ("spend", spending.spend_group),
    ("model", models.model_group),
    ("deploy", models.deploy_group),
    ("alias", aliases.alias_group),
    ("capacity", capacity.capacity_group),
    ("fairuse", fairuse.fairuse_group),
    ("usage", usage.usage_group),
    ("health", health.health_group),
    ("invoice", billing.invoice_group),
    ("credit", prepaid.credit_group),
    ("credit-note", documents.credit_note_group),
    ("payment", payments.payment_group),
    ("price", prices.price_group),
    ("journal", prices.journal_group),
    ("audit", audit.audit_group),
    ("compliance", compliance.compliance_group),
    ("retention", retention.retention_group),
):
    app.add_typer(group, name=name)
