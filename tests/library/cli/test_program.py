from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tritium.cli import main
from tritium.cli.failure import exit_code
from tritium.cli.output import write_json
from tritium.errors import (
    BitNetServiceError,
    InsufficientMemoryError,
    MissingExtraError,
    PlatformError,
    ProcessingError,
    ResourceError,
    ValidationError,
)

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = ["quantize", "run", "chat", "embed", "eval", "show", "report", "bench", "env", "serve"]


def modules_imported_for_help(code: str) -> set[str]:
    program = (
        f"import atexit, sys; atexit.register(lambda: print(sorted(sys.modules), file=sys.stderr)); {code}"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--help"], check=True, capture_output=True, text=True
    )
    assert "--help" in done.stdout
    return set(ast.literal_eval(done.stderr))


def test_help_imports_nothing_beyond_what_a_program_of_one_command_needs():
    smallest = "import typer; program = typer.Typer(); program.command()(lambda: None); program()"
    ours = modules_imported_for_help("import tritium.cli; tritium.cli.main()")
    # What takes its time is what is imported: numpy alone would double it.
    beyond = ours - modules_imported_for_help(smallest)
    assert {name for name in beyond if not name.startswith("tritium.cli")} <= {"tritium", "tritium.errors"}


def test_a_quantization_on_top_of_itself_says_that_nothing_was_done(
    run_tritium, scripture_bitnet_offline, tmp_path
):
    words = ["quantize", scripture_bitnet_offline, "--out", tmp_path / "m"]
    first, second = run_tritium(*words), run_tritium(*words)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "already" not in first.stderr
    assert "holds this model already" in second.stderr


@pytest.mark.parametrize("place", ["", ".", "/", "nowhere", "no where/ümlaut"])
def test_a_place_without_a_model_is_named_in_the_message(run_tritium, tmp_path, place):
    done = run_tritium("show", place, cwd=tmp_path)
    assert done.returncode == 2
    assert (place or ".") in done.stderr
    assert not done.stderr.startswith("Error: :")


def test_a_line_of_json_is_there_to_be_read_while_the_program_runs(monkeypatch):
    read, write = os.pipe()
    os.set_blocking(read, False)
    with os.fdopen(read, "rb") as reader, os.fdopen(write, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        write_json({"url": "http://127.0.0.1:1"})
        assert reader.readline() == b'{"url": "http://127.0.0.1:1"}\n'


def test_help_names_every_command_and_the_exit_codes(run_tritium):
    done = run_tritium("--help")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    for command in COMMANDS:
        (line,) = (line for line in lines if line.startswith(f"  {command} "))
        assert line.endswith("."), line
        assert not line.endswith("..."), "the first sentence is cut off"
    assert "2 bad input" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_takes_the_three_formats(run_tritium, command: str):
    done = run_tritium(command, "--help")
    assert done.returncode == 0
    assert "--format <human|json|quiet>" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["--nonsense"],
        ["run"],
        ["run", "{model}", "x", "--format", "yaml"],
        ["run", "{model}", "x", "--threads", "0"],
        ["run", "{model}", "x", "--temperature", "-1"],
        ["run", "{model}", "x", "--temperature", "nan"],
        ["run", "{model}", "x", "--max-tokens", "0"],
        ["run", "{model}", "x", "--max-tokens", "many"],
        ["run", "{model}", "x", "--stop", ""],
        ["run", "{model}", "word " * 2000],
        ["run", "{model}", ""],
        ["run", "/no/such/model", "x"],
        ["run", "x" * 5000, "x"],
        ["show", "x" * 5000],
        ["quantize", "{model}", "--out", "{out}", "--config", "{text}"],
        ["quantize", "{model}", "--out", "{out}", "--config", "/no/such/file"],
        ["show", "/dev/null"],
        ["show", "{text}"],
        ["quantize", "{model}", "--out", "{text}"],
        ["quantize", "{model}", "--out", "{out}", "--strategy", "magic"],
        ["quantize", "{model}", "--out", "{out}", "--group-size", "33"],
        ["quantize", "{model}", "--out", "{out}", "--max-planes", "4"],
        ["quantize", "{model}", "--out", "{out}", "--max-loss", "-1"],
        ["quantize", "{model}", "--out", "{out}", "--average-bits", "9"],
        ["quantize", "{model}", "--out", "{out}", "--target-loss", "0.1"],
        ["quantize", "{model}", "--out", "{out}", "--average-bits", "2", "--target-loss", "0.1"],
        ["quantize", "{model}", "--out", "{out}", "--validation", "/no/such/text"],
        ["quantize", "{model}", "--out", "{text}/below"],
        ["eval", "{model}"],
        ["eval", "{model}", "--text", "/no/such/text"],
        ["eval", "{model}", "--text", "{model}/model.safetensors"],
        ["bench", "{model}", "--streams", "1,zero"],
        ["bench", "{model}", "--streams", ""],
        ["bench", "{model}", "--streams", "99999999999999999999"],
        ["embed", "{model}", "text"],
    ],
)
def test_bad_input_is_one_clear_message_and_exit_code_2(
    monkeypatch, capsys, scripture_llama, tmp_path, arguments
):
    (tmp_path / "text.txt").write_text("hello")
    names = {"model": scripture_llama, "text": tmp_path / "text.txt", "out": tmp_path / "out"}
    monkeypatch.setattr(sys, "argv", ["tritium", *(argument.format(**names) for argument in arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    written = capsys.readouterr()
    assert end.value.code == 2, written.err
    assert written.out == ""
    assert "Error: " in written.err
    assert not (tmp_path / "out").exists()


def test_an_error_is_json_where_json_was_asked_for(run_tritium):
    for arguments in (["--format", "json"], ["--format=json"]):
        done = run_tritium("show", "/no/such/model", *arguments)
        assert done.returncode == 2
        error = json.loads(done.stderr)["error"]
        assert error["code"] == "validation"
        assert error["recovery"] == "fix_request"
        assert "/no/such/model" in error["message"]


def test_without_a_command_the_help_is_shown(run_tritium):
    done = run_tritium()
    assert done.returncode == 2
    assert "Commands:" in done.stdout + done.stderr


def test_the_version_is_printed(run_tritium):
    done = run_tritium("--version")
    assert done.returncode == 0
    assert done.stdout.strip()[0].isdigit()
    assert run_tritium("env", "--format", "quiet").stdout == done.stdout


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValidationError("x"), 2),
        (MissingExtraError(extra="hub", feature="x"), 3),
        (ResourceError("x"), 4),
        (InsufficientMemoryError("x"), 4),
        (ProcessingError("x"), 1),
        (PlatformError("x"), 1),
        (BitNetServiceError("x"), 1),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error, code):
    assert exit_code(error) == code


WITHOUT = "import sys; sys.modules.update(dict.fromkeys({modules!r})); from tritium.cli import main; main()"


@pytest.mark.parametrize(
    ("modules", "arguments", "extra"),
    [
        (["uvicorn"], ["serve", "{model}"], "serve"),
        (["fastapi"], ["serve", "{model}"], "serve"),
        (["huggingface_hub"], ["show", "organisation/model"], "hub"),
    ],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    scripture_llama, modules, arguments, extra
):
    words = [argument.format(model=scripture_llama) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(modules=modules), *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert f"pip install 'tritium[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_with_130_and_without_a_traceback(tritium_program, scripture_llama: Path):
    words = [*tritium_program, "chat", str(scripture_llama), "--max-tokens", "2", "--format", "json"]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["completion_tokens"] <= 2
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert b"Traceback" not in process.stderr.read()


def test_ctrl_c_while_quantizing_says_how_to_go_on(tritium_program, scripture_llama: Path, tmp_path: Path):
    words = [*tritium_program, "quantize", str(scripture_llama), "--out", str(tmp_path / "m")]
    work = tmp_path / ".m.quantizing"
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while process.poll() is None and not any(work.glob("*.safetensors")):
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        written = process.stderr.read()
    assert b"goes on where it stopped" in written
    assert b"Traceback" not in written
    assert any(work.glob("*.safetensors"))
    assert not (tmp_path / "m").exists()


def test_a_reader_that_goes_away_is_no_traceback(tritium_program, scripture_llama: Path):
    words = [
        *tritium_program,
        "run",
        str(scripture_llama),
        "In the",
        "--max-tokens",
        "400",
        "--temperature",
        "0",
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait(60) in {0, 1}
        errors = process.stderr.read()
        assert b"Traceback" not in errors
        assert b"Exception ignored" not in errors
