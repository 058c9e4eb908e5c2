"""The clients of the benchmark of streams, in a process of their own: ``python -m … JSON``.

They speak SSE and WebSocket by hand, so that what they cost is not what is measured. They print, as JSON,
how late each report came, in seconds.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Clients:
    """All clients, and what they have seen."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self.delays: list[float] = []
        self.open = 0

    async def stream(self, task_id: str) -> None:
        """Follow one task over SSE until it ends."""
        reader, writer = await self._ask(f"/api/v1/tasks/{task_id}/stream", "")
        while line := await reader.readline():
            if line.startswith(b"data: "):
                data = json.loads(line[6:])
                self._note(data)
                if _is_end(data):
                    break
        writer.close()

    async def socket(self, ids: Sequence[str]) -> None:
        """Follow some tasks over a WebSocket until they end."""
        query = "&".join(f"task_id={one}" for one in ids)
        upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        reader, writer = await self._ask(f"/ws?{query}", f"{upgrade}Sec-WebSocket-Key: {KEY}\r\n")
        left = len(ids)
        while left:
            head = await reader.readexactly(2)
            length = head[1]
            if length == 126:
                length = int.from_bytes(await reader.readexactly(2), "big")
            frame = json.loads(await reader.readexactly(length))
            self._note(frame["data"])
            left -= _is_end(frame["data"])
        writer.close()

    async def _ask(self, path: str, headers: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\n{headers}\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        self.open += 1
        return reader, writer

    def _note(self, data: dict[str, Any]) -> None:
        if data.get("kind") == "progress":
            self.delays.append(time.time() - float(data["message"]))


def _is_end(data: dict[str, Any]) -> bool:
    return data.get("kind") == "state" and data["status"] == "completed"


async def follow(asked: dict[str, Any]) -> list[float]:
    """Open all, say so, and wait for the end of what they follow."""
    clients = Clients(asked["host"], asked["port"])
    everybody = [asyncio.create_task(clients.stream(one)) for one in asked["streams"]]
    everybody += [asyncio.create_task(clients.socket(ids)) for ids in asked["sockets"]]
    while clients.open < len(everybody):
        await asyncio.sleep(0.05)
    print("open", flush=True)
    await asyncio.gather(*everybody)
    return clients.delays


if __name__ == "__main__":
    print(json.dumps(asyncio.run(follow(json.loads(sys.argv[1])))))
