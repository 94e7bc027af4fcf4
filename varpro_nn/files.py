"""Write files whole or not at all, and JSON that every reader takes.

A file is written under a temporary name in its own folder, flushed to the disk and renamed. So a
file under its final name is complete, whatever interrupts, and two processes that write the same
file at the same time replace each other's.
"""

import json
import math
import os
import secrets
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that it is there whole or not at all.

    Raises
    ------
    OSError
        The file cannot be written; nothing of it is left, and an older one stays.
    """
    # Not mkstemp: its files are readable by their owner alone, and these folders are shared.
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def strict_json(value: Any) -> bytes:
    """Write JSON values on one line; what is no finite number becomes null."""
    return json.dumps(_finite(value), allow_nan=False).encode() + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
