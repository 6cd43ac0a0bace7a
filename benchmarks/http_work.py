"""What a request over HTTP costs the server: a publish, which the front door answers, beside one for the framework."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.bench import Bench, Case, Column, Sample, Sizes, Work
from benchmarks.peers import Peer
from benchmarks.peers.ours import API_KEY

WARM_UP = 200
TIMEOUT_SECONDS = 10
_BODY = b'{"topic":"room:bench","data":{"text":"' + b"x" * 100 + b'"}}'
REQUEST_TEXTS = {
    "POST /api/v1/publish": b"POST /api/v1/publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (API_KEY.encode(), len(_BODY), _BODY),
    "GET /healthz (Quart-Trio on hypercorn)": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@dataclass(frozen=True)
class HttpCase(Case):
    """A case with the request that it sends."""

    request: bytes = b""


class HttpRequests(Work):
    """One request after the other on one kept-alive connection."""

    name = "http"
    title = "A request over HTTP, on a kept-alive connection"
    columns = (Column("cost", "CPU µs per request", 0, main=True), Column("latency", "mean µs to the answer", 0))
    ours_only = True

    def offers(self, peer: Peer) -> bool:
        return True

    def cases(self, peers: Sequence[Peer], sizes: Sizes) -> list[Case]:
        return [
            HttpCase(f"{peer.title}, {label}", peer, 1, request)
            for peer in peers
            if self.wants(peer)
            for label, request in REQUEST_TEXTS.items()
        ]

    def measure(self, bench: Bench, case: Case) -> Sample:
        assert isinstance(case, HttpCase)
        times = bench.sizes.http_requests
        with bench.serving(case.peer) as server:
            address = ("127.0.0.1", server.port)
            with socket.create_connection(address, timeout=TIMEOUT_SECONDS) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                ask(connection, case.request, WARM_UP)
                cpu, began = server.cpu_seconds(), time.perf_counter()
                refused = ask(connection, case.request, times)
                seconds, cpu = time.perf_counter() - began, server.cpu_seconds() - cpu
        values = {"cost": 1e6 * cpu / times, "latency": 1e6 * seconds / times}
        return Sample(values, [f"{refused} refused"] if refused else [], [])


def ask(connection: socket.socket, request: bytes, times: int) -> int:
    """Send the request so often, each after the answer to the last; how many were not answered with 200."""
    refused = 0
    for _ in range(times):
        connection.sendall(request)
        answer = connection.recv(65536)
        while b"\r\n\r\n" not in answer or not answer.rstrip().endswith(b"}"):
            more = connection.recv(65536)
            if not more:
                raise OSError("the server hung up")
            answer += more
        refused += not answer.startswith(b"HTTP/1.1 200")
    return refused
