"""What a database's errors mean, in words."""

from __future__ import annotations

from sqlalchemy import exc

from baker.errors import CatalogError

SQLITE_ERRORS = {
    "SQLITE_BUSY": ("is locked by another process", "Wait for it to end, then try again."),
    "SQLITE_LOCKED": ("is locked by another process", "Wait for it to end, then try again."),
    "SQLITE_READONLY": (
        "cannot be written: it is read-only",
        "Run it with sudo, or as the owner of the file.",
    ),
    "SQLITE_PERM": ("may not be opened", "Run it with sudo, or as the owner of the file."),
    "SQLITE_CANTOPEN": ("cannot be opened", "Check that it is a file, and what you may do in its folder."),
    "SQLITE_FULL": ("cannot be written: the disk is full", "Free some space; nothing of this was applied."),
    "SQLITE_IOERR": ("cannot be read or written: the disk failed", "Look at the kernel's log: dmesg."),
    "SQLITE_NOTADB": ("is not a database", "Name another file, or move this one out of the way."),
    "SQLITE_CORRUPT": ("is damaged", "Restore it from a backup."),
}
POSTGRESQL_ERRORS = {
    "53100": ("cannot be written: its disk is full", "Free some space; nothing of this was applied."),
    "25006": ("cannot be written: it is read-only", "Is the server a standby? Name the primary."),
    "42501": ("may not be used by this user", "Ask its owner for the rights."),
    "55P03": ("is locked by another process", "Wait for it to end, then try again."),
    "40001": ("was changed by somebody else", "Try it again."),
    "40P01": ("was changed by somebody else", "Try it again."),
}


def explain(error: exc.DBAPIError, description: str) -> CatalogError:
    """What a database's error means for the user of the catalog ``description``."""
    cause = error.orig
    name = getattr(cause, "sqlite_errorname", None) or ""
    state = getattr(cause, "sqlstate", None) or ""
    known = next((said for start, said in SQLITE_ERRORS.items() if name.startswith(start)), None)
    known = known or POSTGRESQL_ERRORS.get(state)
    if known is None and isinstance(error, exc.OperationalError) and not name:
        known = ("cannot be reached", "Check the address, the network and that the server runs.")
    first_line = next(iter(str(cause or error).splitlines()), "")
    if known is None:
        return CatalogError(f"the catalog {description} refused: {first_line}")
    return CatalogError(f"the catalog {description} {known[0]} ({first_line})", hint=known[1])
