"""Prints every message that the integration tests met, each once, to be read from top to bottom.

    mkdir messages
    TEST_MESSAGES=$PWD/messages cargo test --test it
    python3 tests/messages.py messages

Numbers, times, tokens and temporary directories are replaced, so that two messages that differ in
nothing else count as one. Lines of JSON, completion scripts and the manual page are left out.
"""

import pathlib
import re
import sys

REPLACED = [
    (r"\x1b\[[0-9;]*[A-Za-z]", ""),
    (r"/tmp/\.?[\w.]+", "/tmp/DIR"),
    (r"(127\.0\.0\.1|localhost|\[::1\]):\d+", "HOST"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+\d\d:?\d\d)?", "TIME"),
    (r"\d{4}-\d\d-\d\d", "DAY"),
    (r"\b[0-9a-f]{8,}\b", "HEX"),
    (r"\b(?=\w*\d)[\w-]{16,}\b", "TOKEN"),
    (r"\d[\d,.]*", "1"),
    (r" {2,}", "  "),
    (r"[─━═]+", "─"),
]

# What the completion scripts and the manual page contain, and nothing else does.
SCRIPTS = ["__subcmd", "complete -c", "ArgumentCompleter", "edit:completion", ".SH NAME"]


def main() -> None:
    messages = set()
    for file in pathlib.Path(sys.argv[1]).iterdir():
        text = file.read_text(errors="replace")
        if any(mark in text for mark in SCRIPTS):
            continue
        for line in text.splitlines():
            if line.lstrip().startswith(("{", "}", "[", "]", '"')):
                continue
            for pattern, replacement in REPLACED:
                line = re.sub(pattern, replacement, line)
            messages.add(line.strip())
    print("\n".join(sorted(messages)))


main()
