"""What every machine made from this image can rely on. Run on a fresh one, booted."""

import json

GET = """
import sys, urllib.error, urllib.request
try:
    answer = urllib.request.urlopen("http://127.0.0.1" + sys.argv[1], timeout=5)
except urllib.error.HTTPError as error:
    answer = error
headers = [f"{name}: {value}" for name, value in answer.headers.items()]
print(answer.status, *headers, "", answer.read().decode(), sep="\\n")
"""


def get(host, path):
    """What nginx answers inside the machine: (status, headers, body)."""
    head, _, body = host.check_output("python3 -c %s %s", GET, path).partition("\n\n")
    status, *headers = head.splitlines()
    return int(status), dict(header.split(": ", 1) for header in headers), body


def test_machine_is_fully_up(host):
    assert host.run("systemctl is-system-running --wait").stdout.strip() == "running", host.check_output(
        "systemctl --failed --no-legend --plain"
    )


def test_services_start_at_boot(host):
    for service in ("nginx", "site-status"):
        assert host.service(service).is_enabled
        assert host.service(service).is_running


def test_nginx_serves_the_start_page(host):
    status, headers, body = get(host, "/")
    assert status == 200
    assert headers["Content-Type"] == "text/html"
    assert "This page was baked into the image." in body


def test_nginx_says_not_found_with_a_page_of_ours(host):
    status, _, body = get(host, "/no/such/page")
    assert status == 404
    assert "<h1>Not found</h1>" in body


def test_nginx_does_not_tell_its_version_and_protects_the_reader(host):
    _, headers, _ = get(host, "/")
    assert headers["Server"] == "nginx"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"


def test_debians_own_site_is_gone(host):
    assert not host.file("/etc/nginx/sites-enabled/default").exists
    assert host.check_output("nginx -T -q 2>&1").count("default_server") == 2


def test_nginx_workers_are_not_root(host):
    workers = [process for process in host.process.filter(comm="nginx") if process.user != "root"]
    assert workers
    assert {process.user for process in workers} == {"www-data"}


def test_status_is_answered_by_its_own_user(host):
    status, headers, body = get(host, "/status")
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    answer = json.loads(body)
    assert answer["status"] == "ok"
    assert answer["user"] == "site-status"


def test_status_service_listens_on_loopback_only(host):
    assert host.socket("tcp://127.0.0.1:8081").is_listening
    assert not host.socket("tcp://0.0.0.0:8081").is_listening
    assert not host.socket("tcp://:::8081").is_listening


def test_status_user_cannot_log_in(host):
    user = host.user("site-status")
    assert user.shell == "/usr/sbin/nologin"
    assert user.uid < 1000
    assert user.password.startswith("!")
    assert not host.file(user.home).exists


def test_status_service_is_confined(host):
    shown = host.check_output("systemctl show site-status --property=NoNewPrivileges,ProtectSystem,MainPID")
    shown = dict(line.split("=", 1) for line in shown.splitlines())
    assert shown["NoNewPrivileges"] == "yes"
    assert shown["ProtectSystem"] == "strict"
    status = host.file(f"/proc/{shown['MainPID']}/status").content_string
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["CapBnd"].strip("0") == ""
    assert fields["Seccomp"] == "2"


def test_nginx_comes_back_when_it_dies(host):
    before = host.check_output("systemctl show nginx --property=MainPID --value")
    host.check_output("kill -KILL %s", before)
    host.check_output(
        'timeout 20 sh -c \'until [ "$(systemctl show nginx -p NRestarts --value)" = 1 ] '
        "&& systemctl is-active -q nginx; do sleep 0.1; done'"
    )
    assert get(host, "/")[0] == 200


def test_requests_are_logged_to_the_journal(host):
    get(host, "/robots.txt")
    assert "GET /robots.txt" in host.check_output("journalctl --sync && journalctl -t nginx -o cat")


def test_kernel_settings_are_in_force(host):
    assert host.sysctl("net.core.somaxconn") == 4096
