"""The address at which process 0 hosts JAX's coordination service, HOST:PORT."""

import contextlib
import ipaddress
import socket


def describe_unresolved(address: str) -> str:
    """Return a message if the host name cannot be resolved, else ''."""
    host, _, _ = address.rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]") or None, 0)
    except OSError as error:
        return f"the host {host} of --coordinator={address} cannot be resolved ({error.strerror})"
    return ""


def choose_bind_address(address: str) -> str | None:
    """Return the address for process 0 to listen at, or None for all of the machine's.

    It is the first one of the host's that belongs to this machine. A name that leads to a loopback address, as a machine's
    own name does in Debian's /etc/hosts, says nothing about the address that other machines use.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM)]
    except OSError:
        return None
    for candidate in found:
        is_local = host in ("localhost", candidate)
        if (is_local or not ipaddress.ip_address(candidate.partition("%")[0]).is_loopback) and _is_own(candidate):
            return f"[{candidate}]:{port}" if ":" in candidate else f"{candidate}:{port}"
    return None


def _is_own(address: str) -> bool:
    with contextlib.closing(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def require_free_port(address: str) -> None:
    """Raise OSError if another program listens on the port, which would crash JAX."""
    port = int(address.rpartition(":")[2])
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with contextlib.closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise OSError(
                f"port {port} of --coordinator={address} is in use ({error.strerror}): choose another port"
            ) from error
