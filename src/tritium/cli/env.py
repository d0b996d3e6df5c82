"""`tritium env`: what this machine and this installation offer."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from typing import Any

from tritium.cli.output import FormatOption, OutputFormat, readable_bytes, write_facts, write_json, write_text

# What each extra needs, to say which are installed.
EXTRAS = {
    "serve": ("fastapi", "msgspec", "uvicorn"),
    "platform": ("sqlalchemy", "dbos", "alembic", "cryptography"),
    "hub": ("huggingface_hub",),
    "gguf": ("gguf",),
    "train": ("torch",),
}


def env(*, output_format: FormatOption = OutputFormat.HUMAN) -> None:
    """Show what runs here. Version, instruction sets, memory and installed extras."""
    facts = _facts()
    if output_format is OutputFormat.JSON:
        write_json(facts)
    elif output_format is OutputFormat.QUIET:
        write_text(f"{facts['version']}\n")
    else:
        write_facts(f"tritium {facts['version']}", _lines(facts))


def _facts() -> dict[str, Any]:
    import importlib.util
    import platform

    import tritium
    from tritium.kernels import _native
    from tritium.kernels.device import processor_name, select_optimal_device

    device = select_optimal_device(0)
    return {
        "version": tritium.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor_name(),
        "device": device.kind,
        "isa": device.isa,
        "available_isas": list(_native.available_isas()),
        "threads": device.threads,
        "memory_bytes": device.memory_bytes,
        "extras": {
            name: all(importlib.util.find_spec(module) is not None for module in modules)
            for name, modules in EXTRAS.items()
        },
    }


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    memory = facts["memory_bytes"]
    installed = [name for name, is_installed in facts["extras"].items() if is_installed]
    return [
        ("python", facts["python"]),
        ("system", facts["system"]),
        ("processor", facts["processor"]),
        ("instruction set", f"{facts['isa']} (available: {', '.join(facts['available_isas'])})"),
        ("threads", str(facts["threads"])),
        ("free memory", "unknown" if memory is None else readable_bytes(memory)),
        ("extras", ", ".join(installed) or "none installed"),
    ]
