"""Tenants at work: the official client and the quantization API, from threads, noting what they were told.

Every request carries an id of its own (`x-request-id`), which the audit log repeats: the books can be
compared with what the clients saw, request by request.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from dataclasses import dataclass, field

import httpx2
import openai

LOST = (openai.OpenAIError, httpx2.HTTPError)
TEXT = "In the beginning God created the heaven and the earth. And the earth was without form, and void. "
FINAL = {"succeeded", "failed", "cancelled"}


@dataclass(frozen=True)
class Answer:
    """What a client has received completely, and the usage that it was told."""

    request_id: str
    tenant_id: str
    operation: str
    input_tokens: int
    output_tokens: int
    embedding_tokens: int = 0


@dataclass
class Job:
    """A quantization that was acknowledged with 202, and what its tenant did about it."""

    id: str
    tenant_id: str
    name: str
    cancelled: bool = False
    deleted: bool = False
    state: str = "acknowledged"


@dataclass
class Shop:
    """A tenant with its deployments."""

    tenant_id: str
    key: str
    generator: str
    embedder: str | None


@dataclass
class Seen:
    """Everything that clients were told; appended to by many threads (list.append is atomic)."""

    answers: list[Answer] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    hung_up: list[str] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    checkpoints: list[tuple[int, str, bytes]] = field(default_factory=list)
    memory: list[tuple[int, int, int]] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class Load:
    """Threads that ask until they are stopped; what each asks is drawn from the seed."""

    def __init__(self, program, shops, *, seed):
        self.seen = Seen()
        self._program = program
        self._shops = shops
        self._seed = seed
        self._stopped = threading.Event()
        self._numbers = itertools.count(1)
        self._threads = []

    def start(self, *, source):
        """Start every thread."""
        for number, shop in enumerate(self._shops):
            self._run(self._talk, shop, name=f"talk-{number}-0")
            self._run(self._talk, shop, name=f"talk-{number}-1")
            if shop.embedder:
                self._run(self._embed, shop, name=f"embed-{number}")
            self._run(self._quantize, shop, source, name=f"quantize-{number}")
        self._run(self._watch, self._shops[0], name="watch")

    def stop(self):
        """Let every thread finish what it does."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), f"{thread.name} hangs"

    def _run(self, work, *arguments, name):
        def guarded():
            chance = random.Random(f"{self._seed}-{name}")
            while not self._stopped.is_set():
                try:
                    work(*arguments, chance)
                except LOST as error:
                    status = getattr(error, "status_code", None)
                    status = status or getattr(getattr(error, "response", None), "status_code", None)
                    self.seen.refusals[f"{type(error).__name__} {status or ''}".strip()] += 1
                    self._stopped.wait(0.1)
                except Exception as error:  # noqa: BLE001 - the test fails with it, not a thread in silence
                    self.seen.faults.append(f"{name}: {error!r}")
                    return

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _client(self, shop):
        return openai.OpenAI(base_url=f"{self._program.url}/v1", api_key=shop.key, max_retries=0, timeout=30)

    def _label(self):
        return f"soak-{next(self._numbers)}"

    def _talk(self, shop, chance):
        """Ask some questions over one connection."""
        with self._client(shop) as client:
            for _ in range(chance.randint(1, 20)):
                if self._stopped.is_set():
                    return
                words = TEXT[: chance.randint(6, len(TEXT))]
                kind = chance.choice(["whole", "whole", "stream", "stream", "hang up"])
                wish = {"model": shop.generator, "max_tokens": chance.choice([1, 3, 8, 40]), "temperature": 1}
                if chance.random() < 0.5:
                    wish["messages"] = [{"role": "user", "content": words}]
                    create, operation = client.chat.completions.create, "chat"
                else:
                    wish["prompt"] = words
                    create, operation = client.completions.create, "completion"
                self._ask(shop, create, operation, kind=kind, wish=wish)

    def _ask(self, shop, create, operation, *, kind, wish):
        label = self._label()
        wish["extra_headers"] = {"x-request-id": label}
        if kind == "whole":
            usage = create(**wish).usage
        else:
            usage = self._read(create, wish, label, is_left=kind == "hang up")
        if usage is not None:
            self.seen.answers.append(
                Answer(label, shop.tenant_id, operation, usage.prompt_tokens, usage.completion_tokens)
            )

    def _read(self, create, wish, label, *, is_left):
        """Read a stream; return its usage, None if we hung up first."""
        usage = None
        with create(**wish, stream=True, stream_options={"include_usage": True}) as stream:
            for chunk in stream:
                if is_left:
                    self.seen.hung_up.append(label)
                    return None
                if chunk.choices and chunk.choices[0].finish_reason:
                    self.seen.finished.append(label)
                usage = chunk.usage or usage
        if usage is None:
            raise httpx2.RemoteProtocolError("the stream ended without its usage")
        return usage

    def _embed(self, shop, chance):
        label = self._label()
        texts = [TEXT[: chance.randint(3, len(TEXT))] for _ in range(chance.randint(1, 3))]
        with self._client(shop) as client:
            headers = {"x-request-id": label}
            usage = client.embeddings.create(model=shop.embedder, input=texts, extra_headers=headers).usage
        self.seen.answers.append(
            Answer(label, shop.tenant_id, "embedding", 0, 0, embedding_tokens=usage.prompt_tokens)
        )
        self._stopped.wait(chance.uniform(0, 0.5))

    def _quantize(self, shop, source, chance):
        """Have a model quantized, look after it to its end, and perhaps throw it away."""
        name = f"q{next(self._numbers)}"
        config = chance.choice([{}, {"calibration_text": TEXT * 20, "calibration_tokens": 128}])
        wish = {"name": name, "source": {"path": source}, "config": config}
        with self._program.http(shop.key) as http:
            made = http.post("/api/v1/quantizations", json=wish).raise_for_status().json()
        job = Job(made["id"], shop.tenant_id, name)
        self.seen.jobs.append(job)
        patience = chance.randint(1, 20) if chance.random() < 0.25 else None
        self._follow(shop, job, patience=patience)
        if job.state == "succeeded" and chance.random() < 0.7:
            job.deleted = True
            self._insist(shop, lambda http: http.delete(f"/api/v1/models/{name}"), accepted={204, 404})

    def _follow(self, shop, job, *, patience):
        looks = 0
        path = f"/api/v1/quantizations/{job.id}"
        while not self._stopped.is_set() and job.state not in FINAL:
            looks += 1
            if looks == patience:
                job.cancelled = True
                self._insist(shop, lambda http: http.delete(path), accepted={202, 409})
            shown = self._insist(shop, lambda http: http.get(path), accepted={200})
            job.state = shown.json()["state"] if shown is not None else job.state
            self._stopped.wait(0.2)

    def _insist(self, shop, send, *, accepted):
        """Send until the server answers; what a broken connection did is found out by asking again."""
        for _ in range(600):
            try:
                with self._program.http(shop.key) as http:
                    answer = send(http)
            except httpx2.HTTPError as error:
                self.seen.refusals[type(error).__name__] += 1
                self._stopped.wait(0.2)
                continue
            if answer.status_code in accepted:
                return answer
            if answer.status_code < 500 and answer.status_code != 429:
                raise AssertionError(f"{answer.status_code}: {answer.text}")
            self.seen.refusals[f"HTTP {answer.status_code}"] += 1
            self._stopped.wait(0.2)
        raise AssertionError("the server did not answer")

    def _watch(self, shop, chance):
        """Keep signed heads of the audit log, and the gateway's memory."""
        with self._program.http(shop.key) as http:
            head = http.get("/api/v1/audit/checkpoint").raise_for_status().json()
        self.seen.checkpoints.append((head["size"], head["root_hash"], head["note"].encode()))
        memory = self._program.resident_bytes()
        if memory is not None:
            self.seen.memory.append((self._program.starts, len(self.seen.answers), memory))
        self._stopped.wait(0.5)
