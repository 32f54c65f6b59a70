"""Sizes of pictures in files of models whose answers have places."""

from dataclasses import replace

from transnext.data.preprocessing import Preprocessing
from transnext.limits import MAX_SIDE, check_number
from transnext.tasks.task import Loaded


def canvas_of_file(loaded: Loaded, image_size: int | tuple[int, int] | None, *, one_canvas: bool) -> Preprocessing:
    """What pictures look like to a file of a detector or segmenter.

    Args:
        loaded: The model.
        image_size: Size of the canvas, pixels, one number or `(H, W)`; the trained one by default.
        one_canvas: The file takes a single size.

    Raises:
        ValueError: The model takes canvases of many sizes, the file does not, and none is named; or it is no size.
    """
    trained = loaded.preprocessing
    if image_size is None:
        if one_canvas and trained.crop_mode == "shortest":
            short, long = trained.input_size[1:]
            raise ValueError(
                f"{loaded.name} takes pictures as canvases of many sizes (short side {short}, long side up to {long}), "
                f"a file has one: add --image-size HEIGHT WIDTH, into which pictures are fitted then"
            )
        return trained
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    for side in (height, width):
        check_number("image_size", side, 1, MAX_SIDE)
    mode = "fit" if one_canvas and trained.crop_mode == "shortest" else trained.crop_mode
    if mode == "shortest":
        if height == width:
            return trained.resized(height)
        height, width = sorted((height, width))
    return replace(trained, input_size=(trained.input_size[0], height, width), crop_mode=mode)
