"""`tritiumd model` and `tritiumd deploy`: a tenant's models and deployments, through a running server."""

from __future__ import annotations

import time
from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritium.cli.output import (
    FormatOption,
    OutputFormat,
    readable_bytes,
    write_facts,
    write_json,
    write_table,
    write_text,
)
from tritium.errors import ProcessingError
from tritium_platform.cli.client import ServerClient
from tritium_platform.cli.common import parse_id
from tritium_platform.cli.operator import AdminKey, operator_client

if TYPE_CHECKING:
    from collections.abc import Sequence

model_group = typer.Typer(no_args_is_help=True, help="A tenant's models.")
deploy_group = typer.Typer(no_args_is_help=True, help="A tenant's deployments.")
Url = Annotated[str, typer.Option(envvar="TRITIUM_URL", help="Where the platform listens.")]
Key = Annotated[str, typer.Option(envvar="TRITIUM_API_KEY", help="The tenant's API key.", show_default=False)]
DeploymentName = Annotated[str, typer.Argument(help="The deployment's name or id.")]
ModelName = Annotated[str, typer.Argument(help="The model's name or id.")]
LOCAL = "http://127.0.0.1:8000"
POLL_SECONDS = 0.2


@model_group.command("register")
def register_model(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    path: Annotated[Path, typer.Argument(help="Its directory, below an allowed root of the server.")],
    *,
    key: Key,
    url: Url = LOCAL,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Register a checkpoint directory on the server's disk."""
    made = ServerClient(url, key=key).post("/api/v1/models", {"name": name, "path": str(path.absolute())})
    _write_one(made, output_format, title="Registered")


@model_group.command("list")
def list_models(*, key: Key, url: Url = LOCAL, output_format: FormatOption = OutputFormat.HUMAN) -> None:
    """List the models."""
    models = ServerClient(url, key=key).get("/api/v1/models")
    rows = [(each["name"], each["kind"], readable_bytes(each["size_bytes"]), each["id"]) for each in models]
    _write_many("models", models, output_format, columns=("name", "kind", "size", "id"), rows=rows)


@model_group.command("delete")
def delete_model(
    model: ModelName, *, key: Key, url: Url = LOCAL, output_format: FormatOption = OutputFormat.HUMAN
) -> None:
    """Forget a model that is not deployed."""
    ServerClient(url, key=key).delete("/api/v1/models/", model)
    _write_one({"name": model, "deleted": True}, output_format, title="Deleted")


@deploy_group.command("create")
def create_deployment(
    model: ModelName,
    *,
    key: Key,
    name: Annotated[str | None, typer.Option(help="The deployment's name; by default the model's.")] = None,
    replicas: Annotated[
        int, typer.Option(min=1, max=8, help="Engine processes that share its requests.")
    ] = 1,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until it is ready; 0: do not.")] = 60.0,
    url: Url = LOCAL,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Deploy a model."""
    client = ServerClient(url, key=key)
    made = client.post("/api/v1/deployments", {"model": model, "name": name, "replicas": replicas})
    deadline = time.monotonic() + wait
    while wait and made["state"] != "ready":
        errors = sorted({replica["last_error"] for replica in made["replicas"] if replica["last_error"]})
        if made["state"] == "failed" or time.monotonic() > deadline:
            reason = "; ".join(errors) or f"it is still {made['state']}"
            raise ProcessingError(f"The deployment {made['name']} is not ready: {reason}.")
        time.sleep(POLL_SECONDS)
        made = client.get("/api/v1/deployments/", made["id"])
    _write_one(made, output_format, title="Deployed")


@deploy_group.command("list")
def list_deployments(*, key: Key, url: Url = LOCAL, output_format: FormatOption = OutputFormat.HUMAN) -> None:
    """List the deployments."""
    found = ServerClient(url, key=key).get("/api/v1/deployments")
    rows = [(each["name"], each["state"], str(len(each["replicas"])), each["id"]) for each in found]
    _write_many("deployments", found, output_format, columns=("name", "state", "replicas", "id"), rows=rows)


@deploy_group.command("swap")
def swap_model(
    deployment: DeploymentName,
    model: ModelName,
    *,
    key: Key,
    url: Url = LOCAL,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Give a deployment another model without a gap; if it cannot be loaded, the old one stays."""
    changed = ServerClient(url, key=key).patch("/api/v1/deployments/", deployment, {"model": model})
    _write_one(changed, output_format, title="Swapped")


@deploy_group.command("pin")
def pin_deployment(
    deployment: DeploymentName,
    *,
    tenant: Annotated[str, typer.Option("--tenant", help="The tenant's id.")],
    key: AdminKey = None,
    release: Annotated[bool, typer.Option("--release", help="Let it leave memory again.")] = False,
    url: Url = LOCAL,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Keep a tenant's deployment in memory whoever else wants the room; for the operator."""
    address = f"/api/v1/tenants/{parse_id(tenant)}/deployments/"
    changed = operator_client(url, key=key).patch(address, deployment, {"is_pinned": not release})
    _write_one(changed, output_format, title="Released" if release else "Pinned")


@deploy_group.command("delete")
def delete_deployment(
    deployment: DeploymentName,
    *,
    key: Key,
    url: Url = LOCAL,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Take a deployment out of use; what it runs is finished first."""
    gone = ServerClient(url, key=key).delete("/api/v1/deployments/", deployment)
    _write_one(gone, output_format, title="Deleted")


def _write_one(thing: dict[str, Any], output_format: OutputFormat, *, title: str) -> None:
    if output_format is OutputFormat.JSON:
        write_json(thing)
    elif output_format is OutputFormat.QUIET:
        write_text(f"{thing.get('id', thing.get('name', ''))}\n")
    else:
        facts = [(name, str(value)) for name, value in thing.items() if not isinstance(value, list)]
        write_facts(title, facts)


def _write_many(
    kind: str,
    things: list[dict[str, Any]],
    output_format: OutputFormat,
    *,
    columns: tuple[str, ...],
    rows: Sequence[Sequence[str]],
) -> None:
    if output_format is OutputFormat.JSON:
        write_json({kind: things})
    elif output_format is OutputFormat.QUIET:
        write_text("".join(f"{each['id']}\n" for each in things))
    else:
        write_table(kind.capitalize(), columns, rows)
