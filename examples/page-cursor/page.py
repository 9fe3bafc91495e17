#!/usr/bin/env python3
"""A page rendered on the server that never misses a message. See README.md beside this file.

Usage: page.py SOCKET [PORT]      SOCKET: comet.sock in the server's data folder
"""

import html
import http.client
import http.server
import json
import pathlib
import socket
import sys
import urllib.parse

CHANNEL = "scores"
PAGE = pathlib.Path(__file__).with_name("page.html").read_text()
SCRIPT = pathlib.Path(__file__).with_name("page.js").read_bytes()


class Comet(http.client.HTTPConnection):
    """HTTP over the socket for the site's own code: no key is needed there."""

    def __init__(self, path):
        super().__init__("comet", timeout=15)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask(method, target, body=None):
    comet = Comet(SOCKET)
    comet.request(method, target, body)
    answer = comet.getresponse()
    text = answer.read()
    comet.close()
    if answer.status >= 400:
        raise RuntimeError(f"{target}: {answer.status} {text.decode()}")
    return json.loads(text)


def rendered():
    # The order is all there is to it: first the cursor, then whatever the page shows. What is published between the two is
    # shown by both, and recognised by its offset; what is published after them, by the subscription alone.
    cursor = ask("GET", "/v1/now")["cursor"]
    channel = urllib.parse.quote(CHANNEL)
    history = ask("GET", f"/v1/history?channel={channel}&limit=20&reverse=1")
    lines = "".join(
        f'<li value="{one["offset"]}">{html.escape(str(one["data"]))}</li>\n'
        for one in reversed(history["publications"])
    )
    return (
        PAGE.replace("{{channel}}", html.escape(CHANNEL, quote=True))
        .replace("{{cursor}}", html.escape(cursor, quote=True))
        .replace("{{lines}}", lines)
    )


class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/page.js":
            self.answer("text/javascript", SCRIPT)
        else:
            self.attempt(lambda: self.answer("text/html; charset=utf-8", rendered().encode()))

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        text = urllib.parse.parse_qs(body.decode()).get("text", [""])[0]
        publication = json.dumps({"channel": CHANNEL, "data": text, "kind": "text"})
        self.attempt(lambda: (ask("POST", "/v1/publish", publication), self.go_back()))

    def attempt(self, action):
        try:
            action()
        except (ConnectionRefusedError, FileNotFoundError):
            self.send_error(503, "The push server is not running", f"Nobody answers at {SOCKET}: comet start")

    def go_back(self):
        self.send_response(303)
        self.send_header("Location", "/")
        self.end_headers()

    def answer(self, kind, content):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        # A cursor is of one rendering: a page from a cache would catch up from long ago.
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__.strip())
    SOCKET = sys.argv[1]
    PORT = int(sys.argv[2]) if len(sys.argv) > 2 else 8000
    print(f"http://127.0.0.1:{PORT}/")
    http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Site).serve_forever()
