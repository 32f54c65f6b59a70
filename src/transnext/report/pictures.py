"""Pictures inside a page."""

import base64
import io

from PIL import Image

from transnext.report.text import escape

QUALITY = 82


def inline_picture(image: Image.Image, alt: str) -> str:
    """An `img` with the picture in it, as JPEG.

    Args:
        image: In mode RGB, of the size to show it in.
        alt: What is seen, in words.
    """
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<img src="data:image/jpeg;base64,{data}" alt="{escape(alt)}" width="{image.width}" height="{image.height}"/>'
    )
