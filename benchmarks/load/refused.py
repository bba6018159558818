"""Runs inside a sandbox: asks over HTTPS for what is denied, and says how many answers were a 403.

usage: python3 - COUNT NAME CPU; `{number}` and `{stamp}` in NAME make each host a new one.

It does not verify who answers: what is measured is the other side.
"""

import json
import os
import socket
import ssl
import sys
import time

count, pattern, cpu = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
os.sched_setaffinity(0, {cpu})
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
refused = 0
times = []
for number in range(count):
    name = pattern.format(number=number, stamp=time.time_ns())
    began = time.perf_counter()
    with (
        socket.create_connection((name, 443), timeout=10) as sock,
        context.wrap_socket(sock, server_hostname=name) as tls,
    ):
        tls.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % name.encode())
        answer = tls.recv(65536)
    times.append(time.perf_counter() - began)
    refused += answer.startswith(b"HTTP/1.1 403")
print(json.dumps({"refused": refused, "p50_ms": sorted(times)[count // 2] * 1e3}))
