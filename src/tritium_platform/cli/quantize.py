"""`tritiumd model quantize` and `model cancel`: a tenant's quantizations, through a running server."""

from __future__ import annotations

import json
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Annotated, Any

import typer

from tritium.cli.output import FormatOption, OutputFormat, progress_bar, write_json, write_note, write_text
from tritium.cli.report import write_report
from tritium.errors import ProcessingError, ValidationError
from tritium_platform.cli.client import ServerClient
from tritium_platform.cli.models import LOCAL, Key, Url

Source = Annotated[
    Path, typer.Argument(help="The checkpoint's directory, below an allowed root of the server.")
]
IsUpload = Annotated[bool, typer.Option("--upload", help="Send the directory from this machine instead.")]
IsDetached = Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")]
Settings = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="JSON of QuantizationConfig's fields.")
]
Calibration = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Text whose activations judge each layer.")
]
Validation = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Held-out text both models are run on afterwards.")
]
PLACE = "/api/v1/quantizations"
POLL_SECONDS = 0.25
FINAL = frozenset({"succeeded", "failed", "cancelled"})


def quantize_model(
    name: Annotated[str, typer.Argument(help="The new model's name.")],
    source: Source,
    *,
    key: Key,
    is_upload: IsUpload = False,
    is_detached: IsDetached = False,
    settings: Settings = None,
    calibration: Calibration = None,
    validation: Validation = None,
    url: Url = LOCAL,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Quantize a checkpoint on the server and report what came of it."""
    config = {} if settings is None else _read_settings(settings)
    for field, file in (("calibration_text", calibration), ("validation_text", validation)):
        if file is not None:
            config[field] = _read_text(file)
    client = ServerClient(url, key=key)
    place = {"upload": _upload(client, source)} if is_upload else {"path": str(source.absolute())}
    job = client.post(PLACE, {"name": name, "source": place, "config": config})
    if is_detached:
        _write_job(job, output_format)
        return
    try:
        _follow(client, job["id"], output_format)
    except KeyboardInterrupt:
        write_note(f"The server goes on. To stop it: tritiumd model cancel {job['id']}")
        raise
    finally:
        if is_upload and client.get(f"{PLACE}/", job["id"])["state"] in FINAL:
            client.delete("/api/v1/uploads/", place["upload"])
    report = client.get(f"/api/v1/models/{job['id']}/report")
    if output_format is OutputFormat.JSON:
        write_json({"id": job["id"], "name": name, **report})
    elif output_format is OutputFormat.QUIET:
        write_text(f"{job['id']}\n")
    else:
        write_report(name, metrics=report["metrics"], validation=report["validation_report"])


def cancel_quantization(
    quantization: Annotated[str, typer.Argument(help="The quantization's id.")],
    *,
    key: Key,
    url: Url = LOCAL,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Stop a quantization before its next layer."""
    _write_job(ServerClient(url, key=key).delete(f"{PLACE}/", quantization), output_format)


def _follow(client: ServerClient, job_id: str, output_format: OutputFormat) -> None:
    """Show the layers of a job until it is over; an end without a model is an error."""
    with progress_bar(output_format) as move:
        while (job := client.get(f"{PLACE}/", job_id))["state"] not in FINAL:
            layers = job["layers"]
            what = f"layer {layers[-1]['name']}" if layers else _waiting(job)
            move(what, len(layers), job["total_layers"] or 0)
            time.sleep(POLL_SECONDS)
    if job["state"] == "cancelled":
        raise ProcessingError("The quantization was cancelled.")
    if job["state"] == "failed":
        raise ProcessingError(f"The quantization failed: {job['error_message']}")


def _waiting(job: dict[str, Any]) -> str:
    expected = job["expected"]
    return f"{job['state']}, expected by {expected['at']}" if expected else str(job["state"])


def _upload(client: ServerClient, source: Path) -> str:
    """Send a directory as one ZIP archive and return the upload's id."""
    if not source.is_dir():
        raise ValidationError(f"{source} is not a directory.", file=source.name)
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # weights do not compress
            for path in sorted(source.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(source))
        return str(client.upload("/api/v1/uploads", file)["id"])


def _write_job(job: dict[str, Any], output_format: OutputFormat) -> None:
    if output_format is OutputFormat.JSON:
        write_json(job)
    elif output_format is OutputFormat.QUIET:
        write_text(f"{job['id']}\n")
    else:
        expected = job["expected"]
        until = f" Expected by {expected['at']}, nine in ten: by {expected['latest']}." if expected else ""
        write_text(f"Quantization {job['id']} of {job['name']}: {job['state']}.{until}\n")


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        settings = json.loads(_read_text(file))
    except ValueError as error:
        raise ValidationError(f"{file} is not JSON: {error}.", file=file.name) from error
    if not isinstance(settings, dict):
        raise ValidationError(f"{file} must hold one JSON object.", file=file.name)
    return settings


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ValidationError(f"{file} cannot be read: {error.strerror}.", file=file.name) from error
    except UnicodeDecodeError as error:
        raise ValidationError(f"{file} is not text in UTF-8.", file=file.name) from error
