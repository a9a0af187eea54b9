"""A machine as HAProxy sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from baker.providers.local.balancer.balancing import Balancing, Server

UNREACHED = {
    "L4CON": "nothing answers on its port",
    "L4TOUT": "its port does not answer in time",
    "L7TOUT": "its health check is not answered in time",
    "L7RSP": "its health check is not answered by HTTP",
    "L7STS": "its health check is answered with status {code}",
    "INI": "it has not been checked yet",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerState:
    """``status`` is HAProxy's (``UP``, ``UP 1/3``, ``DOWN``, ``no check``); ``healthy`` and ``since`` are
    None where HAProxy does not check. ``since`` is when that began. ``errors`` are answers of 5xx,
    connections and answers that failed, and requests that had to be asked of others, since it joined; a
    ``watched`` machine that made one is not healthy. ``weight`` is 0 of one that is watched or on standby.
    """

    name: str
    status: str
    healthy: bool | None
    since: datetime | None
    detail: str
    sessions: int
    errors: int
    weight: int


def read_state(server: Server, row: Mapping[str, str], balancing: Balancing, now: datetime) -> ServerState:
    """From a line of HAProxy's statistics."""
    check, code = row["check_status"].removeprefix("* "), row["check_code"]
    errors = sum(int(row[name] or 0) for name in ("hrsp_5xx", "econ", "eresp", "wretr"))
    checked = row["status"] != "no check"
    up = row["status"].startswith("UP") and check not in ("", "INI")
    detail = (
        "" if up else UNREACHED.get(check, f"its health check says {check or 'nothing'}").format(code=code)
    )
    if row["status"].startswith("DOWN") and check in ("L7OK", "L4OK"):
        detail = "it answers its health check, and is not trusted yet"
    if not checked:
        detail = ""
    if server.side == balancing.watched and errors:
        up, checked, detail = False, True, f"it has answered {errors} requests wrongly"
    return ServerState(
        name=server.name,
        status=row["status"],
        healthy=up if checked else None,
        since=now - timedelta(seconds=int(row["lastchg"] or 0)) if checked and row["lastchg"] else None,
        detail=detail,
        sessions=int(row["scur"] or 0),
        errors=errors,
        weight=int(row["weight"] or 0),
    )
