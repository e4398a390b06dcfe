"""A database file that cannot be used is never deleted: it is kept under another name, with its log."""

from pathlib import Path

from ebbtide.clock import unix_time_s


def move_aside(path: Path) -> Path:
    """Rename an SQLite file and what belongs to it; returns its new name, which ends with the second."""
    aside = path.with_name(f"{path.name}.aside-{int(unix_time_s())}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside
