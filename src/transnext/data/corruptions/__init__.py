"""The 15 common corruptions of ImageNet-C at 5 severities, made on the fly for images of any size.

Definitions and parameters: Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, and the script that made ImageNet-C. They are for images of 224 pixels. Here every length
(the radius of a blur, a displacement, the grain of snow) is multiplied by the shorter side / 224, so that a corruption
looks alike at all sizes; what happens to single pixels (noise, JPEG, the factor of pixelation) stays as it is.

Frost differs: ImageNet-C blends in photographs of frost, which are not ours to ship. See `weather.frost`.
"""

from transnext.data.corruptions.apply import CORRUPTIONS, SEVERITIES, CorruptedImages, check_corruption, corrupt

__all__ = ["CORRUPTIONS", "SEVERITIES", "CorruptedImages", "check_corruption", "corrupt"]
