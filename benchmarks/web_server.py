"""Measure the server of `transnext web`: its start, new images, attention, a full queue, memory.

    python benchmarks/web_server.py [MODEL ...] [--sizes 224 448]

Wall time, what a user of this machine waits; it grows with whatever else the machine does;
so the load is shown, too, and how long the threads of server and decoders were on a core.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import httpx2
import psutil
import tyro

from transnext.choices import DEFAULT_MODEL

LOAD = "import sys, transnext.loaded as l; [l.load(m) for m in sys.argv[1:]]"
ROUNDS = 30


def main(
    models: Annotated[tuple[str, ...], tyro.conf.Positional] = (DEFAULT_MODEL,),
    sizes: tuple[int, ...] = (64, 224),
    starts: int = 3,
) -> None:
    """Measures a server.

    Args:
        models: As `transnext web` takes them.
        sizes: Of images, pixels.
        starts: How often it is started.
    """
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    beyond = []
    for _ in range(starts):
        alone = _seconds(lambda: subprocess.run([sys.executable, "-c", LOAD, *models], check=True))
        started = time.perf_counter()
        server, address = _start(models)
        listening = time.perf_counter() - started
        _opened(address).close()
        page = time.perf_counter() - started
        _end(server)
        beyond.append(page - alone)
        print(f"  models alone {alone:.2f} s, listening after {listening:.2f} s, page after {page:.2f} s")
    if beyond:
        print(f"start beyond the models' load: {statistics.median(beyond):.2f} s")
    server, address = _start(models)
    try:
        process, client = psutil.Process(server.pid), _opened(address)
        for model in client.get("/api/models").json():
            for size in sizes:
                _measure(client, process, model, size)
        client.close()
        resident = [p.memory_info().rss / 1e6 for p in (process, *process.children())]
        print(f"resident: server {resident[0]:.0f} MB, decoders {', '.join(f'{x:.0f}' for x in resident[1:])} MB")
    finally:
        _end(server)


def _measure(client: httpx2.Client, server: psutil.Process, model: dict[str, Any], size: int) -> None:
    picture = client.get("/examples/0.png").content
    wish = {"model": model["id"], "size": str(size)}
    names: list[str] = []

    def see() -> None:
        answer = client.put("/api/images", params=wish, content=picture)
        names.append(answer.raise_for_status().json()["id"])
        client.get(f"/api/images/{names[-1]}/shown").raise_for_status()

    def ask(kind: str, **where: int) -> Callable[[], Any]:
        return lambda: client.get(f"/api/images/{names[-1]}/{kind}", params=where).raise_for_status()

    print(f"{model['name']} at {size}:")
    print(f"  new image, answer and what the network saw  {_median(see, server)}")
    for stage in sorted({block["stage"] for block in model["blocks"]}):
        took = _median(ask("attention", stage=stage, block=0), server)
        print(f"  attention of all queries, stage {stage}         {took}")
    print(f"  attention of one query, stage 0             {_median(ask('query', stage=0, block=0, y=3, x=3), server)}")


def _median(act: Callable[[], Any], server: psutil.Process) -> str:
    for _ in range(3):
        act()
    before = _on_cores(server)
    times = sorted(_seconds(act) * 1e3 for _ in range(ROUNDS))
    cores = (_on_cores(server) - before) / ROUNDS * 1e3
    return (
        f"{times[ROUNDS // 2]:7.1f} ms (fastest {times[0]:.1f}, slowest {times[-1]:.1f}; server on cores {cores:.1f})"
    )


def _on_cores(server: psutil.Process) -> float:
    """Seconds that the server and its decoders have been on a core."""
    return sum(sum(p.cpu_times()[:2]) for p in (server, *server.children()))


def _seconds(act: Callable[[], Any]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def _start(models: tuple[str, ...]) -> tuple["subprocess.Popen[str]", str]:
    command = [sys.executable, "-m", "transnext", "web", *models, "--no-browser", "--port", "0", "--device", "cpu"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    return server, server.stdout.readline().split()[1]


def _opened(address: str) -> httpx2.Client:
    client = httpx2.Client(base_url=address, timeout=120, trust_env=False)
    client.get("/").raise_for_status()
    return client


def _end(server: "subprocess.Popen[str]") -> None:
    server.terminate()
    server.wait()


if __name__ == "__main__":
    tyro.cli(main)
