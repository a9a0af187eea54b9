"""What apt in an image knew: kept with each build, so that package updates are found without a machine."""

from __future__ import annotations

from sqlalchemy import select

from baker.catalog.calls import Calls
from baker.catalog.schema import builds, package_states


class PackageStateCalls(Calls):
    def package_state(self, build_id: str) -> bytes | None:
        """What ``register`` was given for a build."""
        kept = select(package_states.c.content).join(builds).where(builds.c.id == build_id)
        return self._read(lambda connection: connection.execute(kept).scalar())
