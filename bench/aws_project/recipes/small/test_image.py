def test_unit_is_enabled(host):
    assert host.service("bench").is_enabled
