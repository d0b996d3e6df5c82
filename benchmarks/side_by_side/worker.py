"""A process that has loaded what it measures and works only when it is asked: one at a time runs."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

SETTLE_SECONDS = 0.05  # idle threads of whoever ran before spin for a moment before they sleep
BENCHMARKS = Path(__file__).resolve().parent.parent


class Worker:
    """Runs `python -m side_by_side.MODULE ARGUMENTS` and talks with it.

    Args:
        python: the interpreter of the environment to measure.
        log: where its standard error goes.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        python: Path,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = " ".join([module, *arguments])
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            [str(python), "-m", f"side_by_side.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=BENCHMARKS,
            env={**os.environ, **(environment or {})},
            text=True,
        )
        self._answer()  # it has loaded

    def ask(self, do: str, **arguments: Any) -> Any:
        """Have a verb run and return its result."""
        time.sleep(SETTLE_SECONDS)
        assert self._process.stdin is not None  # noqa: S101 - opened above
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._answer().get("result")

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101 - opened above
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended; its log is {self._log.name}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None  # noqa: S101 - opened above
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
