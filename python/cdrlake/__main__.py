"""``python -m cdrlake`` is the command ``cdrlake``."""

import os
import sys

from cdrlake._process import Error, binary

try:
    program = binary()
except Error as error:
    sys.exit(f"error: {error}")
os.execv(program, ["cdrlake", *sys.argv[1:]])  # noqa: S606
