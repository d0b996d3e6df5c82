from __future__ import annotations

import asyncio
import json
import re
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.engine.grammar import MAX_GRAMMAR_LENGTH, Grammar, GrammarCompiler, one_of
from tritium.engine.runner import EngineThread
from tritium.errors import MissingExtraError, ValidationError

pytestmark = pytest.mark.serve
PROMPTS = ["In the beginning", "And it came to pass that", "q"]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "years": {"type": "integer", "maximum": 999}},
    "required": ["name", "years"],
    "additionalProperties": False,
}
FORMS = [
    Grammar(kind="json_schema", source=json.dumps(SCHEMA)),
    Grammar(kind="regex", source=r"[A-Z][a-z]{2,9}( [a-z]{2,9}){3}\."),
    Grammar(kind="grammar", source='root ::= "yes" | "no, " root'),
    Grammar(kind="grammar", source='start: "a" b+ "c"\nb: /[0-9]/'),
]


@pytest.fixture(scope="module")
def compiler(scripture):
    tokenizer = scripture.tokenizer
    return GrammarCompiler(tokenizer, vocab_size=tokenizer.vocab_size, end_token_ids=tokenizer.eos_token_ids)


def text_of(outputs) -> str:
    return "".join(output.text for output in outputs)


def write(new_engine, new_request, run_to_end, **sampling):
    engine = new_engine()
    engine.add_request(new_request("r", PROMPTS[0], **({"max_tokens": 60} | sampling)))
    return run_to_end(engine)["r"]


def allowed(matcher) -> list[int]:
    return np.flatnonzero(np.unpackbits(matcher.mask(), bitorder="little")).tolist()


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 7}, {"temperature": 2.0, "seed": 1}])
def test_an_answer_has_the_form_that_was_asked_for(new_engine, new_request, run_to_end, sampling):
    def ask(form):
        return write(new_engine, new_request, run_to_end, grammar=form, **sampling)

    answer = json.loads(text_of(ask(FORMS[0])))
    assert set(answer) == {"name", "years"}
    assert len(answer["name"]) <= 8
    assert isinstance(answer["years"], int)
    assert re.fullmatch(FORMS[1].source, text_of(ask(FORMS[1])))
    written = ask(FORMS[2])
    assert re.fullmatch("(no, )*(yes)?(n|no|no,)?", text_of(written))
    assert text_of(written).endswith("yes") == (written[-1].finish_reason == "stop")
    assert text_of(ask(one_of(["left", "right"]))) in {"left", "right"}


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "seed": 5, "top_p": 0.9}])
@pytest.mark.parametrize("limits", [{}, {"max_batched_tokens": 7}, {"kv_cache_bytes": 1728 * 16 * 6}])
def test_forms_share_a_batch_with_free_texts_and_nobody_notices(
    new_engine, new_request, run_to_end, limits, sampling
):
    forms = [*FORMS, None, None]
    requests = [
        new_request(str(place), PROMPTS[place % 3], grammar=form, max_tokens=20, **sampling)
        for place, form in enumerate(forms)
    ]

    def tokens(outputs) -> list[int]:
        return [token for output in outputs for token in output.token_ids]

    alone = {}
    for request in requests:
        engine = new_engine()
        engine.add_request(request)
        alone |= run_to_end(engine)
    engine = new_engine(**limits)
    for request in requests:
        engine.add_request(request)
    together = run_to_end(engine)
    for request in requests:
        assert tokens(together[request.request_id]) == tokens(alone[request.request_id])


def test_a_complete_form_ends_the_answer_whatever_else_was_said(
    new_engine, new_request, run_to_end, scripture
):
    (end, *_) = scripture.tokenizer.eos_token_ids
    # `ignore_eos` is on in these requests, and a bias cannot make the form longer.
    outputs = write(new_engine, new_request, run_to_end, grammar=one_of(["Moses"]), logit_bias={42: 100})
    assert (text_of(outputs), outputs[-1].finish_reason) == ("Moses", "stop")
    optional = Grammar(kind="regex", source="Moses( said)*")
    outputs = write(new_engine, new_request, run_to_end, grammar=optional, logit_bias={end: 100})
    assert (text_of(outputs), outputs[-1].token_ids) == ("Moses", (end,))


def test_stop_texts_and_max_tokens_cut_a_form(new_engine, new_request, run_to_end):
    form = one_of(["first second third"])
    stopped = write(new_engine, new_request, run_to_end, grammar=form, stop=("second",))
    assert (text_of(stopped), stopped[-1].finish_reason) == ("first ", "stop")
    short = write(new_engine, new_request, run_to_end, grammar=form, max_tokens=2)
    assert (len(short), short[-1].finish_reason) == (2, "length")


@pytest.mark.parametrize(
    ("kind", "source", "reason"),
    [
        ("json_schema", '{"type": "strin"}', "strin"),
        ("json_schema", '{"type": "string", "pattern": "("}', "unclosed"),
        ("json_schema", '{"$ref": "#/$defs/no"}', "does not exist"),
        ("json_schema", '{"$ref": "https://example.com/x"}', "example.com"),
        ("json_schema", '{"not": {}}', "not"),
        ("json_schema", "{", "EOF"),
        ("json_schema", "[1]", "object"),
        ("regex", "(", "unclosed"),
        ("regex", "a(?=b)", "look-around"),
        ("grammar", "start: nothing", "nothing"),
        ("grammar", "root ::= (", "cannot be used"),
        ("grammar", "((((", "cannot be used"),
        ("grammar", "\x00", "cannot be used"),
    ],
)
def test_what_is_no_grammar_is_refused_with_the_reason(compiler, kind, source, reason):
    with pytest.raises(ValidationError, match=re.escape(reason)) as caught:
        compiler.compile(Grammar(kind=kind, source=source, param="response_format"))
    assert caught.value.details["param"] == "response_format"
    assert len(caught.value.message) < 400


@given(st.sampled_from(["json_schema", "regex", "grammar"]), st.text(min_size=1, max_size=80))
def test_any_text_at_all_compiles_or_is_refused(compiler, kind, source):
    try:
        matcher = compiler.compile(Grammar(kind=kind, source=source))
    except ValidationError:
        return
    assert allowed(matcher)


def test_a_source_that_is_empty_or_too_long_is_refused():
    for source in ("", "x" * (MAX_GRAMMAR_LENGTH + 1)):
        with pytest.raises(ValidationError, match=str(MAX_GRAMMAR_LENGTH)):
            Grammar(kind="regex", source=source)
    for texts in ([], [""], ["x"] * 1025):
        with pytest.raises(ValidationError, match="1024"):
            one_of(texts)


def test_a_choice_may_hold_any_characters(compiler):
    text = 'a "quoted" \\ back\nline é'
    matcher = compiler.compile(one_of([text]))
    for token in compiler._tokenizer.encode(text, add_special=False):
        assert token in allowed(matcher)
        is_complete = matcher.accept(token)
    assert is_complete


def test_white_space_in_json_is_bounded(compiler):
    def takes(text: str) -> bool:
        matcher = compiler.compile(FORMS[0])
        for token in compiler._tokenizer.encode(text, add_special=False):
            if token not in allowed(matcher):
                return False
            matcher.accept(token)
        return True

    assert takes('{"name":"a","years":1}')
    assert takes('{"name": "a", "years": 1}')
    assert takes('{\n    "name": "a",\n    "years": 1\n}')
    assert not takes("{" + "\n" * 9)
    assert not takes("{" + " " * 9)


def test_a_grammar_that_outgrows_its_limits_fails_its_own_request_alone(new_engine, new_request, run_to_end):
    ways = " | ".join(f'"{place}" x' for place in range(2200))
    heavy = Grammar(kind="grammar", source=f'start: x\nx: {ways} | "~"')
    engine = new_engine()
    engine.add_request(new_request("heavy", PROMPTS[0], grammar=heavy))
    engine.add_request(new_request("light", PROMPTS[0]))
    outputs = run_to_end(engine)
    assert outputs["light"][-1].finish_reason == "length"
    last = outputs["heavy"][-1]
    assert (last.finish_reason, "grammar" in (last.error or "")) == ("error", True)


def test_without_the_library_the_extra_is_named(compiler, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtraError, match=r"tritium\[serve\]"):
        compiler.compile(FORMS[0])


async def test_a_grammar_is_compiled_while_the_others_go_on(new_engine, new_request, monkeypatch):
    engine = new_engine()
    compiling, go_on = threading.Event(), threading.Event()
    compile_grammar = engine.compile_grammar

    def slow(grammar):
        compiling.set()
        assert go_on.wait(20)
        return compile_grammar(grammar)

    monkeypatch.setattr(engine, "compile_grammar", slow)
    thread = EngineThread(engine).start()
    try:
        form = one_of(["left", "right"])
        waiting = asyncio.create_task(thread.generate(new_request("form", PROMPTS[0], grammar=form)))
        assert await asyncio.to_thread(compiling.wait, 20)
        free = [output async for output in await thread.generate(new_request("free", PROMPTS[1]))]
        assert free[-1].finish_reason == "length"
        assert not waiting.done()
        go_on.set()
        outputs = [output async for output in await waiting]
        assert text_of(outputs) in {"left", "right"}
    finally:
        go_on.set()
        thread.close()


async def test_a_bad_grammar_is_refused_before_anything_is_queued(new_engine, new_request):
    thread = EngineThread(new_engine()).start()
    try:
        bad = Grammar(kind="regex", source="(", param="structured_outputs")
        with pytest.raises(ValidationError, match="structured_outputs cannot be used"):
            await thread.generate(new_request("r", "q", grammar=bad))
        outputs = [output async for output in await thread.generate(new_request("r", "q", max_tokens=2))]
        assert outputs[-1].completion_tokens == 2
    finally:
        thread.close()


def test_llm_takes_a_grammar_and_goes_on_after_a_bad_one(scripture_llama):
    from tritium import LLM, Grammar, SamplingParams  # noqa: PLC0415 - beside what it tests

    with LLM(scripture_llama, threads=1) as llm:
        with pytest.raises(ValidationError, match="unclosed"):
            llm.generate(PROMPTS, sampling=SamplingParams(grammar=Grammar(kind="regex", source="(")))
        found = llm.generate(PROMPTS, sampling=SamplingParams(grammar=one_of(["left", "right"]), logprobs=0))
        for completion in found:
            spelled = b"".join(token.chosen.spelling for token in completion.logprobs)
            assert spelled.decode() == completion.text
        assert {completion.text for completion in found} <= {"left", "right"}
        assert {completion.finish_reason for completion in found} == {"stop"}
