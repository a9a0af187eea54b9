"""An nginx that serves a site, and beside it a small service, of a user of its own, that says how it is."""

from pyinfra import host
from pyinfra.operations import apt, files, server, systemd
from pyinfra.operations.util import any_changed

ROOT = host.data.root
STATUS_PORT = host.data.status_port

apt.packages(
    name="Install nginx",
    packages=["nginx-light"],
    no_recommends=True,
    update=True,
    cache_time=3600,
)
files.template(
    name="Let the kernel queue many connections",
    src="templates/base/sysctl.conf.j2",
    dest="/etc/sysctl.d/70-web.conf",
    settings=host.data.sysctl,
)

# --- the site -----------------------------------------------------------------------------------------

files.directory(name="Make the site's folder", path=ROOT, user="root", group="root", mode="755")
files.template(
    name="Write the start page",
    src="templates/site/index.html.j2",
    dest=f"{ROOT}/index.html",
    mode="644",
    title=host.data.title,
)
files.template(
    name="Write the page for what is not found",
    src="templates/site/404.html.j2",
    dest=f"{ROOT}/404.html",
    mode="644",
    title=host.data.title,
)
files.put(name="Keep robots out", src="recipes/web/files/robots.txt", dest=f"{ROOT}/robots.txt", mode="644")

# --- the status service -----------------------------------------------------------------------------------

server.group(name="Make the group of the status service", group="site-status", system=True)
server.user(
    name="Make the user of the status service",
    user="site-status",
    group="site-status",
    system=True,
    home="/nonexistent",
    ensure_home=False,
    shell="/usr/sbin/nologin",
    comment="Site status",
)
files.put(
    name="Install the status service",
    src="recipes/web/files/site-status",
    dest="/usr/local/bin/site-status",
    mode="755",
)
status_unit = files.template(
    name="Write the unit of the status service",
    src="templates/site/site-status.service.j2",
    dest="/etc/systemd/system/site-status.service",
    mode="644",
    port=STATUS_PORT,
)
systemd.daemon_reload(name="Read the new unit", _if=status_unit.did_change)
systemd.service(name="Run the status service", service="site-status", running=True, enabled=True)

# --- nginx ------------------------------------------------------------------------------------------------

main = files.template(
    name="Configure nginx",
    src="templates/nginx/nginx.conf.j2",
    dest="/etc/nginx/nginx.conf",
    mode="644",
    worker_processes=host.data.worker_processes,
    worker_connections=host.data.worker_connections,
)
headers = files.put(
    name="Send headers that protect the reader",
    src="recipes/web/files/headers.conf",
    dest="/etc/nginx/snippets/headers.conf",
    mode="644",
)
site = files.template(
    name="Configure the site",
    src="templates/nginx/site.conf.j2",
    dest="/etc/nginx/conf.d/site.conf",
    mode="644",
    root=ROOT,
    server_name=host.data.server_name,
    status_port=STATUS_PORT,
)
default = files.link(
    name="Take Debian's own site away",
    path="/etc/nginx/sites-enabled/default",
    present=False,
)
drop_in = files.template(
    name="Start nginx again when it dies",
    src="templates/nginx/restart.conf.j2",
    dest="/etc/systemd/system/nginx.service.d/restart.conf",
    mode="644",
    files=2 * host.data.worker_connections,
)
systemd.daemon_reload(name="Read nginx's changed unit", _if=drop_in.did_change)
server.shell(
    name="Check nginx's configuration",
    commands=["nginx -t -q"],
    _if=any_changed(main, headers, site, default),
)
systemd.service(
    name="Run nginx with it",
    service="nginx",
    running=True,
    restarted=True,
    enabled=True,
    _if=any_changed(main, headers, site, default, drop_in),
)
