"""The figures of /metrics against what was really asked and answered."""

from __future__ import annotations

import httpx2
from prometheus_client.parser import text_string_to_metric_families

PROMPT = "And God said unto Noah, The end of all flesh is come before me; for the earth is filled"


def samples(running):
    text = httpx2.get(f"{running.url}/metrics").raise_for_status().text
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def total(running, name, **labels):
    """Sum what a metric has for one model."""
    found = [each for each in samples(running) if each.name == f"tritium_{name}"]
    return sum(each.value for each in found if labels.items() <= each.labels.items())


def test_what_is_exposed_is_what_happened(running, harness, scripture_llama_without_end):
    tenant_id, key = running.tenant(tier="team")
    model = running.deploy(key, path=scripture_llama_without_end)
    client = running.openai(key)
    where = {"model": model, "tier": "team"}
    answers = [client.completions.create(model=model, prompt=PROMPT, max_tokens=5) for _ in range(3)]
    prompt = sum(each.usage.prompt_tokens for each in answers)
    written = sum(each.usage.completion_tokens for each in answers)
    assert total(running, "prompt_tokens_total", **where) == prompt
    assert total(running, "prefix_cache_queries_total", **where) == prompt
    assert total(running, "generation_tokens_total", **where) == written
    assert total(running, "time_to_first_token_seconds_count", **where) == 3
    # Tokens that were there before they were looked for are one piece of text.
    assert 0 < total(running, "inter_token_latency_seconds_count", **where) <= written - 3
    assert total(running, "request_queue_time_seconds_count", **where) == 3
    assert total(running, "request_success_total", **where) == 3
    cached = sum(each.usage.prompt_tokens_details.cached_tokens for each in answers)
    assert total(running, "prefix_cache_hits_total", **where) == cached > 0
    first, rest = (
        total(running, f"{name}_sum", **where)
        for name in ("time_to_first_token_seconds", "inter_token_latency_seconds")
    )
    assert 0 < first + rest <= total(running, "e2e_request_latency_seconds_sum", **where)

    stream = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=60_000, stream=True, extra_body={"ignore_eos": True}
    )
    next(stream)
    harness.wait_until(lambda: total(running, "num_requests_running", **where) == 1)
    harness.wait_until(lambda: 0 < total(running, "kv_cache_usage_perc", **where) <= 1)
    stream.close()
    harness.wait_until(lambda: total(running, "num_requests_running", **where) == 0)
    assert total(running, "requests_total", **where, outcome="cancelled") == 1
    everything = " ".join(f"{each.name}{each.labels}" for each in samples(running))
    assert tenant_id not in everything
