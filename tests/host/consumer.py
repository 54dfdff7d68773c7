"""One connection, or one after another while a file is there: `consumer.py PORT [FILE]`. It prints a line for
each: "ok", or the error's name."""

import errno
import os
import socket
import sys
import time

PAUSE_S = 0.1


def attempt(port: int) -> str:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            sock.sendall(b"x")
            return "ok" if sock.recv(1) == b"x" else "closed"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))


if __name__ == "__main__":
    print(attempt(int(sys.argv[1])), flush=True)
    while len(sys.argv) > 2 and os.path.exists(sys.argv[2]):
        time.sleep(PAUSE_S)  # its pace
        print(attempt(int(sys.argv[1])), flush=True)
