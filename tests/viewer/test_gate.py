"""The door before the live view: who has the token comes in, and then talks with the server behind it."""

import http.client
import http.server
import threading

import pytest

from threedgen.viewer.gate import COOKIE, answer_to, open_gate

TOKEN = "a secret & more"


@pytest.fixture(scope="module")
def door():
    """The port of a gate before a server that answers with the path that it was asked for."""

    class Echo(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = self.path.encode() * 10_000
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Nothing is printed."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield open_gate("127.0.0.1", 0, TOKEN, server.server_port)
    server.shutdown()


def ask(port, path, cookie=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Cookie": cookie} if cookie else {})
    answer = connection.getresponse()
    return answer, answer.read()


def test_the_token_opens_it_and_a_cookie_keeps_it_open(door):
    answer, _ = ask(door, "/?token=a%20secret%20%26%20more")
    assert answer.status == 303 and answer.getheader("Location") == "/"
    cookie = answer.getheader("Set-Cookie").partition(";")[0]
    assert TOKEN not in cookie and "HttpOnly" in answer.getheader("Set-Cookie")
    answer, body = ask(door, "/a?b=c", f"other=1; {cookie}")
    assert answer.status == 200 and body == b"/a?b=c" * 10_000
    assert ask(door, "/", f"{cookie}0")[0].status == 403


def test_a_port_in_use_is_none_for_the_next_door(door):
    second = open_gate("127.0.0.1", door, "b+/=", 1)
    assert second > door
    assert ask(second, "/?token=b+/=")[0].status == 303 and ask(second, "/?token=b%2B%2F%3D")[0].status == 303
    assert ask(second, "/?token=a%20secret%20%26%20more")[0].status == 403
    with pytest.raises(OSError, match="assign requested address"):  # of documentation (RFC 5737), no machine's own
        open_gate("192.0.2.1", door, TOKEN, 1)


def test_cookies_of_other_servers_on_the_same_host_are_no_obstacle(door):
    ours = ask(door, "/?token=a%20secret%20%26%20more")[0].getheader("Set-Cookie").partition(";")[0]
    assert ask(door, "/", f'theirs={{"dark": true}}; a b; =; {ours}')[0].status == 200


@pytest.mark.parametrize(
    "path", ["/", "//[", "/?token=", "/?token=a", "/?token=a+secret", "/?Token=a%20secret%20%26%20more"]
)
@pytest.mark.parametrize("cookie", [None, f"{COOKIE}=", f"{COOKIE}=a", "x=y"])
def test_nobody_else_comes_in(door, path, cookie):
    answer, body = ask(door, path, cookie)
    assert answer.status == 403 and b"/" * 100 not in body


@pytest.mark.parametrize("head", [b"", b"GET /", b"\xff\xfe\r\n\r\n", b"GET / HTTP/1.1\r\nCookie: x=y"])
def test_what_is_no_request(head):
    assert answer_to(head, TOKEN).startswith(b"HTTP/1.1 400 ")
