"""Lets `python -m tritium_platform.cli` be the program."""

from tritium_platform.cli import main

main()
