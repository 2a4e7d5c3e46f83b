"""A real ComfyUI server on a free port, spoken to over HTTP."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.comfyui import COMFYUI, environment, python


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def started(base: Path, log: Path, *arguments: str) -> Iterator[Server]:
    """ComfyUI on a base directory, by its own python and on the CPU, until the ``with`` ends."""
    port = free_port()
    command = [
        str(python()), str(COMFYUI / "main.py"), "--cpu", "--base-directory", str(base), "--port", str(port),
        "--disable-api-nodes", "--database-url", "sqlite:///:memory:", *arguments,
    ]  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=base, env=environment(), stdout=out, stderr=subprocess.STDOUT)
    server = Server(port, process, log)
    try:
        server.wait_until_ready()
        assert "IMPORT FAILED" not in log.read_text(), log.read_text()
        yield server
    finally:
        process.terminate()
        process.wait(30)


@dataclass
class Server:
    port: int
    process: subprocess.Popen
    log: Path

    def get(self, path: str) -> Any:
        return self.ask(path)[1]

    def ask(self, path: str, body: dict | None = None) -> tuple[int, Any]:
        """Status and parsed answer; POST where there is a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return answer.status, json.loads(answer.read() or "null")
        except urllib.error.HTTPError as failure:
            return failure.code, json.loads(failure.read() or "null")

    def wait_until_ready(self, seconds: float = 180) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            try:
                return self.get("/system_stats")
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.3)
        raise AssertionError(f"no answer in {seconds} s: {self.log.read_text()[-4000:]}")

    def run(self, prompt: dict, seconds: float = 240) -> dict:
        """History of an API prompt once it is over."""
        status, answer = self.ask("/prompt", {"prompt": prompt})
        assert status == 200, answer
        return self.over(answer["prompt_id"], seconds)

    def over(self, identity: str, seconds: float = 240) -> dict:
        """History of a prompt that was taken, once it is over."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            history = self.get(f"/history/{identity}")
            if history:
                return history[identity]
            time.sleep(0.2)
        raise AssertionError(f"not over in {seconds} s")
