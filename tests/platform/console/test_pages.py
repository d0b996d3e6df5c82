from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from tritium_platform.console.pages import format_number, format_size
from tritium_platform.console.session import ConsoleSessions
from tritium_platform.errors import OverloadedError

VOID = {"meta", "link", "input", "br"}


class Balance(HTMLParser):
    """Finds tags that are not closed in order, and anything a strict policy would not run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        names = {name for name, _ in attrs}
        if "style" in names or any(name.startswith("on") for name in names) or tag == "style":
            self.inline.append(tag)
        if tag == "script" and "src" not in names:
            self.inline.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_page(text: str) -> None:
    parser = Balance()
    parser.feed(text)
    assert (parser.open, parser.inline) == ([], [])


async def test_a_stranger_is_sent_to_the_login(browser):
    answer = await browser.get("/console")
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/login")
    assert (await browser.get("/console/live")).status_code == 401


async def test_the_operator_sees_tenants_models_jobs_and_the_audit_head(operator):
    answer = await operator.get("/console")
    assert answer.status_code == 200
    check_page(answer.text)
    for shown in (
        "1\u202f234 / 1\u202f000\u202f000",
        "56\u202f789",
        "1.5 MB / 100 GB",
        "4.63 MB",
        "1.85",
        "1 / 28",
        "model.layers.0.q_proj",
        "0.1250",
        "4\u202f321",
        "ab" * 32,
        "authentication failure",
        "192.0.2.7",
        "192.0.2.8 until 12:45:00",
    ):
        assert shown in answer.text


async def test_the_name_of_a_ternary_model_leads_to_its_report_whose_page_can_run_nothing(operator):
    address = re.search(r'<a href="([^"]+)">small</a>', (await operator.get("/console")).text)[1]
    answer = await operator.get(address)
    assert (answer.status_code, "the report" in answer.text) == (200, True)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "frame-ancestors 'none'" in policy
    assert policy.endswith("sandbox")
    assert answer.headers["cache-control"] == "no-store"


async def test_a_stranger_sees_no_report_and_an_unknown_one_is_a_page(browser, operator, reports, source):
    address = source.overview.models[0].report
    other = "/console/reports/00000000-0000-0000-0000-000000000001/00000000-0000-0000-0000-000000000009"
    missing = await operator.get(other)
    assert (missing.status_code, "There is no such model." in missing.text) == (404, True)
    reports.error = OverloadedError("The database does not answer.")
    assert (await operator.get(address)).status_code == 503
    reports.error = None
    assert (await operator.get("/console/reports/a/b")).status_code == 422
    await operator.post("/console/logout")
    answer = await browser.get(address)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/login")


async def test_what_a_tenant_calls_itself_is_text_and_never_markup(operator):
    text = (await operator.get("/console")).text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<i>" not in text


async def test_the_live_part_is_the_page_without_its_frame(operator):
    page, live = (await operator.get("/console")).text, (await operator.get("/console/live")).text
    check_page(live)
    assert "<html" not in live
    assert live.strip() in page


async def test_every_answer_forbids_scripts_frames_and_caches(operator):
    for path in ("/console", "/console/live", "/console/login", "/console/static/console.js"):
        headers = (await operator.get(path)).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "no-" in headers["cache-control"]


async def test_the_cookie_is_for_this_site_and_out_of_reach_of_scripts(browser, admin_key):
    answer = await browser.post("/console/login", content=f"key={admin_key}")
    cookie = answer.headers["set-cookie"].lower()
    for attribute in ("httponly", "samesite=strict", "secure", "path=/console"):
        assert attribute in cookie
    assert admin_key not in cookie


@pytest.mark.parametrize("form", ["", "key=", "key=wrong", "other=1", "key=a&key=b", "key=%FF%FE", "\xff"])
async def test_a_wrong_key_is_refused(browser, form):
    answer = await browser.post("/console/login", content=form.encode("latin-1"))
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert "not the operator" in answer.text
    check_page(answer.text)


async def test_a_session_ends_after_eight_hours_and_at_the_logout(operator, clock):
    clock.advance(seconds=8 * 3600 - 1)
    assert (await operator.get("/console")).status_code == 200
    clock.advance(seconds=1)
    assert (await operator.get("/console")).status_code == 303


async def test_a_logout_forgets_the_cookie(operator):
    assert (await operator.post("/console/logout")).status_code == 303
    assert (await operator.get("/console")).status_code == 303


def test_a_forged_cookie_is_refused(admin_key, clock):
    sessions, now = ConsoleSessions(admin_key), clock.now()
    cookie = sessions.log_in(admin_key, now=now)
    expiry, code = cookie.split(".")
    assert sessions.is_valid(cookie, now=now)
    forged = [
        None,
        "",
        ".",
        cookie[:-1],
        f"{int(expiry) + 1}.{code}",
        f"{expiry}.",
        f".{code}",
        "\u00e9.x",
        "9" * 500,
    ]
    assert not any(sessions.is_valid(each, now=now) for each in forged)
    assert not ConsoleSessions("another key").is_valid(cookie, now=now)


async def test_an_empty_platform_is_shown_as_such(operator, source):
    source.overview = replace(
        source.overview,
        tenants=(),
        models=(),
        jobs=(),
        security_events=(),
        blocks=(),
        audit=None,
        is_ready=False,
    )
    answer = await operator.get("/console")
    check_page(answer.text)
    assert answer.text.count("None yet.") == 3
    assert "No entry yet." in answer.text
    assert "not ready" in answer.text


async def test_a_damaged_audit_head_is_shown_as_a_problem(operator, source):
    source.overview = replace(source.overview, audit=None, audit_problem="The signed head cannot be read.")
    assert "The signed head cannot be read." in (await operator.get("/console")).text


async def test_a_database_that_is_away_is_a_page_and_not_a_traceback(operator, source):
    source.error = OverloadedError("The database does not answer.")
    answer = await operator.get("/console")
    assert answer.status_code == 503
    assert "The database does not answer." in answer.text
    check_page(answer.text)


def test_every_class_a_badge_can_have_is_in_the_style_sheet():
    css = (files("tritium_platform.console") / "static" / "console.css").read_text()
    assert set(re.findall(r"\.badge\.([a-z-]+)", css)) >= {"ready", "failed", "succeeded", "suspended"}


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (4_630_000, "4.63 MB"),
        (10**12, "1 TB"),
        (10**16, "1e+04 TB"),
    ],
)
def test_sizes_are_written_in_decimal_units(size, text):
    assert format_size(size) == text


def test_thousands_are_apart():
    assert format_number(1234567) == "1\u202f234\u202f567"
