"""The road of a tenant's own checkpoint: upload, quantize, report, deploy, chat, delete; over a real port."""

from __future__ import annotations

import io
import json
import os
import uuid
import zipfile

import pytest
import tritium_test_programs as programs

from tritium_platform.adapters.worker_process import WorkerProcess

FINAL = {"succeeded", "failed", "cancelled"}


@pytest.fixture(scope="module")
def shop(running):
    """A served platform with a worker; the worker dies with the module."""
    worker = WorkerProcess(running.platform.config)
    running.run(worker.start())
    yield running
    running.run(worker.stop())


@pytest.fixture(scope="module")
def clumsy(shop):
    """The key of a tenant with nothing."""
    return shop.tenant(name="Clumsy")[1]


def zipped(directory):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in directory.iterdir():
            archive.write(path, f"model/{path.name}")
    return content.getvalue()


def upload(http, content):
    answer = http.post("/api/v1/uploads", content=content, headers={"content-type": "application/zip"})
    assert answer.status_code == 201, answer.text
    return answer.json()


def quantize(http, *, source, name="small", **config):
    answer = http.post("/api/v1/quantizations", json={"name": name, "source": source, "config": config})
    assert answer.status_code == 202, answer.text
    return answer.json()


def follow(http, harness, job, *, until=lambda seen: seen["state"] in FINAL):
    """Return every distinct state that was seen until a claim is true."""
    seen = []

    def look():
        now = http.get(f"/api/v1/quantizations/{job['id']}").raise_for_status().json()
        if not seen or now != seen[-1]:
            seen.append(now)
        return until(now)

    harness.wait_until(look)
    return seen


def storage(http):
    return http.get("/api/v1/account").raise_for_status().json()["storage"]


def test_a_tenant_uploads_quantizes_reads_the_report_deploys_chats_and_deletes(
    shop, harness, scripture_llama, held_out_text, calibration_text
):
    tenant_id, key = shop.tenant(name="Uploader")
    config = shop.platform.config
    with shop.http(key) as http:
        made = upload(http, zipped(scripture_llama))
        assert made["size_bytes"] == sum(path.stat().st_size for path in scripture_llama.iterdir())
        assert storage(http)["used"] == made["size_bytes"]
        texts = {"calibration_text": calibration_text[:3000], "validation_text": held_out_text[:3000]}
        job = quantize(http, source={"upload": made["id"]}, **texts)
        assert job["state"] == "queued"
        seen = follow(http, harness, job)
        assert seen[-1]["state"] == "succeeded", seen[-1]
        counts = [each["finished_layers"] for each in seen]
        assert counts == sorted(counts)
        assert len(set(counts)) > 3, "the progress of layers was not to be seen"
        assert counts[-1] == seen[-1]["total_layers"] == 42
        assert all(layer["strategy"] and layer["planes"] in {1, 2, 3} for layer in seen[-1]["layers"])

        report = http.get("/api/v1/models/small/report").raise_for_status().json()
        assert report["metrics"]["bits_per_weight"] < 6
        assert report["validation_report"]
        model = http.get("/api/v1/models/small").raise_for_status().json()
        assert model["id"] == job["id"]
        http.post("/api/v1/deployments", json={"model": "small"}).raise_for_status()
        shop.wait_ready(key, "small")
        answer = shop.openai(key).chat.completions.create(
            model="small", messages=[{"role": "user", "content": "In the beginning"}], max_tokens=8
        )
        assert answer.usage.completion_tokens > 0
        assert answer.choices[0].message.content

        busy = http.delete("/api/v1/models/small")
        assert (busy.status_code, busy.json()["code"]) == (409, "conflict")
        http.delete("/api/v1/deployments/small").raise_for_status()
        http.delete("/api/v1/models/small").raise_for_status()
        http.delete(f"/api/v1/uploads/{made['id']}").raise_for_status()
        assert (storage(http)["used"], storage(http)["held"]) == (0, 0)
        records = http.get("/api/v1/usage").raise_for_status().json()["records"]
    assert "quantization" in {record["operation"] for record in records}
    assert not list((config.models_dir / tenant_id).iterdir())
    assert not list((config.uploads_dir / tenant_id).iterdir())


def test_a_cancelled_quantization_says_so_and_gives_its_storage_back(shop, harness, calibration_text):
    _, key = shop.tenant(name="Hesitant")
    with shop.http(key) as http:
        source = {"path": str(harness.EXAMPLE_MODELS / "scripture-llama-6m")}
        job = quantize(http, source=source, calibration_text=calibration_text, calibration_tokens=4096)
        taken = http.post("/api/v1/quantizations", json={"name": "small", "source": source})
        assert (taken.status_code, taken.json()["code"]) == (409, "conflict")
        follow(http, harness, job, until=lambda seen: seen["finished_layers"] > 0)
        assert http.delete(f"/api/v1/quantizations/{job['id']}").status_code == 202
        last = follow(http, harness, job)[-1]
        assert (last["state"], last["error_code"]) == ("cancelled", None)
        assert http.delete(f"/api/v1/quantizations/{job['id']}").json()["state"] == "cancelled"
        assert (storage(http)["used"], storage(http)["held"]) == (0, 0)
        assert http.get("/api/v1/models").json() == []
        # Its name is free again.
        again = quantize(http, source=source)
        assert http.delete(f"/api/v1/quantizations/{again['id']}").status_code == 202


def ask_for(http, name):
    """Ask in every way for a thing that has this id or name."""
    return [
        http.delete(f"/api/v1/uploads/{name}"),
        http.get(f"/api/v1/quantizations/{name}"),
        http.delete(f"/api/v1/quantizations/{name}"),
        http.get(f"/api/v1/models/{name}"),
        http.get(f"/api/v1/models/{name}/report"),
        http.delete(f"/api/v1/models/{name}"),
        http.post("/api/v1/deployments", json={"model": str(name)}),
        http.post("/api/v1/quantizations", json={"name": "x", "source": {"upload": str(name)}}),
    ]


def test_what_is_somebody_elses_is_not_there(shop, harness, scripture_bitnet_bitlinear):
    (_, key), (_, stranger) = shop.tenant(name="Owner"), shop.tenant(name="Stranger")
    with shop.http(key) as http, shop.http(stranger) as other:
        made = upload(http, zipped(scripture_bitnet_bitlinear))
        job = quantize(http, source={"upload": made["id"]}, name="mine")
        assert follow(http, harness, job)[-1]["state"] == "succeeded"
        model = http.get("/api/v1/models/mine").raise_for_status().json()
        for known, unknown in ((made["id"], uuid.uuid4()), (job["id"], uuid.uuid4()), ("mine", "mind")):
            answers = [ask_for(other, name) for name in (known, unknown)]
            assert {answer.status_code for answer in answers[0]} <= {404, 422}
            # Nothing tells a foreign thing from one that never was.
            for mine, nobodys in zip(*answers, strict=True):
                strip = {"instance", "input", "detail"}
                assert {k: v for k, v in mine.json().items() if k not in strip} == {
                    k: v for k, v in nobodys.json().items() if k not in strip
                }
                assert mine.json()["detail"].replace(str(known), "") == nobodys.json()["detail"].replace(
                    str(unknown), ""
                )
        assert other.get("/api/v1/quantizations").json() == []
        assert http.get("/api/v1/models/mine").json() == model
        http.delete(f"/api/v1/uploads/{made['id']}").raise_for_status()


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x"},
        {"name": "x", "source": {}},
        {"name": "x", "source": {"path": "/etc"}},
        {"name": "x", "source": {"path": 7}},
        {"name": "x", "source": {"path": "a", "upload": str(uuid.uuid4())}},
        {"name": "x", "source": {"upload": "../../etc"}},
        {"name": "../x", "source": {"path": "MODEL"}},
        {"name": "x", "source": {"path": "MODEL"}, "config": []},
        {"name": "x", "source": {"path": "MODEL"}, "config": {"surprise": 1}},
        {"name": "x", "source": {"path": "MODEL"}, "config": {"group_size": "128"}},
        {"name": "x", "source": {"path": "MODEL"}, "config": {"group_size": 7}},
        {"name": "x", "source": {"path": "MODEL"}, "config": {"max_planes": True}},
        {"name": "x", "source": {"path": "MODEL"}, "config": {"max_planes": 99}},
        {"name": "x", "source": {"path": "MODEL"}, "config": {"max_acceptable_loss": "NaN"}},
        {"name": "x", "source": {"path": "MODEL"}, "config": {"calibration_text": ["/etc/passwd"]}},
        {"name": "x", "source": {"path": "MODEL"}, "config": {"strategy": "magic"}},
        {"name": "x", "source": {"path": "MODEL"}, "config": {"layers": 3}},
        {"name": "x", "source": {"path": "MODEL"}, "surprise": 1},
    ],
)
def test_a_wrong_wish_is_a_problem_that_names_the_field_and_keeps_nothing(clumsy, shop, harness, body):
    source = body.get("source", {})
    if source.get("path") == "MODEL":
        source["path"] = str(harness.EXAMPLE_MODELS / "scripture-bitnet-6m-bitlinear")
    with shop.http(clumsy) as http:
        answer = http.post("/api/v1/quantizations", json=body)
        assert answer.status_code == 422, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["recovery"] == "fix_request"
        assert http.get("/api/v1/quantizations").json() == []
        assert storage(http)["held"] == 0


def tritiumd(shop, key, *arguments):
    """Run a command as a tenant who sits at another machine."""
    environment = {**os.environ, "TRITIUM_URL": shop.url, "TRITIUM_API_KEY": key}
    return programs.run("tritiumd", *arguments, environment=environment)


def test_the_command_uploads_shows_progress_and_prints_the_report(
    shop, scripture_bitnet_bitlinear, scripture_llama, held_out_text, tmp_path
):
    _, key = shop.tenant(name="Commander")
    (tmp_path / "held_out.txt").write_text(held_out_text[:3000])
    (tmp_path / "config.json").write_text('{"validation_tokens": 256}')
    given = ["--validation", tmp_path / "held_out.txt", "--config", tmp_path / "config.json"]
    done = tritiumd(
        shop,
        key,
        "model",
        "quantize",
        "mine",
        scripture_bitnet_bitlinear,
        "--upload",
        *given,
        "--format",
        "json",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["name"] == "mine"
    assert report["metrics"]["bits_per_weight"] < 3
    assert "42/42" in done.stderr or "layer" in done.stderr
    with shop.http(key) as http:
        assert [model["name"] for model in http.get("/api/v1/models").json()] == ["mine"]
        used = storage(http)["used"]
    assert used < 2 * sum(path.stat().st_size for path in scripture_bitnet_bitlinear.iterdir()), (
        "no upload stays"
    )

    taken = tritiumd(shop, key, "model", "quantize", "mine", scripture_bitnet_bitlinear)
    assert taken.returncode == 2
    assert "already a model named 'mine'" in taken.stderr
    (tmp_path / "long.txt").write_text(held_out_text)
    slow = [scripture_llama, "--calibration", tmp_path / "long.txt"]
    detached = tritiumd(shop, key, "model", "quantize", "more", *slow, "--detach", "--format", "quiet")
    cancelled = tritiumd(shop, key, "model", "cancel", detached.stdout.strip(), "--format", "json")
    assert json.loads(cancelled.stdout)["state"] in {"cancelled", "cancelling"}, cancelled.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["x", "/nowhere"], "allowed root"),
        (["x", "/nowhere", "--upload"], "not a directory"),
        (["x", "/nowhere", "--config", "/dev/null"], "not JSON"),
        (["x", "/nowhere", "--validation", "/nowhere/text"], "cannot be read"),
    ],
)
def test_the_command_tells_wrong_use_in_one_line(clumsy, shop, arguments, says):
    done = tritiumd(shop, clumsy, "model", "quantize", *arguments)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_that_waits_is_told_when_it_will_be_done_once_one_of_its_kind_was(
    shop, harness, scripture_llama
):
    _, key = shop.tenant(name="Waiter")
    with shop.http(key) as http:
        made = upload(http, zipped(scripture_llama))
        source = {"upload": made["id"]}
        unknown = quantize(http, source=source, name="first", strategy="absmean")
        assert unknown["expected"] is None
        first = follow(http, harness, unknown)[-1]
        assert first["state"] == "succeeded", first
        assert first["expected"] is None
        known = quantize(http, source=source, name="second", strategy="absmean")
        assert known["expected"]["earliest"] <= known["expected"]["at"] <= known["expected"]["latest"]
        assert known["expected"]["latest"] > known["created_at"]
        follow(http, harness, known)
