"""Programs under test that serve on loopback: waiting for what they answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp


async def eventually(ask: Callable[[], Awaitable[Any]], within_s: float = 10.0) -> Any:
    """The first true answer of `ask`."""
    async with asyncio.timeout(within_s):
        while not (answer := await ask()):  # noqa: ASYNC110 - the other side of a socket has no event
            await asyncio.sleep(0.02)
        return answer


async def answering(session: aiohttp.ClientSession, port: int, within_s: float) -> None:
    """Returns when something serves on the port."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{port}/healthz"):
                    return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.02)
