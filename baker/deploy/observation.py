"""What a running machine is made of, as somebody who only looks sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from baker.model import FileEntry, Package


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Port:
    """Something that listens. ``protocol`` is ``tcp`` or ``udp``; ``program`` the path of the executable that
    does, empty where that cannot be told. ``local`` ones are reached from the machine alone."""

    protocol: str
    port: int
    program: str
    local: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """``files`` are the paths of the root file system that may differ from the image: every path where
    ``full``, else those whose metadata, or time of change, say that they were touched (a path that is in the
    image and is gone is in ``gone``). ``digest`` of a file is set where its content was read; where it is
    empty, type, mode, owner, size, link and extended attributes are all that was compared.

    ``packages`` are those that the package manager says are installed. ``texts`` holds small files whose
    meaning is compared (``/etc/passwd``, ``/etc/group``, and ``/etc/shadow`` with each hash replaced by its
    digest). ``ports`` listen, ``mounts`` are what is mounted over the root file system (path to type and
    source), ``processes`` are executables of running processes that are not files of the root file system
    any more (deleted, or in memory), ``units`` are systemd units that are active or failed (name to state).
    ``full`` says that every digest was read.
    """

    full: bool
    packages: tuple[Package, ...]
    files: tuple[FileEntry, ...]
    gone: tuple[str, ...]
    texts: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[Port, ...] = ()
    mounts: Mapping[str, str] = field(default_factory=dict)
    processes: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
