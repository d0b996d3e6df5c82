"""Uploads over HTTP that lie, explode, are broken or break off: a clear 4xx, and nothing stays behind."""

from __future__ import annotations

import io
import json
import resource
import socket
import stat
import struct
import zipfile
from urllib.parse import urlsplit

import pytest

UPLOAD_LIMIT = 20_000_000
KEYS = {}


@pytest.fixture(scope="module")
def served(tmp_path_factory, harness):
    """A platform that takes small uploads only."""
    directory = tmp_path_factory.mktemp("platform")
    config = harness.platform_config(directory, max_upload_bytes=UPLOAD_LIMIT)
    platform, stop = harness.serve(config)
    yield platform
    stop()


@pytest.fixture(scope="module")
def llama(scripture_llama):
    """The files of a sound checkpoint by name."""
    return {path.name: path.read_bytes() for path in scripture_llama.iterdir()}


@pytest.fixture(scope="module")
def bitnet(scripture_bitnet_bitlinear):
    """The files of a sound, small checkpoint by name."""
    return {path.name: path.read_bytes() for path in scripture_bitnet_bitlinear.iterdir()}


def zipped(files, *, level=0):
    content = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if level else zipfile.ZIP_STORED
    with zipfile.ZipFile(content, "w", kind, compresslevel=level) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def with_header(weights, change):
    """Return safetensors bytes with a changed JSON header."""
    (length,) = struct.unpack_from("<Q", weights)
    header = json.loads(weights[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + weights[8 + length :]


def first_tensor(header):
    return header[next(name for name in header if name != "__metadata__")]


def nothing_is_left(served, key):
    with served.http(key) as http:
        account = http.get("/api/v1/account").raise_for_status().json()
    assert (account["storage"]["used"], account["storage"]["held"]) == (0, 0)
    assert [path for path in served.platform.config.uploads_dir.rglob("*") if path.is_file()] == []


def key_for(served, **limits):
    """Return the key of one tenant per platform and limits: nothing of an attack stays with it."""
    name = (served.url, *sorted(limits.items()))
    if name not in KEYS:
        KEYS[name] = served.tenant(name="Attacker", **limits)[1]
    return KEYS[name]


def refuse(served, content, *, says, status=422, **limits):
    key = key_for(served, **limits)
    with served.http(key) as http:
        answer = http.post("/api/v1/uploads", content=content)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    for word in says:
        assert word in problem["detail"], problem
    assert problem["instance"].startswith("urn:tritium:request:")
    nothing_is_left(served, key)
    return problem


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(100), b"PK\x05\x06" + bytes(18)])
def test_what_is_no_archive_is_refused(served, content):
    refuse(served, content, says=["rchive"])


@pytest.mark.parametrize(
    "name", ["../../evil", "/etc/cron.d/evil", "a\\..\\..\\evil", "C:\\evil", "a/b/c/d/e"]
)
def test_a_path_that_leads_out_is_refused_by_name(served, bitnet, name):
    refuse(
        served, zipped({**bitnet, name: b"x"}), says=["unsafe name", "evil"] if "evil" in name else ["unsafe"]
    )


def test_a_link_is_refused_by_name(served, bitnet):
    content = io.BytesIO(zipped(bitnet))
    with zipfile.ZipFile(content, "a") as archive:
        link = zipfile.ZipInfo("extra.json")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    refuse(served, content.getvalue(), says=["extra.json", "link"])


def test_a_bomb_is_refused_by_what_it_says_and_by_what_it_does(served):
    # It says its size: more than the tier takes, so nothing is unpacked.
    bomb = zipped({"model.safetensors": bytes(200_000_000)}, level=9)
    assert len(bomb) < 300_000
    problem = refuse(served, bomb, says=["takes models"], status=403, max_model_size=10_000_000)
    assert problem["recovery"] == "upgrade_tier"
    # It lies about its size: it is stopped where the lie ends.
    data = bytearray(zipped({"model.safetensors": bytes(50_000_000)}, level=9))
    struct.pack_into("<I", data, data.rindex(b"PK\x01\x02") + 24, 100)
    refuse(served, bytes(data), says=["archive"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda header: first_tensor(header).update(data_offsets=[0, 2**63]), []),
        (lambda header: first_tensor(header).update(data_offsets=[-4, 0]), []),
        (lambda header: first_tensor(header).update(shape=[2**40, 2**40]), []),
        (lambda header: first_tensor(header).update(shape=[-1]), []),
        (lambda header: first_tensor(header).update(dtype="Q9"), ["Q9"]),
    ],
)
def test_a_header_that_lies_is_refused_and_names_file_and_tensor(served, bitnet, change, says):
    weights = with_header(bitnet["model.safetensors"], change)
    (length,) = struct.unpack_from("<Q", weights)
    tensor = next(name for name in json.loads(weights[8 : 8 + length]) if name != "__metadata__")
    content = zipped({**bitnet, "model.safetensors": weights})
    refuse(served, content, says=["model.safetensors", tensor, *says])


@pytest.mark.parametrize("length", [0, 7, 8, 1000, 2_000_000])
def test_a_truncated_checkpoint_is_refused_by_name(served, bitnet, length):
    weights = bitnet["model.safetensors"][:length]
    refuse(served, zipped({**bitnet, "model.safetensors": weights}), says=["model.safetensors"])


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 10**9])
def test_a_header_length_that_lies_is_refused_by_name(served, bitnet, size):
    weights = struct.pack("<Q", size) + bitnet["model.safetensors"][8:]
    refuse(served, zipped({**bitnet, "model.safetensors": weights}), says=["model.safetensors"])


def test_a_flipped_bit_in_the_archive_is_refused_by_the_files_name(served, bitnet):
    content = bytearray(zipped(bitnet))
    content[content.index(bitnet["model.safetensors"][:64]) + 2_000_000] ^= 1
    refuse(served, bytes(content), says=["model.safetensors", "damaged"])


def test_a_pickle_instead_of_weights_is_refused(served, bitnet):
    files = {name: data for name, data in bitnet.items() if name != "model.safetensors"}
    refuse(served, zipped({**files, "pytorch_model.bin": b"\x80\x02."}), says=["safetensors"])


def quantize_uploaded(served, files):
    """Upload what is a sound archive, ask for its quantization and return the answer."""
    key = key_for(served)
    with served.http(key) as http:
        made = http.post("/api/v1/uploads", content=zipped(files)).raise_for_status().json()
        wish = {"name": "x", "source": {"upload": made["id"]}, "config": {"validation_text": "In the " * 400}}
        answer = http.post("/api/v1/quantizations", json=wish)
        http.delete(f"/api/v1/uploads/{made['id']}").raise_for_status()
    nothing_is_left(served, key)
    return answer


def test_an_unknown_architecture_is_refused_by_its_name(served, bitnet):
    config = json.loads(bitnet["config.json"]) | {
        "model_type": "mamba",
        "architectures": ["MambaForCausalLM"],
    }
    answer = quantize_uploaded(served, {**bitnet, "config.json": json.dumps(config).encode()})
    assert answer.status_code == 422, answer.text
    assert "mamba" in answer.json()["detail"].lower()


def test_a_tokenizer_of_another_model_is_refused_by_its_name(served, llama):
    tokenizer = json.loads(llama["tokenizer.json"])
    first = max(tokenizer["model"]["vocab"].values()) + 1
    tokenizer["model"]["vocab"] |= {f"extra-{number}": first + number for number in range(5000)}
    answer = quantize_uploaded(served, {**llama, "tokenizer.json": json.dumps(tokenizer).encode()})
    assert answer.status_code == 422, answer.text
    assert "tokenizer" in answer.json()["detail"]


def test_a_model_without_its_own_tensors_is_refused_by_their_names(served, bitnet):
    weights = with_header(
        bitnet["model.safetensors"],
        lambda header: header.update({"other.weight": header.pop("model.norm.weight")}),
    )
    answer = quantize_uploaded(served, {**bitnet, "model.safetensors": weights})
    assert answer.status_code == 422, answer.text
    assert "model.norm.weight" in answer.json()["detail"]


def test_a_body_that_is_too_large_is_413_whether_or_not_it_says_so(served):
    _, key = served.tenant(name="Large")
    pieces = [bytes(1_000_000)] * (UPLOAD_LIMIT // 1_000_000 + 1)
    with served.http(key) as http:
        declared = http.post("/api/v1/uploads", content=b"".join(pieces))
        streamed = http.post("/api/v1/uploads", content=iter(pieces))
    for answer in (declared, streamed):
        assert answer.status_code == 413, answer.text
        assert answer.json()["code"] == "request_too_large"
    nothing_is_left(served, key)


def test_an_upload_that_does_not_fit_into_the_tenants_storage_is_507(served, bitnet):
    problem = refuse(
        served, zipped(bitnet), says=["storage"], status=507, max_storage=3_000_000, max_model_size=10**9
    )
    assert problem["recovery"] == "upgrade_storage"


def test_a_result_that_does_not_fit_into_the_tenants_storage_is_507(served, harness):
    _, key = served.tenant(name="Full", max_storage=1_000_000)
    with served.http(key) as http:
        path = str(harness.EXAMPLE_MODELS / "scripture-bitnet-6m-bitlinear")
        answer = http.post("/api/v1/quantizations", json={"name": "x", "source": {"path": path}})
        assert (answer.status_code, answer.json()["recovery"]) == (507, "upgrade_storage")
        assert http.get("/api/v1/quantizations").json() == []


def test_a_model_that_is_too_large_for_the_tier_is_403(served, harness):
    _, key = served.tenant(name="Small", max_model_size=1_000_000)
    with served.http(key) as http:
        path = str(harness.EXAMPLE_MODELS / "scripture-bitnet-6m-bitlinear")
        answer = http.post("/api/v1/quantizations", json={"name": "x", "source": {"path": path}})
        assert (answer.status_code, answer.json()["code"]) == (403, "model_size_exceeded")
        assert answer.json()["limit"] == 1_000_000


def test_a_client_that_goes_away_in_the_middle_leaves_nothing(served, harness, bitnet, capfd):
    _, key = served.tenant(name="Gone")
    content = zipped(bitnet)
    address = urlsplit(served.url)
    head = f"POST /api/v1/uploads HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode())
        connection.sendall(content[: len(content) // 2])
        archives = served.platform.config.uploads_dir
        harness.wait_until(lambda: list(archives.rglob("*.zip")))
    harness.wait_until(lambda: not list(archives.rglob("*.zip")))
    nothing_is_left(served, key)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_full_disk_is_said_to_be_full_and_leaves_nothing(tmp_path, harness, bitnet):
    fresh, stop = harness.serve(harness.platform_config(tmp_path))  # its database files are small yet
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, before[1]))
    try:
        problem = refuse(fresh, zipped(bitnet), says=["No room", "free space"], status=503)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        stop()
    assert problem["recovery"] == "upgrade_storage"


def test_too_many_uploads_at_the_same_time_are_429_and_a_place_comes_free(served, harness, bitnet):
    _, key = served.tenant(name="Many")
    address = urlsplit(served.url)
    head = f"POST /api/v1/uploads HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    archives = served.platform.config.uploads_dir
    connections = [socket.create_connection((address.hostname, address.port)) for _ in range(4)]
    for connection in connections:
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\nPK".encode())
    harness.wait_until(lambda: len(list(archives.rglob("*.zip"))) == 4)
    with served.http(key) as http:
        answer = http.post("/api/v1/uploads", content=zipped(bitnet))
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "10")
        for connection in connections:
            connection.close()
        harness.wait_until(lambda: not list(archives.rglob("*.zip")))
        made = http.post("/api/v1/uploads", content=zipped(bitnet)).raise_for_status().json()
        http.delete(f"/api/v1/uploads/{made['id']}").raise_for_status()
    nothing_is_left(served, key)


def test_what_a_crash_left_of_uploads_goes_at_the_next_start(tmp_path, harness, bitnet):
    config = harness.platform_config(tmp_path)
    first, stop = harness.serve(config)
    tenant_id, key = first.tenant(name="Crash")
    with first.http(key) as http:
        kept = http.post("/api/v1/uploads", content=zipped(bitnet)).raise_for_status().json()["id"]
    stop()
    place = config.uploads_dir / tenant_id
    (place / "01a2.zip").write_bytes(b"half an archive")
    for name in ("01a2.unfinished", ".01a2.unfinished.ab.partial", ".01a2.deleted-cd"):
        (place / name).mkdir()
        (place / name / "model.safetensors").write_bytes(b"half")
    second, stop = harness.serve(config)
    try:
        assert [path.name for path in place.iterdir()] == [kept]
        with second.http(key) as http:
            http.delete(f"/api/v1/uploads/{kept}").raise_for_status()
    finally:
        stop()
