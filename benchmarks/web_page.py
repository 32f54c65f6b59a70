"""Measure the page that `transnext web --export` writes, in Chromium: its start, a new image, the pointer.

    python benchmarks/web_page.py [--page mine.html]

Wall time is what a user waits, and grows with whatever else the machine does. The time that the threads of the page
were on a core hardly does; where cores are to spare, wall time lies between that of the main thread and that of all.
"""

import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import tyro
from playwright.sync_api import Page, sync_playwright

FLAGS = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
ROUNDS = 20
MOVES = 400


def main(page: Path | None = None, sizes: tuple[int, ...] = (64, 224), starts: int = 5) -> None:
    """Measures a page.

    Args:
        page: The page; by default that of the bundled model is written.
        sizes: Of pictures, pixels.
        starts: How often the page is opened.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = page
        if path is None:
            from transnext.web.static_page import export_page

            path = export_page(output=Path(folder) / "page.html").path
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        with sync_playwright() as playwright:
            chromium = os.environ.get("TRANSNEXT_CHROMIUM") or shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
            for start in range(starts):
                opened = browser.new_page(viewport={"width": 1100, "height": 900})
                requests: list[str] = []
                opened.on("request", lambda request, seen=requests: seen.append(request.url))  # type: ignore[misc]
                opened.goto(path.absolute().as_uri(), wait_until="commit")
                opened.wait_for_selector("body[data-ready]", timeout=120_000)
                wall = opened.evaluate("performance.now()")
                main_thread, threads = on_cores()
                external = [url for url in requests if not url.startswith(("file:", "blob:", "data:"))]
                print(
                    f"start to first result: {wall:.0f} ms; on a core {main_thread:.0f} ms (main thread), "
                    f"{threads:.0f} ms (all); requests beside the file: {len(external)}"
                )
                if start < starts - 1:
                    opened.close()
            for size in sizes:
                opened.evaluate("size => explorer.change({ size })", size)
                measure(opened, size)
            heap = opened.evaluate("performance.memory.usedJSHeapSize / 1e6")
            print(f"JavaScript heap {heap:.0f} MB")
            browser.close()


def measure(page: Page, size: int) -> None:
    """Prints times of a new image and of moving the pointer, at a size."""
    page.evaluate("() => { explorer.provider.timings.length = 0; }")
    core = spent(lambda: page.evaluate(f"async () => {{ for (let i = 0; i < {ROUNDS}; i++) await explorer.look(); }}"))
    image = page.evaluate("explorer.provider.timings")
    for stage in (0, 2):
        page.evaluate(f"explorer.change({{ stage: {stage}, block: 0 }})")
        page.evaluate("() => { explorer.timings.length = 0; }")
        moves = f"""() => {{
            for (let i = 0; i < {MOVES}; i++) {{
                explorer.state.at = [(i * 37) % {size}, (i * 53) % {size}];
                explorer.draw();
            }}
        }}"""
        drawing = spent(lambda text=moves: page.evaluate(text))  # type: ignore[misc]
        draws = page.evaluate("explorer.timings")
        print(
            f"{size}: map of stage {stage}: median {statistics.median(draws):.2f} ms, "
            f"p95 {statistics.quantiles(draws, n=20)[-1]:.2f} ms; on a core {drawing / MOVES:.2f} ms"
        )
    print(
        f"{size}: new image: median {statistics.median(image):.0f} ms, least {min(image):.0f} ms; "
        f"on a core {core / ROUNDS:.0f} ms"
    )


def spent(work: Callable[[], Any]) -> float:
    """Milliseconds that the main thread of the page was on a core in a call."""
    before = on_cores()[0]
    work()
    return on_cores()[0] - before


def on_cores() -> tuple[float, float]:
    """Milliseconds on a core so far of the youngest page's main thread, and of all its threads."""
    pages = [
        process
        for process in psutil.Process().children(recursive=True)
        if "--type=renderer" in process.cmdline() and not any("extension" in part for part in process.cmdline())
    ]
    pid = max(pages, key=lambda process: process.create_time()).pid
    tasks = {int(task.name): task for task in Path(f"/proc/{pid}/task").iterdir()}
    times = {name: int((task / "schedstat").read_text().split()[0]) / 1e6 for name, task in tasks.items()}
    return times[pid], sum(times.values())


if __name__ == "__main__":
    tyro.cli(main)
