"""Lines of log: whole, of any value, on whatever standard error is when they are written."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import io, logging, sys, threading
import structlog
from tritium_platform.adapters.telemetry import configure_logging

configure_logging(level="info")
log = structlog.get_logger("a.name")
log.debug("too low")
log.info("odd", text="\\ud800 and \\n", number=2**70, thing=object, nan=float("nan"))
logging.getLogger("of.a.library").warning("heard, too: %s", 1)
try:
    raise ValueError("reason")
except ValueError:
    log.exception("failed")
first, sys.stderr = sys.stderr, io.StringIO()
log.info("elsewhere")
moved, sys.stderr = sys.stderr.getvalue(), first
assert "elsewhere" in moved, moved
def fifty(): [log.info("row", pad="x" * 5000) for _ in range(50)]
threads = [threading.Thread(target=fifty) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_every_line_is_one_json_object_whoever_wrote_what():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    odd, library, failed, *rows = lines
    assert (odd["event"], odd["level"], odd["logger"]) == ("odd", "info", "a.name")
    assert (odd["text"], odd["number"]) == ("\ud800 and \n", 2**70)
    assert odd["timestamp"].endswith("Z")
    assert (library["event"], library["logger"]) == ("heard, too: 1", "of.a.library")
    assert "ValueError: reason" in failed["exception"]
    assert [row["event"] for row in rows] == ["row"] * 200
