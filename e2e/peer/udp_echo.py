"""Answers UDP packets and TCP connections on one port, in both address families, and says each.

    udp_echo.py PORT
"""
import json
import socketserver
import socket
import sys
import threading


class Datagram(socketserver.BaseRequestHandler):
    def handle(self):
        print(json.dumps({"udp": self.client_address[0]}), flush=True)
        self.request[1].sendto(b"answered", self.client_address)


class Stream(socketserver.BaseRequestHandler):
    def handle(self):
        print(json.dumps({"tcp": self.client_address[0]}), flush=True)
        self.request.recv(2048)
        self.request.sendall(b"HTTP/1.0 200 OK\r\ncontent-length: 8\r\n\r\nanswered")


class V6Datagrams(socketserver.ThreadingUDPServer):
    address_family = socket.AF_INET6  # and v4-mapped


class V6Streams(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True


address = ("::", int(sys.argv[1]))
threading.Thread(target=V6Datagrams(address, Datagram).serve_forever).start()
V6Streams(address, Stream).serve_forever()
