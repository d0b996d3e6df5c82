"""What the library's tests need beyond the library: without it they are skipped, by name."""

from __future__ import annotations

import importlib.util

import pytest

# The bare wheel has no HTTP server and no oracle; the full environment has both and skips nothing.
NEEDS = {"gguf": ("gguf",), "oracle": ("torch", "transformers"), "serve": ("fastapi", "uvicorn", "msgspec")}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gguf: compares with the package gguf")
    config.addinivalue_line("markers", "oracle: compares with transformers and torch")
    config.addinivalue_line("markers", "serve: needs tritium[serve]")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker, modules in NEEDS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if missing:
            skip = pytest.mark.skip(reason=f"{', '.join(missing)} not installed")
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(skip)
