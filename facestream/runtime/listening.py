"""The addresses that services listen on: parses them, opens their sockets, and tells whether other machines can reach
them.
"""

import ipaddress
import socket

from schemas.errors import ConfigurationError


def listening_socket(listen: str, setting: str = "listen") -> socket.socket:
    """Opens a listening socket. listen: address:port, where port 0 is any free one. setting: the source of the address,
    for the message. Raises ConfigurationError when the address cannot be used.
    """
    host, port = host_and_port(listen, setting)
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024
        )
    except (OSError, UnicodeError) as error:  # UnicodeError: a host with a label that is empty or too long
        raise ConfigurationError(
            f"cannot listen on {listen}: {getattr(error, 'strerror', None) or 'no such host'}: choose another address"
            f" with --{setting} or FACESTREAM_{setting.upper()}"
        ) from None


def url_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def host_and_port(listen: str, setting: str = "listen") -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not (port.isdecimal() and port.isascii() and len(port) <= 5) or int(port) > 65535:
        raise ConfigurationError(
            f"FACESTREAM_{setting.upper()} is '{listen}': write address:port, for example 127.0.0.1:8080"
        )
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
