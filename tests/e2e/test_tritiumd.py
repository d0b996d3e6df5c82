"""The operator's program, as an operator uses it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import httpx2
import pytest
import tritium_test_programs as programs


def tritiumd(*arguments, **environment):
    return programs.run("tritiumd", *arguments, environment={**os.environ, **environment})


def answer_of(*arguments, **environment):
    done = tritiumd(*arguments, "--format", "json", **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def up(tmp_path_factory, scripture_llama):
    """`tritiumd up` on a fresh directory: (data directory, what it printed)."""
    data_dir = tmp_path_factory.mktemp("data")
    command = [sys.executable, "-m", "tritium_platform.cli", "up", "--data-dir", data_dir, "--port", "0"]
    command += ["--model-root", scripture_llama.parent, "--format", "json"]
    environment = {**os.environ, "TRITIUM_THREADS_PER_ENGINE": "1"}
    with (data_dir / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment)
    yield data_dir, json.loads(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    process.stdout.close()


def test_an_operator_sets_up_a_tenant_that_deploys_chats_and_is_billed(up, harness, scripture_llama):
    data_dir, facts = up
    where = ("--data-dir", data_dir)
    tenant = answer_of("tenant", "create", "Acme", "--tier", "team", "--limit", "monthly_quota=50", *where)
    assert tenant["limit_overrides"] == {"monthly_quota": 50}
    assert answer_of("tenant", "list", *where)["tenants"] == [tenant]
    key = answer_of("key", "create", tenant["id"], "--name", "laptop", *where)
    server = {"TRITIUM_URL": facts["url"], "TRITIUM_API_KEY": key["key"]}
    assert answer_of("model", "register", "m", scripture_llama, **server)["kind"] == "generate"
    assert answer_of("deploy", "create", "m", **server)["state"] == "ready"
    assert [each["name"] for each in answer_of("deploy", "list", **server)["deployments"]] == ["m"]

    with httpx2.Client(base_url=facts["url"], headers={"authorization": f"Bearer {key['key']}"}) as http:
        assert answer_of("alias", "set", "chat", "m", **server)["deployment"] == "m"
        operator = (data_dir / "secrets" / "admin_key").read_bytes().hex()
        of_tenant = ("--tenant", tenant["id"], "--key", f"btn_admin_{operator}", "--url", facts["url"])
        assert answer_of("alias", "set", "best", "chat", *of_tenant)["deployment"] == "m"
        assert [each["name"] for each in answer_of("alias", "list", **server)["aliases"]] == ["best", "chat"]
        assert answer_of("alias", "delete", "best", *of_tenant)["deleted"]
        body = {"model": "chat", "prompt": "In the", "max_tokens": 4}
        used = http.post("/v1/completions", json=body).raise_for_status().json()["usage"]

    def totals():
        usage = answer_of("usage", tenant["id"], *where)
        return {total["meter"]: total["quantity"] for total in usage["totals"]}

    harness.wait_until(lambda: "output_tokens" in totals())  # the server brings it into the books in a moment
    assert totals()["output_tokens"] == used["completion_tokens"]
    preview = answer_of("invoice", "preview", tenant["id"], *where)
    assert preview["total_minor"] == sum(line["amount_minor"] for line in preview["lines"])

    assert answer_of("tenant", "suspend", tenant["id"], *where)["status"] == "suspended"
    with httpx2.Client(base_url=facts["url"], headers={"authorization": f"Bearer {key['key']}"}) as http:
        harness.wait_until(lambda: http.get("/v1/models").status_code == 403)
    assert answer_of("tenant", "resume", tenant["id"], *where)["status"] == "active"
    assert answer_of("key", "revoke", tenant["id"], key["id"], *where)["revoked"]
    with httpx2.Client(base_url=facts["url"], headers={"authorization": f"Bearer {key['key']}"}) as http:
        harness.wait_until(lambda: http.get("/v1/models").status_code == 401)

    def entries():
        report = answer_of("audit", "verify", *where)
        assert report["is_intact"]
        return report["entries"]

    # tenant, key, model, deployment, three of aliases, completion, suspend, 403, resume, revoke, 401
    harness.wait_until(lambda: entries() >= 13)  # what is in the outbox, the server logs in a moment
    assert entries() == 13


def test_the_console_stands_on_the_same_port_behind_the_admin_key(up):
    _, facts = up
    with httpx2.Client(base_url=facts["url"], follow_redirects=True) as http:
        assert "key" in http.get("/console").text.lower()
        assert http.post("/console/login", data={"key": "wrong"}).status_code in {401, 403}


def test_the_openapi_document_names_every_route_and_both_kinds_of_key(up):
    _, facts = up
    with httpx2.Client(base_url=facts["url"]) as http:
        document = http.get("/openapi.json").raise_for_status().json()
    assert set(document["components"]["securitySchemes"]) >= {"TenantKey", "AdminKey"}
    assert {"/v1/chat/completions", "/api/v1/deployments", "/api/v1/invoices/preview"} <= set(
        document["paths"]
    )
    assert document["paths"]["/api/v1/usage"]["get"]["security"] == [{"TenantKey": []}]
    assert "application/problem+json" in json.dumps(document["paths"]["/api/v1/models"]["post"]["responses"])


def test_wrong_use_is_told_in_one_line_and_an_exit_code(tmp_path):
    for arguments, text in (
        (("tenant", "suspend", "nobody"), "not an id"),
        (("tenant", "create", "A", "--limit", "monthly_quota"), "monthly_quota=5"),
        (("tenant", "create", "A", "--limit", "surprise=5"), "is not a limit"),
        (("usage", "01a20640-270d-791e-a575-700f47aec806"), "no such tenant"),
        (("invoice", "preview", "01a20640-270d-791e-a575-700f47aec806", "--period", "x"), "is not a month"),
        (("key", "create", "01a20640-270d-791e-a575-700f47aec806", "--scope", "all"), "scope"),
    ):
        done = tritiumd(*arguments, "--data-dir", tmp_path)
        assert done.returncode == 2, (arguments, done.stderr)
        assert text in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
    done = tritiumd("model", "list", "--url", "http://127.0.0.1:9", "--key", "k")
    assert done.returncode == 5  # later
    assert "is it up" in done.stderr


def test_config_check_names_what_is_wrong(tmp_path):
    fine = answer_of("config", "check", "--data-dir", tmp_path, TRITIUM_PROT="1")
    assert (fine["is_usable"], fine["problems"]) == (True, [])
    assert "TRITIUM_PROT" in fine["unknown_variables"]
    (tmp_path / "c.toml").write_text("port = 99999999\n")
    done = tritiumd("config", "check", "--config", tmp_path / "c.toml")
    assert done.returncode == 2
    assert "port" in done.stderr
    done = tritiumd("config", "check", "--data-dir", tmp_path, TRITIUM_MODEL_ROOTS='["/nowhere"]')
    assert done.returncode == 2
    assert "/nowhere" in done.stdout


def test_a_flag_comes_before_the_environment_and_that_before_the_file(tmp_path):
    (tmp_path / "c.toml").write_text(f'data_dir = "{tmp_path / "file"}"\n')
    answer_of("tenant", "list", "--config", tmp_path / "c.toml")
    assert (tmp_path / "file" / "tritium.sqlite3").exists()
    answer_of(
        "tenant", "list", "--config", tmp_path / "c.toml", TRITIUM_DATA_DIR=str(tmp_path / "environment")
    )
    assert (tmp_path / "environment" / "tritium.sqlite3").exists()
    answer_of("tenant", "list", "--data-dir", tmp_path / "flag", TRITIUM_DATA_DIR=str(tmp_path / "other"))
    assert (tmp_path / "flag" / "tritium.sqlite3").exists()
    assert not (tmp_path / "other").exists()


def test_audit_verify_finds_a_flipped_bit_without_a_server(tmp_path):
    answer_of("tenant", "create", "Acme", "--data-dir", tmp_path)
    bundle = next((tmp_path / "audit" / "tile" / "entries").rglob("*.p/*"))
    content = bytearray(bundle.read_bytes())
    content[40] ^= 1
    bundle.write_bytes(content)
    done = tritiumd("audit", "verify", "--data-dir", tmp_path)
    assert done.returncode == 1
    assert "NOT intact" in done.stdout
