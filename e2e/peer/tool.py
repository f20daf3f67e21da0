"""A plain HTTP service that knows nothing of Writ. It says every request that reaches it, one JSON
object a line, and answers with what came.

    tool.py [ADDRESS] [PORT]
"""
import http.server
import json
import sys
import threading

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
PORT = int(sys.argv[2]) if len(sys.argv) > 2 else 8080

EVENTS = 4
SEEN = [threading.Event() for _ in range(EVENTS)]


class Service(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle_any(self):
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length).decode("utf-8", "replace")
        if self.path != "/healthz":
            print(json.dumps({"method": self.command, "path": self.path, "headers": dict(self.headers),
                              "body": body, "from": self.client_address[0]}), flush=True)
        if self.path == "/v1/stream":
            return self.stream()
        if self.path.startswith("/v1/seen/"):
            SEEN[int(self.path.rpartition("/")[2])].set()
        answer = json.dumps({"ok": True, "received": body[:200]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def stream(self):
        """Server-sent events: each is sent only when the client says, by a request of its own, that it
        has seen the one before. Anything that buffers on the way makes this stand still."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for number in range(EVENTS):
            self.wfile.write(f"data: {number}\n\n".encode())
            self.wfile.flush()
            if not SEEN[number].wait(timeout=20):
                break
        self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any


http.server.ThreadingHTTPServer.allow_reuse_address = True
http.server.ThreadingHTTPServer((ADDRESS, PORT), Service).serve_forever()
