"""The preprocessing of a classifier as an ONNX graph, so that a page computes what Python does.

ONNX Runtime resizes bytes with antialiasing as Pillow does, in integers, first the columns and then the rows: results
differ by one level in a few pixels of ten thousand. Pillow 13 may begin with the rows where an image is squeezed more
in height than in width; squashed images then differ where the first pass rounds.
"""

from typing import Any

import numpy as np

from transnext.data.preprocessing import Preprocessing

MAX_ASPECT = 32
"""More elongated images are cut before they are resized, as in `transnext.data.transforms`."""
OPSET = 20

_RESIZE = {
    "bilinear": 'mode="linear", antialias=1, exclude_outside=1',
    "bicubic": 'mode="cubic", cubic_coeff_a=-0.5, antialias=1, exclude_outside=1',
}

# Sides are int64 [2], rows before columns; what ends in `_real` is their float64, in which Python divides too.
_CUT = """
    short = ReduceMin <keepdims=1> (given)
    longest = Mul (short, aspect)
    kept = Min (given, longest)
    surplus = Sub (given, kept)
    first = Div (surplus, two)
    end = Add (first, kept)
    cut = Slice (whole, first, end, sides)
"""
_PLACED = {
    # The shorter side becomes that of `scaled`, the longer one follows; too long a one is cut first.
    "center": f"""
        {_CUT}
        product = Mul (scaled, kept)
        resized = Div (product, short)
    """,
    "center, not square": f"""
        {_CUT}
        kept_real = Cast <to=11> (kept)
        scaled_real = Cast <to=11> (scaled)
        ratios = Div (kept_real, scaled_real)
        ratio = ReduceMin <keepdims=1> (ratios)
        resized_real = Div (kept_real, ratio)
        rounded = Round (resized_real)
        resized = Cast <to=7> (rounded)
    """,
    # `Max` changes nothing: shape inference stumbles over a copy of an input.
    "squash": """
        cut = Identity (whole)
        resized = Max (scaled, zeros)
    """,
    "border": """
        cut = Identity (whole)
        given_real = Cast <to=11> (given)
        scaled_real = Cast <to=11> (scaled)
        ratios = Div (given_real, scaled_real)
        ratio = ReduceMax <keepdims=1> (ratios)
        resized_real = Div (given_real, ratio)
        rounded = Round (resized_real)
        perhaps_none = Cast <to=7> (rounded)
        resized = Max (perhaps_none, one)
    """,
}
_PADDED = """
    difference = Sub (size, resized)
    missing = Max (difference, zeros)
    before = Div (missing, two)
    after = Sub (missing, before)
    pads = Concat <axis=0> (zeros, before, zeros, after)
    red, green, blue = Split <axis=1, num_outputs=3> (large)
    padded_red = Pad (red, pads, fill_red)
    padded_green = Pad (green, pads, fill_green)
    padded_blue = Pad (blue, pads, fill_blue)
    padded = Concat <axis=1> (padded_red, padded_green, padded_blue)
    there = Add (resized, missing)
"""
_NOT_PADDED = """
    padded = Identity (large)
    there = Identity (resized)
"""


def prepare_graph(preprocessing: Preprocessing) -> Any:
    """The `onnx.ModelProto` from an image to the input of a network.

    Its inputs are `pixels`, uint8 `[h, w, 4]` of any size, of which the fourth channel is passed over, and `size`,
    int64 `[2]`, rows and columns of the result. Its outputs are `images`, float32 `[1, 3, rows, columns]`, normalised,
    and `shown`, uint8 `[rows, columns, 3]`, the same before that.

    Args:
        preprocessing: Of the model; its `input_size` says only whether images are square.

    Raises:
        ValueError: It resizes in a way that ONNX does not know, or is for places in pictures.
    """
    import onnx

    method, mode = preprocessing.interpolation, preprocessing.crop_mode
    if method not in _RESIZE:
        raise ValueError(f"pages resize images by {', '.join(_RESIZE)}, and this model by {method}")
    if mode not in _PLACED:
        raise ValueError(f"pages bring images to their size by center, squash or border, and this model by {mode}")
    _, height, width = preprocessing.input_size
    placed = _PLACED["center, not square" if mode == "center" and height != width else mode]
    padded = _PADDED if mode == "border" else _NOT_PADDED
    text = f"""
        <ir_version: 9, opset_import: ["" : {OPSET}]>
        prepare (uint8[h, w, four] pixels, int64[two_sides] size)
            => (float[one, three, rows, columns] images, uint8[rows, columns, three] shown) {{
            given = Shape <start=0, end=2> (pixels)
            rgb = Slice (pixels, zero, three_channels, last)
            planes = Transpose <perm=[2, 0, 1]> (rgb)
            whole = Unsqueeze (planes, zero)
            size_real = Cast <to=11> (size)
            uncropped = Div (size_real, crop)
            floor = Floor (uncropped)
            scaled = Cast <to=7> (floor)
            {placed}
            target = Concat <axis=0> (one_of_three, resized)
            large = Resize <coordinate_transformation_mode="half_pixel", {_RESIZE[method]}> (cut, , , target)
            {padded}
            margin = Sub (there, size)
            margin_real = Cast <to=11> (margin)
            half_margin = Div (margin_real, half)
            nearest = Round (half_margin)
            offset = Cast <to=7> (nearest)
            stop = Add (offset, size)
            seen = Slice (padded, offset, stop, sides)
            real = Cast <to=1> (seen)
            shares = Div (real, range)
            centred = Sub (shares, mean)
            images = Div (centred, std)
            picture = Squeeze (seen, zero)
            shown = Transpose <perm=[1, 2, 0]> (picture)
        }}
    """
    model = onnx.parser.parse_model(text)
    constants = {
        "zero": np.array([0]),
        "three_channels": np.array([3]),
        "last": np.array([2]),
        "one": np.array([1]),
        "two": np.array([2]),
        "sides": np.array([2, 3]),
        "zeros": np.array([0, 0]),
        "aspect": np.array([MAX_ASPECT]),
        "one_of_three": np.array([1, 3]),
        "half": np.array([2.0]),
        "crop": np.array([preprocessing.crop_pct]),
        "range": np.array([255.0], np.float32),
        "mean": np.array(preprocessing.mean, np.float32).reshape(3, 1, 1),
        "std": np.array(preprocessing.std, np.float32).reshape(3, 1, 1),
    }
    for name, value in zip(("red", "green", "blue"), preprocessing.mean, strict=True):
        constants[f"fill_{name}"] = np.array(round(255 * value), np.uint8)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in constants.items() if name in used
    )
    model.producer_name = "transnext"
    onnx.checker.check_model(model)
    return model
