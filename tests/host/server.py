"""A server that answers a byte with a byte, in a unit of its own: `server.py PORT`."""

import socketserver
import sys


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(self.request.recv(1))


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
