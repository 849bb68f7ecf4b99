"""Which network forbids an address, in every form that may lead to it."""

import pytest

from callbacks.addresses import DEFAULT_BLOCKED, forbidding, networks


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ("127.0.0.1", "127.0.0.0/8"),
        ("127.255.255.255", "127.0.0.0/8"),
        ("0.0.0.0", "0.0.0.0/8"),
        ("0.1.2.3", "0.0.0.0/8"),
        ("169.254.169.254", "169.254.0.0/16"),
        ("100.100.100.200", "100.100.100.200/32"),
        ("224.0.0.1", "224.0.0.0/4"),
        ("239.255.255.255", "224.0.0.0/4"),
        ("::", "::/128"),
        ("::1", "::1/128"),
        ("fe80::1", "fe80::/10"),
        ("fe80::1%eth0", "fe80::/10"),
        ("febf::1", "fe80::/10"),
        ("ff02::1", "ff00::/8"),
        # the v4 address inside
        ("::ffff:127.0.0.1", "127.0.0.0/8"),
        ("::ffff:100.100.100.200", "100.100.100.200/32"),
        ("::127.0.0.1", "127.0.0.0/8"),
        ("::ffff:0:169.254.169.254", "169.254.0.0/16"),
        ("64:ff9b::169.254.169.254", "169.254.0.0/16"),
        ("64:ff9b::7f00:1", "127.0.0.0/8"),
        ("64:ff9b:1:7f00:0:100::", "127.0.0.0/8"),
        ("64:ff9b:1:aa7f::100:0", "127.0.0.0/8"),
        ("64:ff9b:1:aabb:7f:0:100:0", "127.0.0.0/8"),
        ("64:ff9b:1:aabb:ccdd:eeff:7f00:1", "127.0.0.0/8"),
        ("2002:7f00:1::", "127.0.0.0/8"),
        ("2002:a9fe:a9fe::1", "169.254.0.0/16"),
        ("2001:0:a9fe:a9fe::1", "169.254.0.0/16"),
        ("2001:0:808:808:0:ffff:80ff:fffe", "127.0.0.0/8"),
        ("2400:3200::5efe:127.0.0.1", "127.0.0.0/8"),
        ("2400:3200::200:5efe:127.0.0.1", "127.0.0.0/8"),
    ],
)
def test_the_default_forbids_this_machine_its_links_and_its_clouds_metadata(address: str, rule: str) -> None:
    assert str(forbidding(address, networks(DEFAULT_BLOCKED))) == rule


@pytest.mark.parametrize(
    "address",
    [
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.100.100.201",
        "8.8.8.8",
        "fd00::1",
        "2400:3200::1",
        "::ffff:10.0.0.1",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
    ],
)
def test_the_default_allows_private_networks_where_business_systems_live(address: str) -> None:
    assert forbidding(address, networks(DEFAULT_BLOCKED)) is None


def test_nothing_is_forbidden_where_no_network_is_named() -> None:
    assert forbidding("127.0.0.1", []) is None
    assert forbidding("::1", []) is None


def test_a_network_may_be_written_as_an_address_or_with_bits_of_a_host() -> None:
    assert list(map(str, networks("10.0.0.1, 192.168.3.4/16,fd00::1"))) == [
        "10.0.0.1/32",
        "192.168.0.0/16",
        "fd00::1/128",
    ]


@pytest.mark.parametrize("text", ["", ",", "10.0.0.0/33", "localhost", "10.0.0.0/8;::1", "1.2.3", "::1/129"])
def test_a_malformed_network_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        networks(text)
