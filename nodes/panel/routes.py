"""The views of the editor: read-only routes under /scaled_fp8/v1."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp import web

from ...quant.kernels.diagnosis import doctor
from .inspection import NotListed, inspect_file
from .runs import RUNS
from .server import running

# more at once would hold up what the server is for; the others wait, and those that wait too long are told
WORKERS = ThreadPoolExecutor(2, thread_name_prefix="scaled_fp8")
PATIENCE = 60  # seconds
PREFIX = "/scaled_fp8/v1"


def register() -> None:
    """Add the routes to the running server; nothing where there is none, as in a test."""
    server = running()
    if server is not None:
        server.routes.get(f"{PREFIX}/inspect")(inspect)
        server.routes.get(f"{PREFIX}/doctor")(diagnose)
        server.routes.get(f"{PREFIX}/report")(report)


async def inspect(request: web.Request) -> web.Response:
    """?file=FOLDER/NAME&compute=auto: the verdict without the layers; &layers=1 with them."""
    file, compute = request.query.get("file", ""), request.query.get("compute", "")
    found = await answer(inspect_file, file, compute)
    if isinstance(found, web.Response) or request.query.get("layers") == "1":
        return found if isinstance(found, web.Response) else web.json_response(found)
    return web.json_response({key: value for key, value in found.items() if key not in ("layers", "choices")})


async def diagnose(request: web.Request) -> web.Response:
    """Every kernel on every device of this machine, as `scaled-fp8 doctor` has it."""
    found = await answer(lambda: doctor().to_json())
    return found if isinstance(found, web.Response) else web.json_response(found)


async def report(request: web.Request) -> web.Response:
    """What nodes gave out, newest first; ?run=KEY: every layer of one."""
    key = request.query.get("run")
    if key is None:
        return web.json_response({"runs": [run.summary() for run in reversed(RUNS.values())]})
    if key not in RUNS:
        return not_found("No node of this number has given out a model since the server started.")
    return web.json_response(RUNS[key].to_json())


async def answer(work: Callable[..., dict[str, Any]], *arguments: str) -> dict[str, Any] | web.Response:
    """What work finds, computed beside the event loop; 404 with its sentence for a name that is not listed."""
    try:
        asked = asyncio.get_running_loop().run_in_executor(WORKERS, lambda: work(*arguments))
        return await asyncio.wait_for(asked, PATIENCE)
    except asyncio.TimeoutError:
        return web.json_response({"error": f"No answer within {PATIENCE} s; ask again."}, status=503)
    except NotListed as reason:
        return not_found(str(reason))
    except OSError as reason:
        return not_found(f"The file cannot be read: {reason.strerror or type(reason).__name__}.")


def not_found(sentence: str) -> web.Response:
    return web.json_response({"error": sentence}, status=404)
