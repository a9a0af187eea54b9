from pyinfra.operations import apt, files, systemd

apt.packages(name="Install tree", packages=["tree"], update=True)
for number in range(20):
    files.template(
        name=f"Write snippet {number}",
        src="templates/snippet.conf.j2",
        dest=f"/etc/bench/snippet-{number}.conf",
        number=number,
    )
files.put(name="Write the unit", src="templates/bench.service", dest="/etc/systemd/system/bench.service")
systemd.service(name="Run the unit", service="bench", enabled=True, daemon_reload=True)
