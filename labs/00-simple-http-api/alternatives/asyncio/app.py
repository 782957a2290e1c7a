"""The same API on asyncio: one thread, no http.server, every connection closed after its answer."""

import asyncio
import json
import os
import signal


async def serve(reader, writer):
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return writer.close()
    method, path, _ = head[0].split(" ")
    for line in head[1:]:
        if line.lower().startswith("content-length:"):
            await reader.readexactly(int(line.split(":")[1]))
    if path != "/healthz":
        status, document = "404 Not Found", {"error": "no such path"}
    elif method in ("GET", "HEAD"):
        status, document = "200 OK", {"status": "ok"}
    else:
        status, document = "405 Method Not Allowed", {"error": "no such method"}
    body = json.dumps(document).encode()
    writer.write(
        f"HTTP/1.1 {status}\r\ncontent-type: application/json; charset=utf-8\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
    )
    if method != "HEAD":
        writer.write(body)
    await writer.drain()
    writer.close()


async def main():
    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    await asyncio.start_server(serve, "127.0.0.1", int(os.environ["PORT"]))
    await end.wait()


asyncio.run(main())
