"""Runs `tritium`, `tritiumd`, workers and scripts of tests, each in a process that need not import it all.

Most of what a command takes, and of what a server takes to start, is Python importing modules. A process
that has imported what the programs need, and done nothing else, forks itself for every run: a program has its
own arguments, environment, directory, streams and exit code, begins with modules that nobody has used, and
starts its own children from nothing. A script is named by its path and has a function `main`. Tests that look
at how a program starts or ends with its terminal start it from nothing; so do test_tritiumd.py and
test_console_in_a_browser.py in tests/e2e, for all the others.

Loaded once, by path, from tests/conftest.py: test folders are not packages.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PACKAGES = {
    "tritium": "tritium.cli",
    "tritiumd": "tritium_platform.cli",
    "worker": "tritium_platform.worker.quantization_main",
}
PRELOADED = (
    "tritium.cli.app",
    "tritium.quantize",
    "tritium.model.pretrained",
    "tritium.engine",
    "tritium_platform.cli.app",
    "tritium_platform.adapters.telemetry",
    "tritium_platform.adapters.tracing",
    "tritium_platform.adapters.worker_process",
    "tritium_platform.api.server",
    "tritium_platform.compose",
    "tritium_platform.console.pages",
    "tritium_platform.console.reads",
    "tritium_platform.console.reports",
    "tritium_platform.worker.quantization_main",
    "alembic.command",
    "uvloop",
)
LARGEST_REQUEST = 1 << 17


class Server:
    """A process that forks itself for every run."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._address = str(Path(self._folder.name) / "socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(self._address)
            listener.listen()
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno())],
                stdin=subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
        self._started: list[Running] = []
        atexit.register(self._close)

    def start(self, wish: Mapping[str, Any], *, streams: Sequence[int]) -> Running:
        """Have a program begin with these streams."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(self._address)
        socket.send_fds(connection, [json.dumps(wish).encode()], streams)
        self._started = [each for each in self._started if each.poll() is None]
        self._started.append(Running(connection))
        return self._started[-1]

    def _close(self) -> None:
        for each in self._started:
            each.kill()  # as what a test forgot to stop would have us wait for ever
        self._process.communicate()
        self._folder.cleanup()


class Running:
    """A program that runs: as much of `subprocess.Popen` as tests use."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.pid = int(connection.recv(64))
        self.returncode: int | None = None
        self.stdout: IO[bytes]

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, below zero if a signal was the end; subprocess.TimeoutExpired."""
        if self.returncode is None:
            ready, _, _ = select.select([self._connection], [], [], timeout)
            if not ready:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = int(self._connection.recv(64))
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has, and nobody has said so yet
                os.kill(self.pid, number)

    async def ended(self) -> int:
        """Return the exit code, as `wait` does; the loop does other things meanwhile."""
        if self.poll() is None:
            loop, is_over = asyncio.get_running_loop(), asyncio.Event()
            loop.add_reader(self._connection, is_over.set)
            try:
                await is_over.wait()
            finally:
                loop.remove_reader(self._connection)
        return self.wait()

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


@cache
def the_server() -> Server:
    """Return the server of this process, which begins with the first run."""
    return Server()


def run(
    name: str,
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    cwd: Path | None = None,
    timeout: float = 280,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; return its exit code and what it wrote."""
    with tempfile.TemporaryFile() as read, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        read.write(stdin)
        read.seek(0)
        wish = _wish([name, *arguments], environment=environment, cwd=cwd)
        program = the_server().start(wish, streams=[each.fileno() for each in (read, out, err)])
        try:
            code = program.wait(timeout)
        except subprocess.TimeoutExpired:
            program.kill()
            raise
        for written in (out, err):
            written.seek(0)
        return subprocess.CompletedProcess(wish["words"], code, out.read().decode(), err.read().decode())


def start(
    name: str | Path,
    *arguments: object,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> Running:
    """Start a program; what it writes is read from `stdout`, and its log is added to a file."""
    read, write = os.pipe()
    with Path(os.devnull).open("rb") as nothing, log.open("ab") as err, os.fdopen(write, "wb") as out:
        wish = _wish([name, *arguments], environment=environment, cwd=None)
        program = the_server().start(wish, streams=[each.fileno() for each in (nothing, out, err)])
    program.stdout = os.fdopen(read, "rb")
    return program


class Worker:
    """The worker that `asyncio.create_subprocess_exec` would start: as much of it as its supervisor uses."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        read, write = os.pipe()
        self._held = os.fdopen(write, "wb")  # a worker ends when nobody holds its standard input
        with os.fdopen(read, "rb"):
            wish = _wish(["worker"], environment=environment, cwd=None)
            self._running = the_server().start(wish, streams=[read, 1, 2])
        self.pid = self._running.pid
        self.terminate, self.kill = self._running.terminate, self._running.kill

    @property
    def returncode(self) -> int | None:
        """The exit code; None until its end was waited for."""
        return self._running.returncode

    async def wait(self) -> int:
        """Wait for its end, and return the exit code."""
        code = await self._running.ended()
        self._held.close()
        return code


def _wish(
    words: Sequence[object], *, environment: Mapping[str, str] | None, cwd: Path | None
) -> dict[str, Any]:
    return {
        "words": list(map(str, words)),
        "environment": dict(os.environ if environment is None else environment),
        "cwd": str(cwd or Path.cwd()),
    }


def serve(listener: socket.socket) -> Callable[[], None]:
    """Fork for every request until standard input ends; return, in a process of its own, what that runs."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):  # the library stands alone where its wheel is tested
            importlib.import_module(name)
    # A thread would not be there after a fork, and a lock that it held would stay locked.
    assert len(list(Path("/proc/self/task").iterdir())) == 1
    gc.freeze()
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:
            with contextlib.suppress(ChildProcessError):
                while os.wait():
                    pass
            os._exit(0)
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return attend(connection)
        connection.close()
        with contextlib.suppress(ChildProcessError):  # what they took of the processor is ours to answer for
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def attend(connection: socket.socket) -> Callable[[], None]:
    """Fork once more, wait for that process and tell how it ended; return in that process."""
    request, descriptors, _, _ = socket.recv_fds(connection, LARGEST_REQUEST, 3)
    process_id = os.fork()
    if process_id == 0:
        connection.close()
        return become(json.loads(request), descriptors)
    connection.send(str(process_id).encode())
    _, status = os.waitpid(process_id, 0)
    connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def become(wish: Mapping[str, Any], descriptors: list[int]) -> Callable[[], None]:
    """Take the streams, the directory, the environment and the arguments of a run; return its program."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # Made anew: a stream asks once whether it is a file, a pipe or a terminal.
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.chdir(wish["cwd"])
    os.environ.clear()
    os.environ.update(wish["environment"])
    time.tzset()
    sys.argv = wish["words"]
    return main_of(sys.argv[0])


def main_of(name: str) -> Callable[[], None]:
    """Return what a program, or the script at a path, begins with."""
    if name in PACKAGES:
        return importlib.import_module(PACKAGES[name]).main
    spec = importlib.util.spec_from_file_location(Path(name).stem, name)
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])
    return sys.modules[spec.name].main


if __name__ == "__main__":
    # The program is run here, with nothing around it: how it ends is Python's to deal with.
    with socket.socket(fileno=int(sys.argv[1])) as waiting:
        program = serve(waiting)
    program()
