"""kill -9 of the gateway under load: what a client has seen complete is in the books."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import psutil
import pytest
import tritium_test_programs as programs

CLIENTS = 4
# A machine under load stands still at times, and a start takes a minute.
pytestmark = pytest.mark.timeout(900)


class Daemon:
    """`tritiumd` as an operator runs it."""

    def __init__(self, data_dir, *, command="serve", models):
        self.data_dir = data_dir
        self._models = models
        self._command = command
        self.process = None
        self.url = ""
        self.admin_key = ""

    def start(self):
        environment = {**os.environ, "TRITIUM_THREADS_PER_ENGINE": "1", "TRITIUM_RESERVATION_SECONDS": "3"}
        command = ["tritiumd", self._command, "--data-dir", self.data_dir]
        command += ["--model-root", self._models, "--port", "0", "--format", "json"]
        self.process = programs.start(*command, log=self.data_dir / "log", environment=environment)
        facts = json.loads(self.process.stdout.readline())
        self.url = facts["url"]
        self.admin_key = facts.get("admin_key", self.admin_key)

    def tool(self, *arguments):
        return programs.run("tritiumd", *arguments, "--data-dir", self.data_dir, "--format", "json")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture
def daemon(tmp_path, scripture_llama):
    made = Daemon(tmp_path, models=scripture_llama.parent)
    made.start()
    yield made
    made.stop()


def open_shop(daemon, model_path):
    """Create a tenant with a deployed model; return (tenant id, key)."""
    with httpx2.Client(base_url=daemon.url, headers={"authorization": f"Bearer {daemon.admin_key}"}) as admin:
        wish = {"organization_name": "Acme", "tier": "business"}
        tenant_id = admin.post("/api/v1/tenants", json=wish).raise_for_status().json()["id"]
        key = admin.post(f"/api/v1/tenants/{tenant_id}/keys", json={"name": "k"}).raise_for_status().json()
    with as_tenant(daemon, key["key"]) as http:
        http.post("/api/v1/models", json={"name": "m", "path": str(model_path)}).raise_for_status()
        http.post("/api/v1/deployments", json={"model": "m"}).raise_for_status()
    wait_for_deployment(daemon, key["key"])
    return tenant_id, key["key"]


def engines_of(daemon):
    """The process ids of its engines."""
    children = psutil.Process(daemon.process.pid).children(recursive=True)
    return [child.pid for child in children if "tritium_platform.worker.engine_main" in child.cmdline()]


def as_tenant(daemon, key):
    return httpx2.Client(base_url=daemon.url, headers={"authorization": f"Bearer {key}"}, timeout=30)


def wait_for_deployment(daemon, key):
    with as_tenant(daemon, key) as http:
        for _ in range(600):
            if http.get("/api/v1/deployments/m").json()["state"] == "ready":
                return
            time.sleep(0.1)
    raise AssertionError("the deployment did not become ready")


def official(daemon, key):
    return openai.OpenAI(base_url=f"{daemon.url}/v1", api_key=key, max_retries=0, timeout=60)


def chat_until(stopped, daemon, key, completed):
    with official(daemon, key) as client:
        while not stopped.is_set():
            try:
                answer = client.completions.create(model="m", prompt="In the", max_tokens=3)
                completed.append(answer.usage.completion_tokens)
            except openai.APIError:
                stopped.wait(0.05)


def test_every_completed_answer_is_metered_and_logged_although_the_gateway_was_killed(
    daemon, scripture_llama
):
    tenant_id, key = open_shop(daemon, scripture_llama)
    completed, stopped = [], threading.Event()
    clients = [
        threading.Thread(target=chat_until, args=(stopped, daemon, key, completed)) for _ in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    while len(completed) < 10:
        time.sleep(0.01)
    children = psutil.Process(daemon.process.pid).children(recursive=True)
    daemon.process.kill()
    stopped.set()
    for client in clients:
        client.join()
    daemon.stop()
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert gone
    assert not alive, "an engine outlived the gateway"

    daemon.start()
    wait_for_deployment(daemon, key)
    with as_tenant(daemon, key) as http:
        records = http.get("/api/v1/usage?limit=1000").raise_for_status().json()["records"]
        texts = [record for record in records if record["operation"] == "completion"]
        assert len(texts) >= len(completed)
        assert sum(record["quantities"]["output_tokens"] for record in texts) >= sum(completed)
        # What was held by requests that died with the gateway is given back when its time is over.
        for _ in range(300):
            held = http.get("/api/v1/account").json()["requests_this_month"]["held"]
            if held == 0:
                break
            time.sleep(0.1)
        assert held == 0
    daemon.stop()

    report = json.loads(daemon.tool("audit", "verify").stdout)
    assert report["is_intact"]
    # Tenant, key, model, and one leaf for each use.
    assert report["entries"] >= 3 + len(records)
    usage = json.loads(daemon.tool("usage", tenant_id).stdout)
    totals = {total["meter"]: total["quantity"] for total in usage["totals"]}
    assert totals["output_tokens"] == sum(record["quantities"]["output_tokens"] for record in texts)


def test_a_request_with_a_key_that_died_with_the_gateway_runs_again_and_is_billed_once(
    daemon, harness, scripture_llama
):
    _, key = open_shop(daemon, scripture_llama)
    body = {"model": "m", "prompt": "In the", "max_tokens": 5, "temperature": 2.0, "ignore_eos": True}

    def ask():
        with as_tenant(daemon, key) as http:
            return http.post("/v1/completions", json=body, headers={"idempotency-key": "order-1"})

    def account():
        with as_tenant(daemon, key) as http:
            return http.get("/api/v1/account").raise_for_status().json()["requests_this_month"]

    engines = engines_of(daemon)
    for process_id in engines:  # the request cannot end before the gateway dies
        os.kill(process_id, signal.SIGSTOP)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(ask)
        harness.wait_until(lambda: account()["held"] == 1)
        running = ask()
        assert (running.status_code, running.headers["retry-after"]) == (409, "1")
        daemon.process.kill()
        with pytest.raises(httpx2.HTTPError):
            first.result()
    for process_id in engines:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGCONT)
    daemon.stop()

    daemon.start()
    wait_for_deployment(daemon, key)
    harness.wait_until(lambda: ask().status_code != 409 or time.sleep(1))
    answer, again = ask(), ask()
    assert answer.status_code == 200
    assert answer.headers["idempotency-replayed"] == "true"
    assert answer.content == again.content
    with as_tenant(daemon, key) as http:
        records = http.get("/api/v1/usage?limit=1000").raise_for_status().json()["records"]
    assert [each["quantities"]["output_tokens"] for each in records if each["operation"] == "completion"] == [
        5
    ]
    harness.wait_until(lambda: account()["held"] == 0)
    assert account()["used"] == 2  # the deployment and the completion


def test_sigterm_says_not_ready_finishes_what_runs_and_leaves_with_zero(daemon, harness, scripture_llama):
    _, key = open_shop(daemon, scripture_llama)
    with official(daemon, key) as client, as_tenant(daemon, key) as http:

        def replica():
            return http.get("/api/v1/deployments/m").raise_for_status().json()["replicas"][0]

        # The engine is stopped while the server is told to leave: the stream cannot end before that is seen.
        with ThreadPoolExecutor() as pool, harness.stopped(engines_of(daemon)):
            pieces = pool.submit(
                lambda: list(
                    client.completions.create(
                        model="m",
                        prompt="In the",
                        max_tokens=300,
                        stream=True,
                        extra_body={"ignore_eos": True},
                    )
                )
            )
            harness.wait_until(lambda: replica()["in_flight"] == 1)
            daemon.process.send_signal(signal.SIGTERM)
            harness.wait_until(lambda: http.get("/health/ready").status_code == 503)
        assert pieces.result()[-1].choices[0].finish_reason == "length"
    assert daemon.process.wait(30) == 0
    assert json.loads(daemon.tool("audit", "verify").stdout)["is_intact"]


def test_a_second_server_on_the_same_data_is_refused(daemon, scripture_llama):
    second = daemon.tool("serve", "--port", "0")
    assert second.returncode == 4
    assert "Another server" in second.stderr


def test_no_key_and_no_prompt_reaches_the_log(daemon, scripture_llama):
    _, key = open_shop(daemon, scripture_llama)
    other = key[:-1] + ("1" if key.endswith("0") else "0")
    with official(daemon, key) as client, official(daemon, other) as stranger:
        answer = client.completions.create(model="m", prompt="a very secret prompt of mine", max_tokens=20)
        with pytest.raises(openai.APIError):
            client.completions.create(model="unknown-model", prompt="another secret prompt", max_tokens=2)
        with pytest.raises(openai.APIError):
            client.post("/completions", content=b'{"model": "m", "prompt": "broken secret', cast_to=object)
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
    daemon.stop()
    log = (daemon.data_dir / "log").read_text()
    assert '"event": "request"' in log
    assert '"request_id"' in log
    secret = key.removeprefix("btn_live_").split("_")[1]
    for forbidden in (secret, key, daemon.admin_key, "secret", answer.choices[0].text):
        assert forbidden not in log
    assert all(json.loads(line) for line in log.splitlines())
