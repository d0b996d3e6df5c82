"""The console as its operator meets it: `tritiumd up`, and Chromium."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import httpx2
import psutil
import pytest

pytestmark = pytest.mark.service
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
    "--window-size=1280,1600",
]
# Where the test's author looks at the pages; nothing is written without it.
PICTURES = os.environ.get("TRITIUM_TEST_PICTURES")
SMALLEST_PICTURE = 5_000


class Browser:
    """Chromium, driven over its debugging pipe: one JSON object and a zero byte per message."""

    def __init__(self, profile):
        command_end, self._commands = os.pipe()
        self._answers, answer_end = os.pipe()
        # The browser wants them as 3 and 4; out of the way of those, they cannot overwrite each other.
        theirs = [fcntl.fcntl(each, fcntl.F_DUPFD, 50) for each in (command_end, answer_end)]
        plumbing = f'exec "$@" 3<&{theirs[0]} 4>&{theirs[1]}'
        command = ["bash", "-c", plumbing, "chromium", CHROMIUM, *FLAGS, f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            [*command, "about:blank"], pass_fds=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for each in (command_end, answer_end, *theirs):
            os.close(each)
        self._number = 0
        self._rest = b""
        self._session = None
        target = next(each for each in self.ask("Target.getTargets")["targetInfos"] if each["type"] == "page")
        attached = self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        self.violations = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **parameters):
        """Send a command and return its result; what the page complains about meanwhile is kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("method") == "Log.entryAdded":
                self.violations.append(answer["params"]["entry"]["text"])
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self):
        while b"\0" not in self._rest:
            piece = os.read(self._answers, 1 << 16)
            assert piece, "the browser is gone"
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def evaluate(self, script):
        """Return the value of a JavaScript expression in the page."""
        result = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def go(self, url):
        """Open an address, following redirects."""
        self.ask("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def wait(self, condition, *, seconds=60):
        """Wait until an expression is true in the page, however often it navigates meanwhile."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError):
                if self.evaluate(condition):
                    return
            time.sleep(0.1)
        raise AssertionError(f"{condition}: {self.evaluate('document.body.innerText')}")

    def picture(self, name):
        """Take a screenshot; return its bytes."""
        content = base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"])
        if PICTURES:
            with open(os.path.join(PICTURES, f"{name}.png"), "wb") as file:  # noqa: PTH118, PTH123
                file.write(content)
        return content

    def close(self):
        """End the browser and everything it started."""
        processes = [psutil.Process(self._process.pid)]
        processes += processes[0].children(recursive=True)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("there is no chromium")
    assert CHROMIUM, "install chromium"
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def up(tmp_path_factory, scripture_llama):
    """What `tritiumd up` printed on a fresh directory."""
    data_dir = tmp_path_factory.mktemp("data")
    command = [sys.executable, "-m", "tritium_platform.cli", "up", "--data-dir", data_dir, "--port", "0"]
    command += ["--model-root", scripture_llama.parent, "--format", "json"]
    environment = {**os.environ, "TRITIUM_THREADS_PER_ENGINE": "1"}
    with (data_dir / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment)
    yield json.loads(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    process.stdout.close()


@pytest.fixture(scope="module")
def shop(up):
    """A client of a tenant with a strange name."""
    with httpx2.Client(base_url=up["url"], headers={"authorization": f"Bearer {up['admin_key']}"}) as admin:
        wish = {"organization_name": "Acme <b>&amp; Sons</b>", "tier": "team"}
        tenant = admin.post("/api/v1/tenants", json=wish).raise_for_status().json()["id"]
        key = admin.post(f"/api/v1/tenants/{tenant}/keys", json={"name": "k"}).raise_for_status().json()
    with httpx2.Client(
        base_url=up["url"], headers={"authorization": f"Bearer {key['key']}"}, timeout=60
    ) as client:
        yield client


def log_in(browser, key):
    browser.evaluate(f"document.getElementById('key').value = {json.dumps(key)}")
    browser.evaluate("document.querySelector('form.login button').click()")


def test_the_console_is_behind_the_operators_key_and_its_headers(up):
    assert up["console"] == f"{up['url']}/console"
    with httpx2.Client() as http:
        answer = http.get(up["console"])
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/login")
        answer = http.get(f"{up['console']}/login")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-frame-options"] == "DENY"
        wrong = http.post(f"{up['console']}/login", data={"key": "btn_admin_" + "0" * 64})
        assert wrong.status_code == 401
        assert "set-cookie" not in wrong.headers
        assert http.get(f"{up['console']}/live").status_code == 401
        right = http.post(f"{up['console']}/login", data={"key": up["admin_key"]})
        assert (right.status_code, right.headers["location"]) == (303, "/console")
        cookie = right.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert up["admin_key"] not in cookie
        assert "Quantizations" in http.get(up["console"]).text


def test_an_operator_logs_in_and_watches_a_quantization_become_a_deployment(
    browser, up, shop, scripture_llama, calibration_text
):
    browser.go(up["console"])
    assert browser.evaluate("location.pathname") == "/console/login"
    assert len(browser.picture("login")) > SMALLEST_PICTURE
    log_in(browser, "wrong")
    browser.wait("document.querySelector('[role=alert]') !== null")
    log_in(browser, up["admin_key"])
    browser.wait("location.pathname === '/console' && document.getElementById('live') !== null")

    shop.post("/api/v1/models", json={"name": "dense", "path": str(scripture_llama)}).raise_for_status()
    shop.post("/api/v1/deployments", json={"model": "dense"}).raise_for_status()
    # A calibration text makes it take longer than the two seconds after which the page looks again.
    config = {"calibration_text": calibration_text[:100_000], "calibration_tokens": 4096}
    wish = {"name": "ternary", "source": {"path": str(scripture_llama)}, "config": config}
    shop.post("/api/v1/quantizations", json=wish).raise_for_status()
    # From here on nobody touches the page: its script brings everything.
    browser.wait("document.querySelector('table.layers') !== null", seconds=120)
    browser.picture("running")
    browser.wait("document.querySelector('.badge.succeeded') !== null", seconds=240)
    shop.post("/api/v1/deployments", json={"model": "ternary"}).raise_for_status()
    body = {"model": "dense", "prompt": "In the", "max_tokens": 8}
    browser.wait("document.querySelectorAll('.badge.ready').length >= 2")
    shop.post("/v1/completions", json=body).raise_for_status()
    text = browser.evaluate("document.body.innerText")
    assert "Acme <b>&amp; Sons</b>" in text
    assert browser.evaluate("document.querySelectorAll('#live b').length") == 0
    browser.wait("document.body.innerText.includes('1 / 1')")
    # What was tried at the login above is there, too.
    browser.wait("document.body.innerText.includes('authentication failure')")
    assert len(browser.picture("overview")) > SMALLEST_PICTURE
    # The name of the ternary model leads to its report.
    browser.evaluate("document.querySelector('#live a').click()")
    browser.wait("document.title.endsWith('quantization report') && document.readyState === 'complete'")
    assert "model.layers.0.self_attn.q_proj" in browser.evaluate("document.body.textContent")
    assert len(browser.picture("report")) > SMALLEST_PICTURE
    browser.go(up["console"])
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.ask("Emulation.setDeviceMetricsOverride", width=420, height=900, deviceScaleFactor=1, mobile=True)
    browser.picture("phone")
    assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_caps_are_a_page_away(browser, up):
    with httpx2.Client(base_url=up["url"], headers={"authorization": f"Bearer {up['admin_key']}"}) as admin:
        for tenant in admin.get("/api/v1/tenants").raise_for_status().json():
            wish = {"amount_minor": 5_000, "currency": "USD"}
            admin.put(f"/api/v1/tenants/{tenant['id']}/spend-cap", json=wish).raise_for_status()
    browser.ask("Emulation.clearDeviceMetricsOverride")
    browser.ask("Emulation.setEmulatedMedia", features=[])
    browser.go(up["console"])
    browser.evaluate("document.querySelector('a[href=\"/console/spending\"]').click()")
    browser.wait("location.pathname === '/console/spending' && document.querySelector('meter') !== null")
    text = browser.evaluate("document.body.innerText")
    assert "Acme <b>&amp; Sons</b>" in text
    assert "50.00 USD" in text
    assert len(browser.picture("spending")) > SMALLEST_PICTURE
    browser.go(up["console"])


def test_nothing_the_pages_bring_is_refused_by_their_own_policy(browser):
    # The one complaint allowed is the answer 401 to the wrong key.
    assert [each for each in browser.violations if "401" not in each] == []


def test_a_script_that_gets_into_the_page_does_not_run(browser, up):
    browser.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.harm = 1\">')"
    )
    browser.evaluate(
        "const tag = document.createElement('script'); tag.textContent = 'window.harm = 1';"
        "document.body.append(tag); 1"
    )
    time.sleep(0.5)
    assert browser.evaluate("window.harm === undefined")


def test_after_the_logout_the_page_is_gone(browser, up):
    browser.evaluate("document.querySelector('header button').click()")
    browser.wait("location.pathname === '/console/login'")
    browser.go(up["console"])
    assert browser.evaluate("location.pathname") == "/console/login"
