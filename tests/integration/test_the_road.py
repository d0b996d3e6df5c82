"""The road from a request to an invoice line, walked with the official client."""

from __future__ import annotations

import time


def test_a_chat_is_answered_metered_priced_and_logged(running):
    _, key = running.tenant()
    model = running.deploy(key)
    client = running.openai(key)
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "In the beginning"}], max_tokens=8, temperature=0
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8
    with running.http(key) as http:
        usage = http.get("/api/v1/usage").raise_for_status().json()
        totals = {total["meter"]: total["quantity"] for total in usage["totals"]}
        assert totals["input_tokens"] == answer.usage.prompt_tokens
        assert totals["output_tokens"] == 8
        preview = http.get("/api/v1/invoices/preview").raise_for_status().json()
        assert {line["meter"] for line in preview["lines"]} >= {"input_tokens", "output_tokens"}
        deadline = time.monotonic() + 10
        while http.get("/api/v1/audit/checkpoint").json().get("size", 0) < 6 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert http.get("/api/v1/audit/checkpoint").raise_for_status().json()["size"] >= 6
