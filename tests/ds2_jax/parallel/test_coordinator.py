"""The coordination service listens where the other processes look for it, and nowhere else if that is known."""

import socket

import pytest

from ds2_jax.parallel import coordinator


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:70", "127.0.0.1:70"),
        ("127.0.0.5:70", "127.0.0.5:70"),
        ("192.0.2.1:70", None),
        ("nowhere.invalid:70", None),
    ],
)
def test_process_0_listens_at_an_address_of_this_machine(address, expected):
    assert coordinator.choose_bind_address(address) == expected


def test_localhost_is_the_loopback_interface():
    assert coordinator.choose_bind_address("localhost:70") in ("127.0.0.1:70", "[::1]:70")


def test_a_name_that_means_loopback_only_here_says_nothing(monkeypatch):
    """Debian gives a machine's own name the address 127.0.1.1."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("127.0.1.1", 0))])
    assert coordinator.choose_bind_address("machine:70") is None


def test_a_port_in_use_is_named():
    with socket.create_server(("", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(OSError, match=rf"port \d+ of --coordinator={address} is in use .*: choose another port"):
            coordinator.require_free_port(address)
