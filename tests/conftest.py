"""Fixtures every suite shares: the trained checkpoints and texts that travel with the repository."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Generator

# transformers compiles its quantizers unless told otherwise before torch is imported, whichever test is
# first; compiled sums have another order, and the oracle is its formulas, one operation after another.
os.environ["TORCHDYNAMO_DISABLE"] = "1"
# Two workers share two cores: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What tests write durably they write to memory, where there is room: the calls are the same, and nobody waits
# for a disk. Nothing here cuts the power; what would be lost then, tests/platform/audit works out itself.
MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# In the background of a shell the interrupt is ignored; what tests start and interrupt would ignore it, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("patient", settings.default, deadline=None)
settings.load_profile("patient")

# The wheel job runs tests/library with the source tree out of the way and points here instead.
EXAMPLES = Path(os.environ.get("TRITIUM_EXAMPLES", Path(__file__).resolve().parent.parent / "examples"))
SHARED_MODELS = Path(__file__).resolve().parent.parent.parent / "shared" / "models"


TOOL_TEMPLATE = """\
{%- if tools %}
{%- for tool in tools %}{{ tool | tojson }}
{% endfor %}Answer with <tool_call>
{% endif %}
{%- for message in messages %}
{%- if message.role == "tool" %}<tool_response>{{ message.content }}</tool_response>
{%- else %}{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}
{%- endif %}
{% endfor %}"""


if (PROGRAMS := "tritium_test_programs") not in sys.modules:
    spec = importlib.util.spec_from_file_location(PROGRAMS, Path(__file__).with_name("programs.py"))
    sys.modules[PROGRAMS] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PROGRAMS])


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage among modules and tests, now or later: with torch a look takes most of a second."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that needs a service or a toolchain and was skipped in CI: there they are promised."""
    report = yield
    needs = [marker for marker in ("service", "toolchain") if item.get_closest_marker(marker)]
    if report.skipped and os.environ.get("CI") == "true" and needs:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} needs a {needs[0]} and was skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def scripture_llama() -> Path:
    """A dense Llama checkpoint of 5.8 million parameters, bf16."""
    return EXAMPLES / "models" / "scripture-llama-6m"


@pytest.fixture(scope="session")
def scripture_bitnet_bitlinear() -> Path:
    """A native ternary checkpoint whose `weight_scale` divides."""
    return EXAMPLES / "models" / "scripture-bitnet-6m-bitlinear"


@pytest.fixture(scope="session")
def scripture_bitnet_offline() -> Path:
    """The same ternary model with a `weight_scale` that multiplies."""
    return EXAMPLES / "models" / "scripture-bitnet-6m-offline"


@pytest.fixture(scope="session")
def scripture_bitnet_online() -> Path:
    """The same model as bf16 masters; 11 MB that do not travel with the repository."""
    path = SHARED_MODELS / "scripture-bitnet-6m-online"
    if not path.is_dir():
        pytest.skip("the bf16 masters of the ternary model are not beside this checkout")
    return path


@pytest.fixture(scope="session")
def scripture_llama_without_end(scripture_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dense checkpoint with room for a text of minutes: no request ends by itself while a test looks."""
    folder = tmp_path_factory.mktemp("models") / "scripture-llama-without-end"
    shutil.copytree(scripture_llama, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2**16}))
    return folder


@pytest.fixture(scope="session")
def scripture_llama_with_tools(scripture_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dense checkpoint with a chat template that knows tools, in the words of Hermes and Qwen."""
    folder = tmp_path_factory.mktemp("models") / "scripture-llama-with-tools"
    shutil.copytree(scripture_llama, folder)
    (folder / "chat_template.jinja").write_text(TOOL_TEMPLATE, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def held_out_text() -> str:
    """Validation text; documents are separated by blank lines."""
    return (EXAMPLES / "text" / "held_out.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def calibration_text() -> str:
    """A part of the training text."""
    return (EXAMPLES / "text" / "calibration.txt").read_text(encoding="utf-8")
