"""The commands under one name."""

from __future__ import annotations

import typer

from tritium_platform.cli import audit, billing, models, run, tenants

app = typer.Typer(
    name="tritiumd",
    help="Serves ternary models to many tenants and keeps the books.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich would make --help three times as slow
    pretty_exceptions_enable=False,  # its traceback prints local variables, and with them secrets
)
app.command()(run.up)
app.command()(run.serve)
app.command()(run.worker)
app.command()(run.migrate)
app.command()(billing.usage)
for name, group in (
    ("config", run.config_group),
    ("tenant", tenants.tenant_group),
    ("key", tenants.key_group),
    ("model", models.model_group),
    ("deploy", models.deploy_group),
    ("invoice", billing.invoice_group),
    ("audit", audit.audit_group),
):
    app.add_typer(group, name=name)
