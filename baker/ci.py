"""What is different where a CI runs baker: a catalog that is thrown away with the job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from baker.errors import UsageError
from baker.settings import Settings

SQLITE = "sqlite:///"
JOB_FOLDERS = ("RUNNER_TEMP", "GITHUB_WORKSPACE", "CI_PROJECT_DIR", "TMPDIR")
"""Variables that name a folder which is cleared before or after each job; so is the project's own."""
TEMPORARY = (Path("/tmp"), Path("/var/tmp"))


def refuse_throwaway(settings: Settings, environ: Mapping[str, str], *, ephemeral: bool) -> None:
    """Raises UsageError in a CI whose catalog would not be there for the next run, unless that is wanted."""
    said = environ.get("CI", "")
    if ephemeral or said.lower() in ("", "0", "false") or not settings.catalog_url.startswith(SQLITE):
        return
    path = Path(settings.catalog_url.removeprefix(SQLITE).partition("?")[0]).absolute()
    cleared = [folder for folder in _list_cleared(settings, environ) if path.is_relative_to(folder)]
    if path.exists() and not cleared:
        return
    why = f"lies in {cleared[0]}, which is cleared with the job" if cleared else "is not there yet"
    raise UsageError(
        f"this is a CI job (CI={said}), and its catalog {path} {why}: each run would bake everything from"
        " nothing, and number the versions from 1 again",
        hint="Set BAKER_CATALOG=postgresql://…, or BAKER_HOME to a folder that this runner keeps, and make a"
        " catalog there once: baker catalog migrate. If one for this run alone is meant: --ephemeral",
    )


def _list_cleared(settings: Settings, environ: Mapping[str, str]) -> Iterator[Path]:
    yield from (Path(environ[name]) for name in JOB_FOLDERS if environ.get(name))
    yield from TEMPORARY
    if settings.project:
        yield settings.project
