"""Runs `tritium` and `tritiumd` to their end, in a process of its own each time that need not import it all.

Most of what a command takes is Python importing modules. A server that has imported what the programs need,
and done nothing else, forks itself for every run: a command has its own arguments, environment, directory,
streams and exit code, and begins with modules that nobody has used. Tests that look at how a program starts,
and all that speak to one while it runs, start it from nothing.

Loaded once, by path, from tests/conftest.py: test folders are not packages.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
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

PACKAGES = {"tritium": "tritium.cli", "tritiumd": "tritium_platform.cli"}
PRELOADED = (
    "tritium.cli.app",
    "tritium.quantize",
    "tritium.model.pretrained",
    "tritium.engine",
    "tritium_platform.cli.app",
    "tritium_platform.adapters.telemetry",
    "tritium_platform.compose",
    "alembic.command",
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
        atexit.register(self._close)

    def run(self, wish: Mapping[str, Any], *, streams: Sequence[IO[bytes]], timeout: float) -> int:
        """Have a program run with these streams; return its exit code."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(self._address)
            content = json.dumps(wish).encode()
            socket.send_fds(connection, [content], [each.fileno() for each in streams])
            process_id = int(connection.recv(64))
            connection.settimeout(timeout)
            try:
                return int(connection.recv(64))
            except TimeoutError:
                os.kill(process_id, signal.SIGKILL)
                raise

    def _close(self) -> None:
        self._process.communicate()
        self._folder.cleanup()


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
    words = [name, *map(str, arguments)]
    wish = {
        "words": words,
        "environment": dict(os.environ if environment is None else environment),
        "cwd": str(cwd or Path.cwd()),
    }
    with tempfile.TemporaryFile() as read, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        read.write(stdin)
        read.seek(0)
        code = the_server().run(wish, streams=[read, out, err], timeout=timeout)
        for written in (out, err):
            written.seek(0)
        return subprocess.CompletedProcess(words, code, out.read().decode(), err.read().decode())


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
    os.chdir(wish["cwd"])
    os.environ.clear()
    os.environ.update(wish["environment"])
    time.tzset()
    sys.argv = wish["words"]
    return importlib.import_module(PACKAGES[sys.argv[0]]).main


if __name__ == "__main__":
    # The program is run here, with nothing around it: how it ends is Python's to deal with.
    with socket.socket(fileno=int(sys.argv[1])) as waiting:
        program = serve(waiting)
    program()
