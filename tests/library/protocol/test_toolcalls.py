"""Calls of tools in a model's text: every dialect, cut into any pieces."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.protocol.toolcalls import ToolCallReader, WrittenCall

NAMES = frozenset({"weather", "time"})
ROME = WrittenCall("weather", '{"city": "Rome"}')
NOW = WrittenCall("time", "{}")
TAGGED = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
TAGGED_NOW = '<tool_call>{"name": "time", "arguments": {}}</tool_call>'
ANSWERS = [
    ("Hello.", "Hello.", []),
    ("", "", []),
    ("  spaced ", "  spaced ", []),
    (" <tool_call> is no call", " <tool_call> is no call", []),
    (f"\n<tool_call>{{}}</tool_call>\n{TAGGED}", "\n<tool_call>{}</tool_call>\n", [ROME]),
    (TAGGED, "", [ROME]),
    (f"\n{TAGGED}\n{TAGGED_NOW}\n", "", [ROME, NOW]),
    (f"Let me see. {TAGGED} Done.", "Let me see.  Done.", [ROME]),
    (TAGGED.removesuffix("</tool_call>"), "", [ROME]),
    ('{"name": "weather", "parameters": {"city": "Rome"}}', "", [ROME]),
    ('[{"name": "weather", "arguments": {"city": "Rome"}}, {"name": "time"}]', "", [ROME, NOW]),
    ('[TOOL_CALLS] [{"name": "time", "arguments": {}}]', "", [NOW]),
    # What is none: another name, no object, broken JSON, JSON that is an answer or stands in a text.
    ('{"name": "other", "parameters": {}}', '{"name": "other", "parameters": {}}', []),
    ('{"name": ["weather"]}', '{"name": ["weather"]}', []),
    ('[{"name": "time"}, 5]', '[{"name": "time"}, 5]', []),
    ("[]", "[]", []),
    ('{"name": "time", "arguments": "x"}', '{"name": "time", "arguments": "x"}', []),
    ("<tool_call>{broken</tool_call> and more", "<tool_call>{broken</tool_call> and more", []),
    ('{"city": "Rome"} it is', '{"city": "Rome"} it is', []),
    ('It is {"name": "time"}', 'It is {"name": "time"}', []),
    ("a < b and <tool", "a < b and <tool", []),
    ('{"name": "time", ', '{"name": "time", ', []),
]


def read(pieces, *, is_single: bool = False) -> tuple[str, list[WrittenCall]]:
    reader, shown, calls = ToolCallReader(NAMES, is_single=is_single), "", []
    for place, piece in enumerate(pieces):
        text, found = reader.feed(piece, is_last=place == len(pieces) - 1)
        shown += text
        calls += found
    return shown, calls


@pytest.mark.parametrize(("answer", "text", "calls"), ANSWERS)
def test_text_and_calls_are_told_apart(answer, text, calls):
    assert read([answer]) == (text, calls)


@given(st.data(), st.sampled_from([answer for answer, _, calls in ANSWERS if calls and answer[-1] != "\n"]))
def test_where_one_call_is_allowed_the_first_is_the_last(data, answer):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(answer)), max_size=8)) | {0, len(answer)})
    pieces = [answer[start:end] for start, end in itertools.pairwise(cuts)]
    text, calls = read([f"{answer}{TAGGED_NOW}"], is_single=True)
    assert calls == read([answer])[1][:1]
    assert read([*pieces, TAGGED_NOW], is_single=True) == (text, calls)


@given(st.data(), st.sampled_from([answer for answer, *_ in ANSWERS]))
def test_the_pieces_of_an_answer_do_not_matter(data, answer):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(answer)), max_size=8)) | {0, len(answer)})
    pieces = [answer[start:end] for start, end in itertools.pairwise(cuts)] or [""]
    assert read(pieces) == read([answer])
    assert read([*answer, ""]) == read([answer])


@given(
    st.lists(
        st.sampled_from(["<tool_call>", "</tool_call>", "{", "}", '"name": "time"', "x", " ", "[", "]", "<"])
    )
)
def test_any_text_at_all_is_read_the_same_in_any_pieces(parts):
    shown, calls = read([*parts, ""])
    assert (shown, calls) == read(["".join(parts)])
    if not calls:
        assert shown == "".join(parts)


def test_text_before_a_call_is_not_held_back():
    reader = ToolCallReader(NAMES)
    assert reader.feed("Let me see. <tool", is_last=False) == ("Let me see. ", [])
    assert reader.feed("s are fine", is_last=False) == ("<tools are fine", [])
    assert reader.feed(TAGGED, is_last=False) == ("", [ROME])


def test_a_nested_monster_is_text():
    monster = "[" * 100_000
    assert read([monster]) == (monster, [])
    assert read([f"<tool_call>{monster}</tool_call>"])[1] == []
    assert json.loads(ROME.arguments) == {"city": "Rome"}
