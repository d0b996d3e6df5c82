"""Sets one document as PDF: a process of its own, within limits of time and memory, that ends by itself.

Standard input is JSON: template (a path), page and attachments (JSON as text), timestamp (seconds since
1970), fonts (a directory or null). Standard output is the PDF; exit code 1 and a line on stderr if there is
none.
"""

from __future__ import annotations

import json
import resource
import sys

import typst

MEMORY_BYTES = 2 * 2**30
CPU_SECONDS = 60


def main() -> None:
    """Set the document that standard input describes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    wish = json.load(sys.stdin.buffer)
    fonts = typst.Fonts(include_system_fonts=False, font_paths=[wish["fonts"]] if wish["fonts"] else [])
    compiler = typst.Compiler(
        wish["template"],
        font_paths=fonts,
        sys_inputs={name: wish[name] for name in ("page", "attachments")},
    )
    try:
        made = compiler.compile(format="pdf", pdf_standards=["a-3a", "ua-1"], timestamp=wish["timestamp"])
    except typst.TypstError as error:
        sys.exit(error.message)
    assert isinstance(made, bytes)  # noqa: S101 - one PDF is one piece
    sys.stdout.buffer.write(made)


if __name__ == "__main__":
    main()
