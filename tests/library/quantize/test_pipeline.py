"""The steps of a quantization: the same bytes whoever takes them, and nothing is done twice."""

from __future__ import annotations

import gc
import json
import math
import shutil
import signal
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tritium.errors import ResourceError, ValidationError
from tritium.formats import storage
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.native import open_native
from tritium.formats.scale_codes import decode_scales
from tritium.kernels.packing import unpack_trits
from tritium.model.pretrained import QuantizedModel, load_model
from tritium.quantize import (
    LayerOverride,
    QuantizationConfig,
    QuantizationPlan,
    Stage,
    assemble,
    plan_quantization,
    quantize_layer,
    quantize_model,
)
from tritium.quantize import pipeline as pipeline_module
from tritium.quantize.calibrate import Calibration
from tritium.quantize.source import open_source
from tritium.quantize.windows import calibration_windows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


WITH_AND_WITHOUT_A_BUDGET = pytest.mark.parametrize(
    "config", [None, 3.0], ids=["each layer for itself", "budget"], indirect=True
)


@pytest.fixture
def config(calibration_text: str, held_out_text: str, request: pytest.FixtureRequest) -> QuantizationConfig:
    return QuantizationConfig(
        group_size=32,
        calibration_text=calibration_text[:4000],
        validation_text=held_out_text[:1500],
        calibration_tokens=128,
        window=64,
        average_bits=getattr(request, "param", None),
    )


@pytest.fixture(scope="module")
def bytes_as_asked(tiny_llama: Path, tmp_path_factory) -> Callable[[str], dict[str, bytes]]:
    """What a quantization that nothing stopped writes, made once for all tests that ask for the same."""

    @cache
    def quantized(asked: str) -> dict[str, bytes]:
        out = tmp_path_factory.mktemp("whole") / "uninterrupted"
        quantize_model(tiny_llama, QuantizationConfig.from_dict(json.loads(asked)), out=out)
        return bytes_of(out)

    return quantized


@pytest.fixture
def uninterrupted(bytes_as_asked, config: QuantizationConfig) -> dict[str, bytes]:
    return bytes_as_asked(json.dumps(config.to_dict()))


@pytest.mark.parametrize(
    ("killed_at", "config"),
    [(0, None), (1, None), (6, None), (13, None), (14, None), (0, 3.0), (6, 3.0)],
    indirect=["config"],
)
def test_a_job_killed_at_any_layer_goes_on_there_and_ends_with_the_same_bytes(
    *, tiny_llama, config, uninterrupted, tmp_path, monkeypatch, killed_at
):
    computed: list[str] = []
    original = pipeline_module._quantize_one

    def counting(plan, index, workdir, **opened):
        if len(computed) == killed_at:
            raise KeyboardInterrupt
        computed.append(plan.layers[index].name)
        return original(plan, index, workdir, **opened)

    target = tmp_path / "resumed"
    monkeypatch.setattr(pipeline_module, "_quantize_one", counting)
    if killed_at < 14:
        with pytest.raises(KeyboardInterrupt):
            quantize_model(tiny_llama, config, out=target)
        assert not target.exists()
    done_before = set(computed)
    computed.clear()
    killed_at = -1
    model = quantize_model(tiny_llama, config, out=target)
    assert done_before.isdisjoint(computed)
    assert len(done_before) + len(computed) == 14
    assert bytes_of(target) == uninterrupted
    assert (model.metrics["seconds"] is None) == bool(done_before)
    assert [path.name for path in tmp_path.iterdir() if "quantizing" in path.name] == []


KILLED_WITHIN = """
import json, os, signal, sys
from tritium.formats import storage
from tritium.quantize import QuantizationConfig, compensate, quantize_model

source, config, out, place = sys.argv[1:]
write, sweep, calls = storage.write_synced, compensate._Descent.sweep, []

def die(path, pieces):
    calls.append(path)
    if len(calls) < 12:
        return write(path, pieces)
    write(path, [b"".join(bytes(piece) for piece in pieces)[:200]])
    os.kill(os.getpid(), signal.SIGKILL)

def die_descending(self, **given):
    calls.append(self)
    if len(calls) == 40:
        os.kill(os.getpid(), signal.SIGKILL)
    return sweep(self, **given)

if place == "writing":
    storage.write_synced = die
else:
    compensate._Descent.sweep = die_descending
quantize_model(source, QuantizationConfig.from_dict(json.loads(config)), out=out)
"""


@pytest.mark.parametrize("place", ["writing", "descending"])
def test_after_kill_9_in_the_middle_of_a_calibrated_layer_the_bytes_are_the_same(
    tiny_llama, config, uninterrupted, tmp_path, place
):
    target = tmp_path / "out"
    arguments = [str(tiny_llama), json.dumps(config.to_dict()), str(target), place]
    killed = subprocess.run([sys.executable, "-c", KILLED_WITHIN, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    work = tmp_path / ".out.quantizing"
    assert 0 < len(list(work.glob("*.safetensors"))) < 14
    assert bool(list(work.rglob("*.partial"))) == (place == "writing")
    quantize_model(tiny_llama, config, out=target)
    assert bytes_of(target) == uninterrupted
    assert not work.exists()


KILLED_PROCESS = """
import json, os, signal, sys
from tritium.quantize import QuantizationConfig, Stage, quantize_model

def kill_at_layer_five(step):
    if step.stage is Stage.LAYER and step.completed == 5:
        os.kill(os.getpid(), signal.SIGKILL)

source, config, out = sys.argv[1:]
quantize_model(source, QuantizationConfig.from_dict(json.loads(config)), out=out, progress=kill_at_layer_five)
"""


@WITH_AND_WITHOUT_A_BUDGET
def test_after_kill_9_another_process_finishes_with_the_same_bytes(
    tiny_llama, config, uninterrupted, tmp_path
):
    target = tmp_path / "out"
    arguments = [str(tiny_llama), json.dumps(config.to_dict()), str(target)]
    killed = subprocess.run([sys.executable, "-c", KILLED_PROCESS, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    finished = sorted((tmp_path / ".out.quantizing").glob("*.safetensors"))
    assert len(finished) == 5
    written = [path.stat().st_mtime_ns for path in finished]
    seen = []
    quantize_model(
        tiny_llama,
        config,
        out=target,
        progress=lambda step: (
            seen.append([path.stat().st_mtime_ns for path in finished]) if step.stage is Stage.LAYER else None
        ),
    )
    assert seen[-1] == written
    assert bytes_of(target) == uninterrupted


@WITH_AND_WITHOUT_A_BUDGET
def test_steps_taken_backwards_in_fresh_processes_give_the_same_bytes(
    tiny_llama, config, uninterrupted, tmp_path
):
    plan = plan_quantization(tiny_llama, config)
    stored = json.dumps(plan.to_dict())
    for index in reversed(range(len(plan.layers))):
        again = QuantizationPlan.from_dict(json.loads(stored))
        report = quantize_layer(again, index, tmp_path / "work", threads=1 + index % 2)
        assert report["name"] == plan.layer_names[index]
    assemble(QuantizationPlan.from_dict(json.loads(stored)), tmp_path / "work", tmp_path / "out", threads=1)
    assert bytes_of(tmp_path / "out") == uninterrupted


def test_the_order_and_place_of_the_source_do_not_change_a_byte(tiny_llama, config, uninterrupted, tmp_path):
    shutil.copytree(tiny_llama, tmp_path / "elsewhere")
    quantize_model(tmp_path / "elsewhere", config, out=tmp_path / "out")
    assert bytes_of(tmp_path / "out") == uninterrupted


def test_a_finished_layer_is_not_written_again(tiny_llama, config, tmp_path):
    plan = plan_quantization(tiny_llama, config)
    first = quantize_layer(plan, 3, tmp_path)
    file = tmp_path / f"{plan.layer_names[3]}.safetensors"
    before = file.stat().st_mtime_ns
    assert quantize_layer(plan, 3, tmp_path) == first
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_or_foreign_layer_file_is_computed_again(tiny_llama, config, tmp_path, damage):
    plan = plan_quantization(tiny_llama, config)
    file = tmp_path / f"{plan.layer_names[0]}.safetensors"
    quantize_layer(plan, 0, tmp_path)
    good = file.read_bytes()
    if damage is None:
        quantize_layer(plan_quantization(tiny_llama, QuantizationConfig(group_size=64)), 0, tmp_path)
        assert file.read_bytes() != good
    else:
        file.write_bytes(damage)
    quantize_layer(plan, 0, tmp_path)
    assert file.read_bytes() == good


def test_finishing_twice_returns_the_same_model_and_another_plan_is_refused(tiny_llama, config, tmp_path):
    target = tmp_path / "out"
    quantize_model(tiny_llama, config, out=target)
    before = bytes_of(target)
    again = quantize_model(tiny_llama, config, out=target)
    assert isinstance(again, QuantizedModel)
    assert bytes_of(target) == before
    with pytest.raises(ValidationError, match="another quantized model"):
        quantize_model(tiny_llama, QuantizationConfig(), out=target)


@pytest.mark.parametrize(
    "changed",
    [{"validation_tokens": 64}, {"validation_text": None}, {"validation_text": "In the beginning."}],
)
def test_a_finished_model_whose_report_answers_another_question_is_refused(
    tiny_llama, config, tmp_path, changed
):
    quantize_model(tiny_llama, config, out=tmp_path / "out")
    with pytest.raises(ValidationError, match="report was made on another"):
        quantize_model(tiny_llama, replace(config, **changed), out=tmp_path / "out")


def test_another_calibration_text_is_another_plan(tiny_llama, config):
    other = replace(config, calibration_text="And it came to pass in those days.")
    plans = [plan_quantization(tiny_llama, each) for each in (config, other)]
    assert plans[0].digest != plans[1].digest
    judged_on_more = plan_quantization(tiny_llama, replace(config, validation_text="In the beginning."))
    assert judged_on_more.digest == plans[0].digest  # the layers do not depend on it


def test_without_a_validation_text_the_number_of_its_tokens_asks_nothing(tiny_llama, config, tmp_path):
    plain = replace(config, validation_text=None)
    quantize_model(tiny_llama, plain, out=tmp_path / "out")
    assert quantize_model(tiny_llama, replace(plain, validation_tokens=64), out=tmp_path / "out")


def test_the_saved_trits_and_scales_stand_for_the_reported_weights(tiny_llama, tmp_path):
    quantize_model(tiny_llama, QuantizationConfig(group_size=32, min_planes=2), out=tmp_path / "out")
    with open_native(tmp_path / "out") as native:
        name = "model.layers.1.mlp.down_proj"
        entry = native.manifest["linears"][name]
        rows, columns = entry["out_features"], entry["in_features"]
        trits = unpack_trits(native.checkpoint.read(f"{name}.trits"), count=rows * columns)
        levels = 3 * trits[0].astype(np.float32) + trits[1]
        coded = native.checkpoint.read(f"{name}.scales")
        scales = np.repeat(decode_scales(coded, entry["scale_unit"]), 32, axis=1)[:, :columns]
        weights = levels.reshape(rows, columns) * scales
    with open_checkpoint(tiny_llama) as source:
        original = source.read_float32(f"{name}.weight")
    error = np.linalg.norm(weights - original) / np.linalg.norm(original)
    assert error == pytest.approx(entry["weight_error"], rel=1e-5)


@pytest.fixture
def collector_of_new_objects():
    """The garbage collector looks at what a test makes, not at every module that other tests have loaded."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("collector_of_new_objects")
@pytest.mark.parametrize("calibrates", [False, True])
def test_memory_does_not_grow_with_the_number_of_layers(
    *, make_llama, calibration_text, tmp_path, calibrates
):
    text = calibration_text[:500] if calibrates else None
    config = QuantizationConfig(calibration_text=text, calibration_tokens=32, window=32, max_planes=1)
    peaks = []
    for layers in (2, 6):
        plan = plan_quantization(make_llama(layers=layers), config)
        quantize_layer(plan, 0, tmp_path / f"warm{layers}")
        tracemalloc.start()
        for index in range(len(plan.layers)):
            gc.collect()  # what the collector has not looked at yet is no layer's need
            quantize_layer(plan, index, tmp_path / f"work{layers}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.25 * peaks[0]


def test_calibration_never_holds_the_embedding_nor_a_whole_model(make_llama, calibration_text, tmp_path):
    config = QuantizationConfig(calibration_text=calibration_text[:500], calibration_tokens=32, window=32)
    plan = plan_quantization(make_llama(layers=12), config)
    with open_source(plan.source) as source:
        table = 4 * math.prod(source.checkpoint.tensors["model.embed_tokens.weight"].shape)
        tracemalloc.start()
        calibration = Calibration(plan, tmp_path, source=source, threads=1)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        judged = calibration.inputs(0).judged
        assert tracemalloc.get_traced_memory()[1] - before < table / 2
        tracemalloc.stop()
    whole = load_model(plan.source).generator
    seen = {}
    whole.observer = seen.setdefault
    whole.forward_full(calibration_windows(plan, tmp_path, load_model(plan.source))[0])
    np.testing.assert_array_equal(judged.source, seen[plan.layer_names[0]][-4:])


def test_progress_tells_every_step_once_and_in_order(tiny_llama, config, tmp_path):
    steps = []
    one_plane = replace(config, max_planes=1)
    quantize_model(tiny_llama, one_plane, out=tmp_path / "out", progress=steps.append)
    stages = [step.stage for step in steps]
    assert stages == sorted(stages, key=list(Stage).index)
    layers = [step for step in steps if step.stage is Stage.LAYER]
    assert [step.completed for step in layers] == list(range(1, 15))
    assert all(step.planes == 1 and step.loss > 0 and step.total == 14 for step in layers)
    last = [step for step in steps if step.stage is Stage.VALIDATE][-1]
    assert last.completed == last.total


def test_without_out_the_model_lives_as_long_as_the_result(tiny_llama, tmp_path):
    model = quantize_model(tiny_llama, QuantizationConfig(group_size=32))
    place = model.path
    model.save_pretrained(tmp_path / "kept")
    assert place.is_dir()
    del model
    assert not place.exists()
    assert QuantizedModel.from_pretrained(tmp_path / "kept").bits_per_weight > 1.6


def test_a_source_that_changes_under_way_is_refused(make_llama, tmp_path):
    source = make_llama(seed=1)
    plan = plan_quantization(source)
    for index in range(len(plan.layers)):
        quantize_layer(plan, index, tmp_path / "work")
    shutil.copy(make_llama(seed=2) / "model.safetensors", source / "model.safetensors")
    with pytest.raises(ValidationError, match="changed since"):
        assemble(plan, tmp_path / "work", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_assembling_before_all_layers_are_there_names_the_missing_one(tiny_llama, tmp_path):
    plan = plan_quantization(tiny_llama)
    with pytest.raises(ValidationError, match=r"model\.layers\.0\.self_attn\.q_proj is not quantized"):
        assemble(plan, tmp_path / "work", tmp_path / "out")


def test_a_directory_in_use_is_refused_before_any_work(tiny_llama, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValidationError, match="in use"):
        quantize_model(tiny_llama, out=tmp_path)
    with pytest.raises(ValidationError, match="in use"):
        quantize_model(tiny_llama, out=tmp_path / "mine.txt")


def test_a_full_disk_leaves_finished_layers_and_no_model(tiny_llama, tmp_path, monkeypatch):
    written = 0
    original = storage.write_synced

    def filling(path, pieces):
        nonlocal written
        written += 1
        if written > 5:
            raise OSError(28, "No space left on device")
        original(path, pieces)

    monkeypatch.setattr(storage, "write_synced", filling)
    with pytest.raises(ResourceError):
        quantize_model(tiny_llama, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(list((tmp_path / ".out.quantizing").glob("*.safetensors"))) == 5
    monkeypatch.undo()
    assert quantize_model(tiny_llama, out=tmp_path / "out").metrics["layers"] == 14


WITH_LITTLE_ROOM = """
import json, resource, sys
from tritium.errors import ResourceError
from tritium.quantize import QuantizationConfig, quantize_model

source, config, out, room = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(room), int(room)))
try:
    quantize_model(source, QuantizationConfig.from_dict(json.loads(config)), out=out)
except ResourceError as error:
    print(error.message)
    sys.exit(7)
"""


# The largest layer takes 1 KB, the inputs of a block 119, codes 215, the model 232.
@pytest.mark.parametrize(
    ("room", "file", "layers"),
    [
        (300, "self_attn.q_proj", 0),
        (100_000, "00000.safetensors", 0),
        (150_000, "embed_tokens.codes", 14),
        (220_000, "out", 14),
    ],
)
def test_no_room_at_any_step_says_so_and_what_is_finished_stays(
    tiny_llama, config, tmp_path, *, room, file, layers
):
    target = tmp_path / "out"
    asked = replace(config, embedding_bits=6, validation_text=None)
    if room == 300:
        asked = replace(asked, calibration_text=None)  # else the inputs do not fit already
    arguments = [str(tiny_llama), json.dumps(asked.to_dict()), str(target), str(room)]
    run = subprocess.run(
        [sys.executable, "-c", WITH_LITTLE_ROOM, *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 7, run.stderr
    assert "No room to write" in run.stdout
    assert file in run.stdout
    work = tmp_path / ".out.quantizing"
    assert not target.exists()
    assert len(list(work.glob("model.layers*.safetensors"))) == layers
    assert list(tmp_path.rglob("*.partial")) == []
    quantize_model(tiny_llama, asked, out=target)
    with open_native(target) as resumed:
        assert len(resumed.manifest["linears"]) == 14


@pytest.mark.parametrize("index", [-1, 14])
def test_a_layer_outside_the_plan_is_refused(tiny_llama, tmp_path, index):
    with pytest.raises(ValidationError, match="14 layers"):
        quantize_layer(plan_quantization(tiny_llama), index, tmp_path)


def test_a_configuration_of_plain_values_is_refused_with_the_way_to_make_one(tiny_llama):
    with pytest.raises(ValidationError, match="from_dict"):
        quantize_model(tiny_llama, {"group_size": 64})


def test_an_override_that_matches_nothing_is_refused(tiny_llama):
    config = QuantizationConfig(layers={"model.layers.9.*": LayerOverride(planes=2)})
    with pytest.raises(ValidationError, match=r"model\.layers\.9"):
        plan_quantization(tiny_llama, config)


def test_text_for_a_model_without_a_tokenizer_is_refused(make_llama, held_out_text):
    source = make_llama(tokenizer=False)
    for name in ("calibration_text", "validation_text"):
        with pytest.raises(ValidationError, match=r"tokenizer\.json"):
            plan_quantization(source, QuantizationConfig(**{name: held_out_text}))
    assert quantize_model(source).validation_report["reason"]


def test_a_tritium_model_is_not_quantized_again(tiny_llama, tmp_path):
    quantize_model(tiny_llama, out=tmp_path / "out")
    with pytest.raises(ValidationError, match="Tritium model already"):
        plan_quantization(tmp_path / "out")


@pytest.mark.parametrize("values", [{}, {"version": 2}, {"version": 1}, {"version": 1, "layers": 3}])
def test_a_damaged_plan_is_refused(values):
    with pytest.raises(ValidationError):
        QuantizationPlan.from_dict(values)
