"""Carries TCP connections to another address, so that a test can cut them by ending this.

    forward.py PORT HOST PORT
"""
import socket
import sys
import threading


def carry(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    finally:
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


listener = socket.create_server(("", int(sys.argv[1])))
while True:
    near, _ = listener.accept()
    try:
        far = socket.create_connection((sys.argv[2], int(sys.argv[3])), timeout=5)
    except OSError:
        near.close()
        continue
    far.settimeout(None)
    for pair in ((near, far), (far, near)):
        threading.Thread(target=carry, args=pair, daemon=True).start()
