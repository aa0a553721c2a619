"""Base networks: what a weights file's integers are added to.

A file names its base by id. ``init-1`` is not stored anywhere: it is a pseudo-random
initialisation drawn from PCG64, whose stream numpy guarantees across versions and machines, so
encoder and decoder make the same one. Differences from it are smaller than whole weights because
a short fit stays near where it started.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from codecaux.architecture import SrUnetConfig, blocks, parameter_shapes
from codecaux.errors import WeightsBaseError

__all__ = ["DEFAULT_BASE_ID", "KNOWN_BASE_IDS", "get_base"]

FloatArray = npt.NDArray[np.float32]

DEFAULT_BASE_ID = "init-1"
KNOWN_BASE_IDS = (DEFAULT_BASE_ID,)
# Blocks with an identity branch start at a fraction of He's scale: each already passes x on.
_BRANCH_GAIN = 0.5


def get_base(base_id: str | None, config: SrUnetConfig) -> dict[str, FloatArray]:
    """Name -> float32 tensor of every parameter (merged form, without identity branches).

    No id means zeros: the file holds whole weights. WeightsBaseError for an unknown id.
    """
    if base_id is None:
        return {n: np.zeros(s, np.float32) for n, s in parameter_shapes(config).items()}
    if base_id == DEFAULT_BASE_ID:
        return _generated(config)
    raise WeightsBaseError(
        f"these weights are a difference from the base {base_id[:64]!r}, which this version of "
        f"codecaux does not have (it has: {', '.join(KNOWN_BASE_IDS)}); "
        "install the version named in the file's metadata (codecaux inspect shows it)"
    )


def _generated(config: SrUnetConfig) -> dict[str, FloatArray]:
    """He-scaled uniform 3x3 kernels; zero biases and a zero last layer, so that the untrained
    network's output is exactly the bicubic picture.
    """
    result = {n: np.zeros(s, np.float32) for n, s in parameter_shapes(config).items()}
    for block in blocks(config):
        name = f"{block.name}.weight"
        shape = result[name].shape
        generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
        bound = (6.0 / (9 * block.in_channels)) ** 0.5 * (_BRANCH_GAIN if block.has_branch else 1.0)
        # random() maps 53 bits by one multiplication: the same on every platform, unlike normal().
        result[name] = ((generator.random(shape) * 2.0 - 1.0) * bound).astype(np.float32)
    return result
