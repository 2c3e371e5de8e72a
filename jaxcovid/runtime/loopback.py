"""Addresses that only this machine reaches."""

import ipaddress

LOOPBACK = ("127.0.0.1", "localhost", "::1")  # its usual names


def is_loopback(host: str) -> bool:
    """True of an address of this machine alone; a name but "localhost" may be any address."""
    try:
        return host in LOOPBACK or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
