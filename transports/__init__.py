"""Bytes in, bytes out: everything that knows sockets, HTTP, WebSocket and Server-Sent Events."""
