"""Chat templates: the real ones render, a hostile one is refused before it costs anything."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tritium.errors import ValidationError
from tritium.model.chat_template import ChatTemplate
from tritium.model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hello "}]
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{%- for m in messages %}\n    {%- if m.role == 'system' and not loop.first %}\n"
    "        {{- raise_exception('The system message must come first.') }}\n    {%- endif %}\n"
    "    {{- '<|im_start|>' ~ m.role ~ '\\n' ~ m.content.split('</think>')[-1].strip() ~ '<|im_end|>\\n' }}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}"
)
HOSTILE = [
    "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{% for a in range(90000) %}{% for b in range(90000) if false %}{% endfor %}{% endfor %}",
    "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set n = namespace(x=9) %}{% for i in range(90) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "{{ 'a' * 10**10 }}",
    "{{ [1] * 10**9 }}",
    "{{ 9 ** 9 ** 9999 }}",
    "{{ 'a'.ljust(10**10) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ '%1000000000d' % 3 }}",
    "{{ 'a' | center(10**10) }}",
    "{{ (1).to_bytes(10**10) }}",
    "{{ ('x' * 4000).replace('x', 'y' * 4000) }}",
    "{{ ('x' * 4000).join(range(90000) | list) }}",
    "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{% set x %}{% for i in range(90000) %}{{ 'a' * 1000 }}{% endfor %}{% endset %}{{ x | length }}",
    "{% set x %}{% for i in range(90000) %}" + "y" * 200_000 + "{% endfor %}{% endset %}{{ x | length }}",
    "{% set b = 'a' * 4000000 %}{% for i in range(90000) %}{% if 'b' in b %}{% endif %}{% endfor %}",
    "{% set b = 'a' * 4000000 %}{% for i in range(90000) %}{% set c = b[1:] %}{% endfor %}",
    "{% for i in range(99) %}{% set x = range(90000) | list | sort | length %}{% endfor %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.append(1) }}",
    "{{ self.__init__.__globals__ }}",
    "{% include '/etc/passwd' %}",
    "{{ messages[0].nothing.more }}",
    "{% for %}",
    "{{ '" + "(" * 100_000 + "' }}" + "{{ " + "(" * 5000,
    "x" * (1 << 19),
]


def test_templates_of_real_models_render() -> None:
    assert ChatTemplate(LLAMA3).render(MESSAGES, add_generation_prompt=True, bos_token="<s>") == (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert ChatTemplate(CHATML).render(MESSAGES, add_generation_prompt=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
    )


def test_the_template_of_a_checkpoint_is_used(scripture_llama: Path) -> None:
    tokenizer = Tokenizer(scripture_llama)
    assert tokenizer.has_chat_template
    assert tokenizer.apply_chat_template(MESSAGES) == "Be brief.\n Hello \n"


def test_a_refusal_by_the_template_reaches_the_caller() -> None:
    with pytest.raises(ValidationError, match="The system message must come first"):
        ChatTemplate(CHATML).render(MESSAGES[::-1], add_generation_prompt=True)


def test_a_long_conversation_is_not_mistaken_for_an_attack() -> None:
    messages = [{"role": "user", "content": "word " * 2000}] * 300
    text = ChatTemplate(LLAMA3).render(messages, add_generation_prompt=True, bos_token="")
    assert len(text) > 3_000_000


@pytest.mark.parametrize("source", HOSTILE, ids=lambda source: source[:60])
def test_a_hostile_template_is_refused_soon(source: str) -> None:
    start = time.process_time()
    with pytest.raises(ValidationError, match="The chat template"):
        ChatTemplate(source).render(MESSAGES, add_generation_prompt=True)
    assert time.process_time() - start < 5


def test_a_model_without_a_template_says_so(scripture_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((scripture_llama / "tokenizer.json").read_bytes())
    with pytest.raises(ValidationError, match="no chat template"):
        Tokenizer(tmp_path).apply_chat_template(MESSAGES)
