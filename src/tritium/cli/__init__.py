"""The program `tritium`: quantize, run, chat, embed, eval, show, bench, env, serve.

A command imports what it needs when it runs, so that `tritium --help` answers at once.
"""

from __future__ import annotations

from tritium.cli.app import app
from tritium.cli.failure import run_program


def main() -> None:
    """Run the program."""
    run_program(app)
