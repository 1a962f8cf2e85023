"""Who may reach a server of ours."""

from __future__ import annotations

import ipaddress

from threedgen.core.errors import ConfigError


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine only.

    Example:
        >>> is_local("127.0.0.1"), is_local("localhost"), is_local("0.0.0.0")
        (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_reachable(host: str, secret: str, how: str) -> None:
    """Raise ConfigError if others could reach `host` without a secret; how: the words that set one."""
    if not secret and not is_local(host):
        raise ConfigError(f"{host} can be reached by others: add {how}, or stay on 127.0.0.1")
