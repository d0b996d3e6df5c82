from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path

import pytest

from tritium.engine.loading import load_engine
from tritium.engine.processor import ProcessorReading, read_processor
from tritium.engine.recording import Deliveries, StepFigures, TraceRecorder
from tritium.engine.request import GenerationRequest, SamplingParams
from tritium.engine.runner import EngineThread
from tritium.engine.trace import Trace, line_of, read_trace
from tritium.engine.yardstick import Yardstick
from tritium.errors import ValidationError

YARDSTICK = Yardstick(
    weight_bytes=10,
    products_per_token=20,
    threads=2,
    isa="avx2",
    bytes_per_second=1e9,
    products_per_second=None,
)


def write(path: Path, trace: Trace) -> Path:
    path.write_text("".join(map(line_of, (trace.engine, *trace.requests, *trace.intervals))))
    return path


def test_what_is_written_is_read_again(new_trace, tmp_path):
    trace = new_trace(
        [{"arrival": n * 0.25, "priority": -n, "tenant": str(n % 3)} for n in range(9)],
        engine={"yardstick": YARDSTICK, "latency_seconds": 0.125},
    )
    found = read_trace(write(tmp_path / "t", trace))
    assert found.engine == trace.engine
    assert [request.priority for request in found.requests] == [-n for n in range(9)]
    for got, expected in zip(found.requests, trace.requests, strict=True):
        assert got.first_seconds == pytest.approx(expected.first_seconds, abs=1e-9)
    assert found.sums == trace.sums  # to the last bit


def test_a_last_line_that_was_cut_off_is_left_out(new_trace, tmp_path):
    path = write(tmp_path / "t", new_trace([{}, {}]))
    whole = read_trace(path)
    path.write_text(path.read_text()[:-9])
    cut = read_trace(path)
    assert cut.intervals == whole.intervals[:-1]
    assert cut.requests == whole.requests


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line | {"prompt": "3"},
        lambda line: line | {"prompt": -1},
        lambda line: line | {"prompt": True},
        lambda line: line | {"arrival": float("nan")},
        lambda line: line | {"end_seconds": None},
        lambda line: line | {"more": 1},
        lambda line: {key: line[key] for key in line if key != "tenant"},
        lambda line: line | {"kind": "poem"},
        lambda line: [line],
    ],
)
def test_a_line_that_is_wrong_is_named(new_trace, tmp_path, spoil):
    path = write(tmp_path / "t", new_trace([{}, {}]))
    lines = path.read_text().splitlines()
    lines[1] = json.dumps(spoil(json.loads(lines[1])))
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValidationError, match="line 2"):
        read_trace(path)


def test_what_is_no_trace_is_refused(new_trace, tmp_path):
    path = tmp_path / "t"
    for content in (b"", b"\xff\xfe\n", b"[]\n", b'{"kind":"trace","version":9}\n'):
        path.write_bytes(content)
        with pytest.raises(ValidationError):
            read_trace(path)
    with pytest.raises(ValidationError, match="cannot be read"):
        read_trace(tmp_path / "nothing")
    twice = line_of(new_trace([{}]).engine)
    path.write_text(twice + twice)
    with pytest.raises(ValidationError, match="describes no engine, or several"):
        read_trace(path)


@pytest.fixture
def traced_run(scripture_llama, tmp_path):
    """Run requests of two tenants in a real engine that writes a trace."""

    async def run(requests: int = 12) -> tuple[Path, list]:
        path = tmp_path / "trace.jsonl"
        loaded = load_engine(scripture_llama, threads=1, trace=path)
        thread = EngineThread(loaded.engine).start()
        text = "The LORD is my shepherd; I shall not want. " * 3
        last = []
        for number in range(requests):
            request = GenerationRequest(
                request_id=f"request-{number}",
                prompt_token_ids=tuple(loaded.tokenizer.encode(text)),
                sampling=SamplingParams(max_tokens=5, temperature=0, ignore_eos=True),
                tenant=f"customer {number % 2}",
                cache_salt=f"customer {number % 2}",
            )
            last.append([output async for output in thread.submit(request)][-1])
        thread.close()
        return path, last

    return run


async def test_a_real_engine_writes_what_its_requests_took_and_never_what_was_said(traced_run):
    path, last = await traced_run()
    trace = read_trace(path)
    assert [each.prompt for each in trace.requests] == [output.prompt_tokens for output in last]
    assert [each.output for each in trace.requests] == [5] * 12
    assert [each.cached for each in trace.requests] == [output.cached_tokens for output in last]
    assert trace.requests[2].cached > 0
    assert len({each.tenant for each in trace.requests}) == 2
    for each in trace.requests:
        assert 0 <= each.queue_seconds <= each.first_seconds <= each.end_seconds
    assert sum(each.steps for each in trace.intervals) == 12 * 5
    assert sum(each.rows for each in trace.intervals) == 12 * 4
    assert sum(each.prompt_tokens for each in trace.intervals) == sum(
        each.prompt - each.cached for each in trace.requests
    )
    written = path.read_text()
    assert "shepherd" not in written
    assert "customer" not in written
    assert "request-" not in written
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    yardstick = trace.engine.yardstick
    assert yardstick.weight_bytes > 10**6
    assert yardstick.products_per_token > 4 * 10**6
    assert yardstick.bytes_per_second > 1e8


async def test_a_tenant_has_another_digest_in_every_trace(traced_run):
    digests = []
    for _ in range(2):
        path, _ = await traced_run(2)
        digests += [each.tenant for each in read_trace(path).requests]
    assert len(set(digests)) == 4


def figures(number: int, **changes) -> StepFigures:
    values = {
        "started": number * 0.25,
        "seconds": 0.125,
        "rows": 2,
        "prompt_tokens": 0,
        "running": 2,
        "waiting": 1,
        "kv_used": 0.5,
        "preemptions": 0,
        "refused": 0,
        "pressure": 0.25,
    }
    return StepFigures(**(values | changes))


def recorder_at(path, **settings) -> TraceRecorder:
    return TraceRecorder(path, clock=lambda: 0.0, read=ProcessorReading, **settings)


def test_the_time_between_two_steps_counts_unless_there_was_nothing_to_do(new_trace, tmp_path):
    recorder = recorder_at(tmp_path / "t")
    recorder.begin(new_trace([{}]).engine)
    for number in range(8):
        recorder.step(figures(number), has_work=number != 3)
    recorder.close()
    recorder.close()
    trace = read_trace(tmp_path / "t")
    assert sum(each.steps for each in trace.intervals) == 8
    # Seven gaps of 0.125 s lie between eight steps; one of them was idle, and the last step has none.
    assert sum(each.busy_seconds for each in trace.intervals) == pytest.approx(8 * 0.125 + 6 * 0.125)
    assert [each.running for each in trace.intervals] == [2.0] * len(trace.intervals)


def test_deliveries_are_counted_until_they_are_taken():
    deliveries = Deliveries()
    deliveries.record(seconds=0.25, unread=3)
    deliveries.record(seconds=0.75, unread=1)
    assert deliveries.take() == (0.5, 3)
    assert deliveries.take() == (0.0, 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_ends_the_trace_and_not_the_engine(new_trace, caplog):
    caplog.set_level(logging.WARNING)
    recorder = recorder_at(Path("/dev/full"))
    recorder.begin(new_trace([{}]).engine)
    for number in range(8):
        recorder.step(figures(number), has_work=True)
    recorder.close()
    assert [record.message for record in caplog.records] == [
        "the trace /dev/full cannot be written any more: No space left on device"
    ]


def test_a_trace_grows_no_larger_than_it_may(new_trace, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    recorder = recorder_at(tmp_path / "t", most_bytes=3000)
    recorder.begin(new_trace([{}]).engine)
    for number in range(400):
        recorder.step(figures(number), has_work=True)
    recorder.close()
    assert (tmp_path / "t").stat().st_size <= 3000
    assert read_trace(tmp_path / "t").intervals
    assert len(caplog.records) == 1


def test_a_place_where_nothing_can_be_written_is_refused_at_once(tmp_path):
    with pytest.raises(ValidationError, match="cannot be written"):
        TraceRecorder(tmp_path / "none" / "t")


def test_the_processors_are_read_as_the_system_tells():
    files = {
        "/proc/stat": "cpu  1 2 3 4 5 6 7 8 9 9\ncpu0 1 2\n",
        "/proc/self/cgroup": "2:cpu,cpuacct:/x\n",
        "/sys/fs/cgroup/cpu,cpuacct/x/cpu.stat": "nr_throttled 4\nthrottled_time 2500000000\n",
    }
    assert read_processor(files.get, process_time=lambda: 1.5) == ProcessorReading(
        process_seconds=1.5, ticks=36, stolen_ticks=8, throttled_seconds=2.5
    )
    second = {"/proc/self/cgroup": "0::/y\n", "/sys/fs/cgroup/y/cpu.stat": "throttled_usec 750000\n"}
    assert read_processor(second.get).throttled_seconds == 0.75
    assert read_processor(lambda _: None, process_time=lambda: 0.0) == ProcessorReading()
    assert read_processor().ticks > 0 or os.name != "posix"
