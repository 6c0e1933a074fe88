"""Where things are: the checkout, its ignored data folder and what is in it."""

import hashlib
import os
import stat
from pathlib import Path

from embedded_servers.errors import ServerError

HOME_VARIABLE = "TURNPIKE_HOME"


def checkout() -> Path:
    """Return the folder that holds the workspace, wherever the command is run."""
    for folder in (Path.cwd(), *Path.cwd().parents, *Path(__file__).resolve().parents):
        if (folder / "Makefile").is_file() and (folder / "libs" / "embedded_servers").is_dir():
            return folder
    raise ServerError("Turnpike's checkout was not found; run the command inside it.")


def home() -> Path:
    """Return the data folder: `TURNPIKE_HOME`, else `.turnpike` in the checkout."""
    chosen = os.environ.get(HOME_VARIABLE)
    return Path(chosen).resolve() if chosen else checkout() / ".turnpike"


def software() -> Path:
    """Return the folder of what set-up fetched: shared by all data folders of a checkout."""
    return checkout() / ".turnpike" / "software"


def is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def traversable_by_all(folder: Path) -> bool:
    """Tell whether a user without rights, as whom Postgres runs under root, gets into the folder's parents."""
    return all(_others_may_enter(parent) for parent in folder.resolve().parents)


def _others_may_enter(folder: Path) -> bool:
    try:
        return bool(folder.stat().st_mode & stat.S_IXOTH)
    except FileNotFoundError:
        return True  # we make it ourselves, with mode 755


def system_folder_for(folder: Path) -> Path:
    """Return the folder that stands in for one that only root can enter; it is named after it."""
    return Path("/var/lib/turnpike") / hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
