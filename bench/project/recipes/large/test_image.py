def test_postgresql_is_installed(host):
    assert host.package("postgresql").is_installed
