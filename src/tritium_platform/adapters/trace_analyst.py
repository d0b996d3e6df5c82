"""Traces as files of a directory, analysed in a process of its own: the gateway's loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import msgspec

from tritium.engine.analysis import Analysis
from tritium_platform.errors import ProcessingError

if TYPE_CHECKING:
    from pathlib import Path

_MODULE = "tritium_platform.worker.analysis_main"
_SUFFIX = ".jsonl"
_MOST_FILES = 64
_SECONDS = 120.0
_decode = msgspec.json.Decoder(Analysis).decode


def new_trace(directory: Path, replica: str) -> Path:
    """Return where the trace of a new engine lies; the oldest ones there make room for it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    old = sorted(directory.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime)
    for path in old[: max(0, len(old) + 1 - _MOST_FILES)]:
        path.unlink(missing_ok=True)
    return directory / f"{replica}{_SUFFIX}"


class ProcessTraceAnalyst:
    """A `TraceAnalyst` over the files of one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def analyse(self, replica: str) -> Analysis | None:
        """Analyse the trace of an engine in a child process; None if there is no file of it."""
        path = self._directory / f"{replica}{_SUFFIX}"
        if not await asyncio.to_thread(path.is_file):
            return None
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", _MODULE, str(path)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(), _SECONDS)
        except TimeoutError:
            raise ProcessingError("The trace of an engine took too long to analyse.") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            reason = errors.decode(errors="replace").strip().splitlines()[-1:]
            raise ProcessingError(f"The trace of an engine cannot be analysed: {' '.join(reason)}")
        return _decode(output)
