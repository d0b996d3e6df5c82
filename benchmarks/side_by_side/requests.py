"""Answers requests on standard input, one JSON object a line; every worker's end of the pipe.

It runs in the environments of the peers too: the standard library only. Whatever a library prints goes to
standard error, so that standard output carries answers alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def answer_requests(verbs: Mapping[str, Callable[..., Any]]) -> None:
    """Call the verb that each line names with the rest of the line, and write its result and its seconds."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answers.write(json.dumps({"ready": True}) + "\n")
    answers.flush()
    for line in sys.stdin:
        request = json.loads(line)
        begin = time.perf_counter()
        result = verbs[request.pop("do")](**request)
        seconds = time.perf_counter() - begin
        answers.write(json.dumps({"result": result, "seconds": seconds}) + "\n")
        answers.flush()
