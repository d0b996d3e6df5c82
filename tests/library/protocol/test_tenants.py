"""A server with several keys: each is a tenant, with its share of the engine and prefixes of its own."""

from __future__ import annotations

import threading
import time

import openai
import pytest

from tritium.engine.config import EngineConfig
from tritium.protocol.app import create_app

PROMPT = "And it came to pass in those days, that there went out a decree from Caesar Augustus, that all the"


@pytest.fixture(scope="module")
def app(scripture_llama):
    return create_app(
        scripture_llama,
        api_key=["key-a", "key-b"],
        served_name="scripture",
        threads=1,
        config=EngineConfig(max_running=1),
    )


@pytest.fixture(scope="module")
def clients(app, serving):
    with serving(app) as address:
        made = [
            openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)
            for key in ("key-a", "key-b", "key-c")
        ]
        yield made
        for client in made:
            client.close()


def complete(client, **changes):
    settings = {"prompt": PROMPT, "max_tokens": 2, "temperature": 0} | changes
    return client.completions.create(model="scripture", **settings)


def test_each_key_is_let_in_and_no_other(clients):
    first, second, stranger = clients
    assert complete(first).choices[0].text == complete(second).choices[0].text
    with pytest.raises(openai.AuthenticationError):
        complete(stranger)


def test_a_key_finds_what_it_has_computed_and_not_what_another_has(clients):
    prompt = "The words of the Preacher, the son of David, king in Jerusalem. Vanity of vanities, saith he"
    first, second, _ = clients
    assert complete(first, prompt=prompt).usage.prompt_tokens_details.cached_tokens == 0
    assert complete(first, prompt=prompt).usage.prompt_tokens_details.cached_tokens > 0
    assert complete(second, prompt=prompt).usage.prompt_tokens_details.cached_tokens == 0


def wait_in_order(app, calls) -> tuple[list[threading.Thread], list[str]]:
    """Begin the calls one after the other; return their threads, and a list of who has ended, in order."""
    ended, threads = [], []
    engine_thread = app.state.backend.thread
    for waiting, (name, call) in enumerate(calls):
        threads.append(threading.Thread(target=lambda n=name, c=call: (c(), ended.append(n))))
        threads[-1].start()
        deadline = time.monotonic() + 30
        while engine_thread.metrics.waiting <= waiting:
            assert time.monotonic() < deadline, "it did not wait"
            time.sleep(0.002)
    return threads, ended


def hold(client):
    stream = complete(client, max_tokens=900, stream=True, extra_body={"ignore_eos": True})
    next(stream)
    return stream


def test_a_flood_of_one_key_does_not_hold_up_another(app, clients):
    flooder, quiet, _ = clients
    held = hold(flooder)
    calls = [("flood", lambda: complete(flooder, prompt="In")) for _ in range(5)]
    threads, ended = wait_in_order(app, [*calls, ("quiet", lambda: complete(quiet, prompt="In"))])
    held.close()
    for thread in threads:
        thread.join()
    assert ended.index("quiet") <= 1  # answers of two tokens may overtake each other on the wire


def test_a_key_says_which_of_its_requests_come_first(app, clients):
    client = clients[0]
    held = hold(client)

    def ask(priority):
        extra = {"priority": priority, "ignore_eos": True}
        return complete(client, prompt="In", max_tokens=60, extra_body=extra)

    calls = [("late", lambda: ask(5)), ("usual", lambda: ask(0)), ("urgent", lambda: ask(-5))]
    threads, ended = wait_in_order(app, calls)
    held.close()
    for thread in threads:
        thread.join()
    assert ended == ["urgent", "usual", "late"]


@pytest.mark.parametrize("priority", [1001, -1001, 1.5, "high"])
def test_a_priority_that_is_none_is_refused_by_name(clients, priority):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(clients[0], extra_body={"priority": priority})
    assert caught.value.param == "priority"
