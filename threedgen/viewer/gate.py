"""A door before a server that knows no passwords: who brings the token gets a cookie and is let through."""

from __future__ import annotations

import errno
import hashlib
import hmac
import select
import socket
import threading
import urllib.parse

COOKIE = "threedgen_viewer"
_LONGEST_HEAD = 1 << 16  # bytes of a request before its body
_PATIENCE = 10.0  # seconds for a request's head
_IDLE = 3600.0  # seconds after which a silent connection is closed
_LAST_PORT = 65535
_CLOSED = b"HTTP/1.1 %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n%b\r\n%b"


def open_gate(host: str, port: int, token: str, inner_port: int) -> int:
    """Listen on host:port, or the next port that is free (0: any), for a server on 127.0.0.1:inner_port; the port.
    Raises OSError.

    A browser comes with `?token=...` once and is then known by a cookie. What follows on a connection that was let
    through is passed on as it is, both ways.
    """
    listener = _listen(host, port)

    def accept() -> None:
        while True:
            connection = listener.accept()[0]
            threading.Thread(target=_serve, args=(connection, token, inner_port), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        try:
            return socket.create_server((host, port), family=family)
        except OSError as error:  # of the runs of a batch each has a page of its own
            if error.errno != errno.EADDRINUSE or port == _LAST_PORT:
                raise
            port += 1


def _serve(connection: socket.socket, token: str, inner_port: int) -> None:
    try:
        with connection:
            connection.settimeout(_PATIENCE)
            head = _read_head(connection)
            answer = answer_to(head, token)
            if answer is not None:
                connection.sendall(answer)
                return
            with socket.create_connection(("127.0.0.1", inner_port), timeout=_PATIENCE) as inner:
                inner.sendall(head)
                _pass_on(connection, inner)
    except OSError:  # either side went away: nothing is left to be done for it
        return


def answer_to(head: bytes, token: str) -> bytes | None:
    """What the beginning of a connection is answered with; None: it may pass."""
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if b"\r\n\r\n" not in head or len(words) != 3:
        return _answer(b"400 Bad Request", b"", b"This is no request.\n")
    proof = hmac.new(token.encode(), COOKIE.encode(), hashlib.sha256).hexdigest()
    query = words[1].partition("?")[2].replace("+", "%2B")  # typed by hand, not sent by a form: no blank
    given = urllib.parse.parse_qs(query).get("token", [""])[-1]
    if given and hmac.compare_digest(given.encode(), token.encode()):
        cookie = f"{COOKIE}={proof}; HttpOnly; SameSite=Strict; Path=/"
        return _answer(b"303 See Other", f"Location: /\r\nSet-Cookie: {cookie}\r\n".encode(), b"")
    for line in lines[1:]:
        name, _, value = line.partition(":")
        if name.lower() == "cookie" and hmac.compare_digest(_cookie(value).encode(), proof.encode()):
            return None
    return _answer(b"403 Forbidden", b"", b"Add ?token=... with the run's viewer.token to the address.\n")


def _cookie(header: str) -> str:
    """Ours, beside those of other servers on the same host, which a browser sends along and which may hold anything."""
    pairs = (pair.partition("=") for pair in header.split(";"))
    return next((value.strip() for name, _, value in pairs if name.strip() == COOKIE), "")


def _answer(status: bytes, headers: bytes, body: bytes) -> bytes:
    return _CLOSED % (status, len(body), headers, body)


def _read_head(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and len(data) < _LONGEST_HEAD and (piece := connection.recv(4096)):
        data += piece
    return data


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    """Bytes in both directions until either side closes."""
    while True:
        ready = select.select([one, other], [], [], _IDLE)[0]
        if not ready:
            return
        for source in ready:
            data = source.recv(1 << 16)
            if not data:
                return
            (other if source is one else one).sendall(data)
