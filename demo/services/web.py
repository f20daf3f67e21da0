"""A plain HTTP service that knows nothing of Writ: it answers with what reached it.

    web.py PORT LOGFILE

Every request is appended to LOGFILE as one JSON line, so that the demo can show what arrived,
and that refused requests did not.
"""
import http.server
import json
import sys
import time

PORT, LOG = int(sys.argv[1]), sys.argv[2]


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
        """Server-sent events: three, each sent before the next is made."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for n in range(3):
            self.wfile.write(f"data: {n}\n\n".encode())
            self.wfile.flush()
            time.sleep(0.2)
        self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any


http.server.ThreadingHTTPServer.allow_reuse_address = True
http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Service).serve_forever()
