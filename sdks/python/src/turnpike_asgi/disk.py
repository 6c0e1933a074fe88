"""How much of the disk the spool leaves free: SQLite needs room itself before it can give any back."""

import shutil
from pathlib import Path

RESERVE_BYTES = 16 * 1024 * 1024  # its log, and as much again where the log is taken over into the file


def is_short(folder: Path) -> bool:
    """Tell whether what is left is needed for taking events out; of a small disk that is half."""
    try:
        disk = shutil.disk_usage(folder)
    except OSError:  # whoever uses the spool next finds out and tells
        return False
    return disk.free < min(RESERVE_BYTES, disk.total // 2)
