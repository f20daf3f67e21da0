"""What hostile input looks like, byte by byte, and what each must be answered."""

BANK, TOOLS = ["payments.bank.example", 80], ["tools.bank.example", 80]
TLS, DNS = ["payments.bank.example", 443], ["127.0.0.1", 53]
HOST = b"Host: payments.bank.example\r\n"


def get(path: bytes = b"/v1/accounts/1/balance", fields: bytes = b"", host: bytes = HOST,
        method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> bytes:
    return method + b" " + path + b" " + version + b"\r\n" + host + fields + b"\r\n"


def post(body: bytes, fields: bytes = b"", path: bytes = b"/v1/transfers", host: bytes = HOST) -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return get(path, b"Content-Type: application/json\r\n" + length + fields, host, b"POST") + body


def transfer_of(amount: str) -> bytes:
    return post(b'{"amount":' + amount.encode() + b',"currency":"EUR","to":"a"}')


def mcp(body: bytes) -> bytes:
    return post(body, b"Accept: application/json, text/event-stream\r\n", b"/mcp",
                b"Host: tools.bank.example\r\n")


CHUNKED = b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"

# What the agent's side gets: what it sends, and the answer that it must get. A bare status is the
# HTTP parser's own; it names no code, and the record says malformed-http.
HTTP = {
    "control bytes for a request line": (b"\0\1\2\xff\r\n\r\n", "400"),
    "a request line of three blanks": (b"   \r\n\r\n", "400"),
    "a version that does not exist": (get(version=b"HTTP/9.9"), "400"),
    "a target with a blank": (get(b"/v1/a b"), "400"),
    "a header without a colon": (get(fields=b"nonsense\r\n"), "400"),
    "a blank before the colon": (get(fields=b"X-A : 1\r\n"), "400"),
    "a NUL in a header": (get(fields=b"X-A: a\0b\r\n"), "400"),
    "a header of 70 KiB": (get(fields=b"X-A: " + b"a" * 71680 + b"\r\n"), "431"),
    "300 headers": (get(fields=b"".join(b"X-%d: 1\r\n" % n for n in range(300))), "431"),
    # The HTTP parser goes by the chunks and drops the length, so nothing of it is passed on.
    "Content-Length beside chunked": (
        get(fields=CHUNKED + b"Content-Length: 5\r\n", method=b"POST", path=b"/v1/transfers") + b"0\r\n\r\n", "403 body-missing"),
    "two Content-Lengths": (post(b"{}", b"Content-Length: 3\r\n"), "400"),
    "a folded header": (get(fields=b"X-A: 1\r\n folded\r\n"), "400"),
    "chunked twice": (get(fields=CHUNKED + b"Transfer-Encoding: identity\r\n", method=b"POST",
                          path=b"/v1/transfers") + b"0\r\n\r\n", "400"),
    "no Host": (get(host=b""), "400 authority-missing"),
    "two Hosts": (get(fields=b"Host: tools.bank.example\r\n"), "400 duplicate-field"),
    "absolute form, another Host": (get(b"http://tools.bank.example/mcp"), "421 host-mismatch"),
    "another Host than was dialled": (get(host=b"Host: elsewhere.example\r\n"), "403 unlisted-destination"),
    "a Host of rubbish": (get(host=b"Host: a b@c\r\n"), "400 authority-userinfo"),
    "CONNECT elsewhere": (get(b"elsewhere.example:443", host=b"Host: elsewhere.example:443\r\n", method=b"CONNECT"),
                          "421 misdirected"),
    "CONNECT to a listed host": (get(b"payments.bank.example:80", method=b"CONNECT"), "405 method-refused"),
    "TRACE": (get(method=b"TRACE"), "405 method-refused"),
    "a method override": (get(fields=b"X-HTTP-Method-Override: DELETE\r\n"), "400 method-override"),
    "a rewritten URL": (get(fields=b"X-Original-URL: /v1/admin\r\n"), "400 url-rewrite"),
    "dot segments": (get(b"/v1/accounts/../../admin"), "400 path-dot-segment"),
    "dot segments, encoded": (get(b"/v1/accounts/%2e%2e/%2e%2e/admin"), "400 path-encoded-dot"),
    "an encoded slash": (get(b"/v1/accounts/1%2f..%2fadmin/balance"), "400 path-encoded-separator"),
    "a backslash": (get(b"/v1/accounts\\..\\admin"), "400 path-encoded-separator"),
    "a broken escape": (get(b"/v1/accounts/%zz/balance"), "400 path-percent"),
    "a path of 20 KiB": (get(b"/" + b"a" * 20480), "414 path-too-long"),
    "an envelope of the agent's own": (get(b"/v1/admin", b"SAE: eyJhbGciOiJub25lIn0..\r\n"), "403 unlisted"),
    "JSON cut off": (post(b'{"amount":"1.00"'), "403 json-syntax"),
    "JSON with a duplicate key": (post(b'{"amount":"1.00","amount":"2.00","currency":"EUR","to":"a"}'), "403 json-duplicate-key"),
    "JSON nested 5,000 deep": (post(b"[" * 5000 + b"]" * 5000), "403 json-too-deep"),
    "an integer above 2^53": (transfer_of("9007199254740993"), "403 json-number-range"),
    "a negative amount": (transfer_of('"-1.00"'), "403 amount-sign"),
    "an amount with an exponent": (transfer_of("1e2"), "403 amount-exponent"),
    "an amount of 400 digits": (transfer_of('"' + "9" * 400 + '.00"'), "403 amount-digits"),
    "a body that is no UTF-8": (post(b'{"amount":"\xff\xfe"}'), "403 json-syntax"),
    "a body over the limit": (post(b'{"amount":"1.00","pad":"' + b"a" * (2 << 20) + b'"}'), "413 body-unbound"),
    "chunks of rubbish": (get(fields=CHUNKED, method=b"POST", path=b"/v1/transfers") + b"ZZZ\r\nhello\r\n", "400 body-broken"),
    "a chunk size that overflows": (
        get(fields=CHUNKED, method=b"POST", path=b"/v1/transfers") + b"fffffffffffffffff\r\na\r\n", "400 body-broken"),
}
MCP = {
    "MCP, not JSON": (mcp(b"hello"), "400 json-syntax"),
    "MCP, a batch": (mcp(b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]'), "400 mcp-batch"),
    "MCP, a duplicate key": (mcp(b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}'), "400 json-duplicate-key"),
    "MCP, nested 5,000 deep": (mcp(b'{"jsonrpc":"2.0","id":1,"method":"ping","params":'
                                   + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}"), "400 json-too-deep"),
    "MCP, a tool without a name": (mcp(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}'), "400 mcp-tool-call"),
}


def record_of(kind: int, body: bytes) -> bytes:
    return bytes([kind, 3, 1]) + len(body).to_bytes(2, "big") + body


def hello(extensions: bytes) -> bytes:
    body = b"\3\3" + b"r" * 32 + b"\0" + b"\0\2\x13\x01" + b"\1\0" + len(extensions).to_bytes(2, "big") + extensions
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"".join(record_of(22, message[at:at + 16000]) for at in range(0, len(message), 16000))


BAD_TLS = {
    "TLS, rubbish for a ClientHello": (record_of(22, b"\xff" * 200), ("alert", "closed")),
    "TLS, a ClientHello cut off": (record_of(22, b"\1\0\0\xff\3\3")[:9], ("closed",)),
    "TLS, a length that lies": (b"\x16\3\1\xff\xff" + b"\1\0\0\4", ("alert", "closed")),
    "TLS, no server name": (hello(b""), ("alert", "closed")),
    "TLS, a ClientHello of 40 KiB": (hello(b"\0\x15" + (40960).to_bytes(2, "big") + b"\0" * 40960), ("alert", "closed")),
}

QUERY = b"\x12\x34\1\0\0\1\0\0\0\0\0\0"
BAD_DNS = {
    "one byte": b"\1",
    "a header cut off": QUERY[:7],
    "random bytes": bytes(range(255, 0, -1)),
    "a name that points at itself": QUERY + b"\xc0\x0c\0\1\0\1",
    "a label of 255 bytes": QUERY + b"\xff" + b"a" * 255 + b"\0\0\1\0\1",
    "a thousand questions announced": QUERY[:4] + b"\3\xe8" + QUERY[6:] + b"\1a\0\0\1\0\1",
    "an answer for a question": b"\x12\x34\x81\x80" + QUERY[4:] + b"\1a\0\0\1\0\1",
}
