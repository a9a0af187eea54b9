# What Packer runs in the instance, as root.
set -eu
export DEBIAN_FRONTEND=noninteractive
cloud-init status --wait >/dev/null
apt-get -qq update
apt-get -qq install --no-install-recommends tree >/dev/null
install -d /etc/bench
for number in $(seq 0 19); do
    sed "s/@NUMBER@/$number/g" /tmp/files/snippet.conf >"/etc/bench/snippet-$number.conf"
done
install -m 644 /tmp/files/bench.service /etc/systemd/system/bench.service
rm -r /tmp/files
systemctl daemon-reload
systemctl enable --quiet --now bench
