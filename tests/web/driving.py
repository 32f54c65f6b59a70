"""What tests do with a page in a browser: give it files, wait for it, read numbers and pixels from it."""

import base64
import io
from typing import Any

import numpy as np
import torch
from PIL import Image

BYTES = "Uint8Array.from(atob({}), (c) => c.charCodeAt(0))"


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def give(page: Any, name: str, data: bytes, kind: str = "image/png") -> None:
    """Chooses a file, and waits until the page has dealt with it."""
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": data})
    settle(page)


def settle(page: Any) -> None:
    """Waits for what goes on, and for the sentence and the address, which follow after a pause."""
    page.wait_for_timeout(50)
    page.wait_for_selector("body:not([data-busy]):not([data-unsaid])")


def array(page: Any, expression: str) -> np.ndarray:
    """A Float32Array of the page."""
    text = page.evaluate(
        f"""async () => {{
            const bytes = new Uint8Array(Float32Array.from(await ({expression})).buffer);
            let text = "";
            for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
            return btoa(text);
        }}"""
    )
    return np.frombuffer(base64.b64decode(text), np.float32)


def look_at(page: Any, images: torch.Tensor) -> None:
    """Gives the network in the page a tensor, `[1, 3, H, W]`; `looked` is what it found."""
    data = base64.b64encode(images.numpy().tobytes()).decode()
    height, width = images.shape[2:]
    page.evaluate(
        f"""async (data) => {{
            const bytes = {BYTES.format("data")};
            globalThis.looked = await explorer.provider.lookAt(new Float32Array(bytes.buffer), {height}, {width});
        }}""",
        data,
    )


def canvas(page: Any) -> np.ndarray:
    """What is drawn, uint8 `[H, W, 3]`."""
    text = page.evaluate("document.getElementById('canvas').toDataURL('image/png')")
    with Image.open(io.BytesIO(base64.b64decode(text.split(",")[1]))) as picture:
        return np.asarray(picture.convert("RGB"))
