"""Files and batches that lie, are broken or somebody else's: a clear 4xx, and nothing stays behind."""

from __future__ import annotations

import json
import uuid

import pytest

FILE_LIMIT = 100_000
FORM = {"purpose": "batch"}
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": "a"}}
CONTENT = json.dumps(LINE).encode() + b"\n"


# A client of ours would not send such a name.
RAW = (
    b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a\x00b"\r\n\r\n{}\r\n--x--\r\n'
)
RAW_HEADERS = {"content-type": "multipart/form-data; boundary=x"}


@pytest.fixture(scope="module")
def served(tmp_path_factory, harness):
    """A platform that takes small files only."""
    config = harness.platform_config(tmp_path_factory.mktemp("platform"), max_file_bytes=FILE_LIMIT)
    platform, stop = harness.serve(config)
    yield platform
    stop()


@pytest.fixture(scope="module")
def key(served):
    return served.tenant(name="Attacker")[1]


def upload(http, content=CONTENT, *, name="a.jsonl", data=FORM):
    return http.post("/v1/files", files={"file": (name, content)}, data=data)


def nothing_is_left(served, key):
    with served.http(key) as http:
        account = http.get("/api/v1/account").raise_for_status().json()
        assert http.get("/v1/files").json()["data"] == []
    assert (account["storage"]["used"], account["storage"]["held"]) == (0, 0)
    assert [path for path in served.platform.config.files_dir.rglob("*") if path.is_file()] == []


def refused(answer, status, *, code=None, param=None):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["message"]
    assert code in {None, error["code"]}
    assert param in {None, error["param"]}
    return error


@pytest.mark.parametrize(
    ("request_of", "status", "param"),
    [
        (lambda http: upload(http, b""), 400, "file"),
        (lambda http: upload(http, data={"purpose": "fine-tune"}), 400, "purpose"),
        (lambda http: upload(http, data={}), 400, "purpose"),
        (lambda http: upload(http, data={**FORM, "expires_after[seconds]": "1"}), 400, None),
        (lambda http: http.post("/v1/files", content=RAW, headers=RAW_HEADERS), 400, "file"),
        (lambda http: upload(http, name="x" * 300), 400, "file"),
        (lambda http: http.post("/v1/files", json={}), 400, None),
        (lambda http: http.post("/v1/files", data={**FORM, "file": "text"}), 400, None),
        (
            lambda http: http.post(
                "/v1/files", content=b"x", headers={"content-type": "multipart/form-data"}
            ),
            400,
            None,
        ),
        (
            lambda http: http.post(
                "/v1/files",
                content=b"--x\r\nbroken",
                headers={"content-type": "multipart/form-data; boundary=x"},
            ),
            400,
            None,
        ),
    ],
)
def test_a_form_that_is_wrong_is_refused_and_leaves_nothing(served, key, request_of, status, param):
    with served.http(key) as http:
        refused(request_of(http), status, param=param)
    nothing_is_left(served, key)


def test_a_file_that_is_too_large_is_413_whether_or_not_it_says_so(served, key):
    with served.http(key) as http:
        for size in (FILE_LIMIT + 1, FILE_LIMIT + 100_000):
            refused(upload(http, bytes(size)), 413, code="request_too_large")
        assert upload(http, b"x" * FILE_LIMIT).status_code == 200
        (file,) = http.get("/v1/files").json()["data"]
        http.delete(f"/v1/files/{file['id']}").raise_for_status()
    nothing_is_left(served, key)


def test_a_file_that_does_not_fit_into_the_storage_is_507_and_leaves_nothing(served):
    _, key = served.tenant(name="Full", max_storage=len(CONTENT) + 10)
    with served.http(key) as http:
        first = upload(http).raise_for_status().json()
        assert refused(upload(http), 507)["recovery"] == "upgrade_storage"
        http.delete(f"/v1/files/{first['id']}").raise_for_status()
        again = upload(http).raise_for_status().json()
        http.delete(f"/v1/files/{again['id']}").raise_for_status()
    nothing_is_left(served, key)


def test_a_name_is_only_shown_and_never_a_place(served, key):
    with served.http(key) as http:
        for name in ("../../evil", "/etc/passwd", "a\\..\\b"):
            made = upload(http, name=name).raise_for_status().json()
            assert http.get(f"/v1/files/{made['id']}/content").content == CONTENT
            http.delete(f"/v1/files/{made['id']}").raise_for_status()
        for path in ("../../secrets/admin_key", "..%2f..%2fsecrets%2fadmin_key", "file-..", "%00", "file-"):
            assert http.get(f"/v1/files/{path}/content").status_code == 404
    nothing_is_left(served, key)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"endpoint": "/v1/images"}, "endpoint"),
        ({"endpoint": "/api/v1/tenants"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        ({"output_expires_after": {}}, "output_expires_after"),
        ({"input_file_id": 7}, "input_file_id"),
    ],
)
def test_a_wish_that_is_wrong_is_refused_by_name(served, key, change, param):
    with served.http(key) as http:
        wish = {
            "input_file_id": "file-a",
            "endpoint": "/v1/completions",
            "completion_window": "24h",
            **change,
        }
        refused(http.post("/v1/batches", json=wish), 400, param=param)
        refused(http.post("/v1/batches", content=b"{"), 400)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=a", "limit=1e9"])
def test_a_page_is_bounded(served, key, query):
    with served.http(key) as http:
        refused(http.get(f"/v1/batches?{query}"), 400, param="query.limit")
        refused(http.get("/v1/batches?after=nonsense"), 404)
        refused(http.get("/v1/files?after=nonsense"), 404)
        refused(http.get("/v1/files?limit=10001"), 400)
        refused(http.get("/v1/files?order=random"), 400)
        refused(http.get("/v1/files?purpose=assistants"), 400)


def test_another_tenants_files_and_batches_are_not_there(served, harness):
    _, victim = served.tenant(name="Victim")
    _, thief = served.tenant(name="Thief", tier="business")
    wish = {"endpoint": "/v1/completions", "completion_window": "24h"}
    with served.http(victim) as http:
        file = upload(http).raise_for_status().json()["id"]
        batch = http.post("/v1/batches", json={**wish, "input_file_id": file}).raise_for_status().json()["id"]
        harness.wait_until(lambda: http.get(f"/v1/batches/{batch}").json()["status"] == "completed")
        errors = http.get(f"/v1/batches/{batch}").json()["error_file_id"]
    with served.http(thief) as http:
        nowhere = f"file-{uuid.uuid4().hex}"
        unknown = http.get(f"/v1/files/{nowhere}").json()
        for each in (file, errors):
            for answer in (
                http.get(f"/v1/files/{each}"),
                http.get(f"/v1/files/{each}/content"),
                http.delete(f"/v1/files/{each}"),
                http.post("/v1/batches", json={**wish, "input_file_id": each}),
            ):
                assert (answer.status_code, answer.json()) == (404, unknown)
        for answer in (http.get(f"/v1/batches/{batch}"), http.post(f"/v1/batches/{batch}/cancel")):
            refused(answer, 404, code="not_found")
        assert http.get("/v1/files").json()["data"] == http.get("/v1/batches").json()["data"] == []
        # Not even as a place in a list.
        for query in (f"after={file}", f"after={errors}&order=asc"):
            assert http.get(f"/v1/files?{query}").json()["data"] == []
        assert http.get(f"/v1/batches?after={batch}").json()["data"] == []
    with served.http(victim) as http:
        assert http.get(f"/v1/files/{file}/content").content == CONTENT


def test_a_line_cannot_reach_what_its_tenant_cannot(served, harness):
    _, victim = served.tenant(name="Owner")
    _, thief = served.tenant(name="Borrower")
    model = served.deploy(victim)
    line = {**LINE, "body": {"model": model, "prompt": "a", "max_tokens": 1}}
    with served.http(thief) as http:
        file = upload(http, json.dumps(line).encode()).raise_for_status().json()["id"]
        wish = {"endpoint": "/v1/completions", "completion_window": "24h", "input_file_id": file}
        batch = http.post("/v1/batches", json=wish).raise_for_status().json()["id"]
        harness.wait_until(lambda: http.get(f"/v1/batches/{batch}").json()["status"] == "completed")
        errors = http.get(f"/v1/batches/{batch}").json()["error_file_id"]
        (error,) = http.get(f"/v1/files/{errors}/content").text.splitlines()
    assert json.loads(error)["response"]["body"]["error"]["code"] == "model_not_found"


def test_a_key_without_the_scope_may_do_none_of_it(served):
    tenant_id, _ = served.tenant(name="Narrow")
    with served.admin() as admin:
        wish = {"name": "usage only", "scopes": ["usage"]}
        narrow = admin.post(f"/api/v1/tenants/{tenant_id}/keys", json=wish).json()["key"]
    with served.http(narrow) as http:
        for answer in (upload(http), http.get("/v1/files"), http.get("/v1/batches")):
            refused(answer, 403, code="insufficient_permissions")


def test_what_a_crash_left_of_files_goes_at_the_next_start_and_files_stay(tmp_path, harness):
    config = harness.platform_config(tmp_path)
    first, stop = harness.serve(config)
    tenant_id, key = first.tenant(name="Crash")
    with first.http(key) as http:
        kept = upload(http).raise_for_status().json()["id"]
    stop()
    place = config.files_dir / tenant_id
    for name in (f"{uuid.uuid4()}.unfinished", str(uuid.uuid4())):
        (place / name).write_bytes(b"half a file")
    second, stop = harness.serve(config)
    try:
        assert [path.name for path in place.iterdir()] == [str(uuid.UUID(kept.removeprefix("file-")))]
        with second.http(key) as http:
            assert http.get(f"/v1/files/{kept}/content").content == CONTENT
            (place / str(uuid.UUID(kept.removeprefix("file-")))).unlink()
            refused(http.get(f"/v1/files/{kept}/content"), 404)
    finally:
        stop()
