"""A plain HTTP service that knows nothing of Writ: it answers with what reached it.

    web.py ADDRESS PORT LOGFILE [CERTIFICATE]

Every request is appended to LOGFILE as one JSON line, so that the demo can show what arrived, and
that refused requests did not. With CERTIFICATE (PEM, its key included) it speaks HTTPS.
"""
import http.server
import json
import os
import ssl
import sys
import time

ADDRESS, PORT, LOG = sys.argv[1], int(sys.argv[2]), sys.argv[3]


class Service(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle_any(self):
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length).decode("utf-8", "replace")
        seen = {"method": self.command, "path": self.path,
                "headers": dict(self.headers), "body": body}
        with open(LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps(seen) + "\n")
        if self.path.startswith("/v1/stream"):
            return self.stream()
        answer = json.dumps({"ok": True, "received": body[:200]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def stream(self):
        """Server-sent events: each is sent only when the client has seen the one before, which it
        says in LOGFILE.seen. Anything that buffers on the way makes this stand still."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for n in range(3):
            self.wfile.write(f"data: {n}\n\n".encode())
            self.wfile.flush()
            end = time.monotonic() + 10
            while not os.path.exists(f"{LOG}.seen.{n}") and time.monotonic() < end:
                time.sleep(0.02)
        self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any


http.server.ThreadingHTTPServer.allow_reuse_address = True
server = http.server.ThreadingHTTPServer((ADDRESS, PORT), Service)
if len(sys.argv) > 4:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[4])
    # The handshake happens in the request's own thread, not in the one that accepts.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
