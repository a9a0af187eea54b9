"""The server and its unit. A machine of it answers a second after its start."""

import io

from pyinfra import host
from pyinfra.operations import files, systemd

UNIT = f"""[Unit]
Description=A server of the benchmark

[Service]
ExecStart=/usr/local/bin/web {host.data.version} {host.data.mode}

[Install]
WantedBy=multi-user.target
"""

files.put(name="Server", src="recipes/web/server", dest="/usr/local/bin/web", mode="755")
files.put(name="Unit", src=io.StringIO(UNIT), dest="/etc/systemd/system/web.service", mode="644")
systemd.service(name="Enabled", service="web", enabled=True, daemon_reload=True)
