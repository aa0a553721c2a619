"""How steady a distorted video is in time, beside its source: tOF and RPF. Lower is better.

    tOF   do things move as in the source? In pixels of the source per frame
    RPF   does brightness change from frame to frame as in the source? In 8-bit luma code values

Both compare changes between two consecutive frames, and steadiness takes two such changes at least:
a clip of one or two frames has neither. Neither says how good a picture is: a frozen error is
perfectly steady. A version that lost the source's grain has a large RPF deviation for that alone,
because grain is itself a change in time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from codecaux.sampling import EvenSampling
from codecaux.video import SampleArray, VideoFormat

__all__ = [
    "FLOW_MAX_WIDTH",
    "RPF_METRICS",
    "TEMPORAL_METRICS",
    "Flow",
    "TemporalScores",
    "TemporalSteps",
    "end_point_difference",
    "find_flow",
    "flow_luma",
    "flow_reduction",
    "relative_pixel_flow",
    "ripple",
]

RPF_METRICS = ("rpf_mean", "rpf_deviation")
TEMPORAL_METRICS = ("tof", *RPF_METRICS)
# Pictures wider than this are reduced before their flow is computed, which bounds the time.
FLOW_MAX_WIDTH = 960
_MIN_FRAMES = 3

Luma8 = npt.NDArray[np.uint8]
ErrorPlane = npt.NDArray[np.int16]
FlowArray = npt.NDArray[np.float32]
# Two consecutive luma planes uint8 [H, W] -> how far each pixel moved, float32 [H, W, (x, y)].
Flow = Callable[[Luma8, Luma8], FlowArray]


def find_flow() -> Flow | None:
    """Farneback's optical flow of OpenCV (the extra ``temporal``); None where it is not installed.

    Farneback, Two-Frame Motion Estimation Based on Polynomial Expansion, SCIA 2003. Parameters as
    tOF is commonly computed: 3 levels of a pyramid of factor 0.5, 3 iterations over windows of
    15x15, polynomials over 5x5 with a sigma of 1.2.
    """
    try:
        from cv2 import calcOpticalFlowFarneback
    except ImportError:
        return None

    def farneback(previous: Luma8, current: Luma8) -> FlowArray:
        # Without flags what stands in the output is not read.
        output = np.zeros((*previous.shape, 2), np.float32)
        calcOpticalFlowFarneback(previous, current, output, 0.5, 3, 15, 3, 5, 1.2, 0)
        return output

    return farneback


def flow_reduction(width: int) -> int:
    """The whole number that a picture is reduced by for its flow: 1 up to 960 wide, 2 up to 1920,
    and so on.
    """
    return -(-width // FLOW_MAX_WIDTH)


def flow_luma(luma: SampleArray, bit_depth: int, reduction: int) -> Luma8:
    """A new luma plane uint8 [H // reduction, W // reduction]: means over squares, rounded.

    What does not fill a square at the right and the bottom is left out, unless nothing else is
    there: a picture is never reduced to nothing. Wider samples lose their low bits, because 8 bits
    are what OpenCV's flow is defined for.
    """
    rows, columns = (max(1, size // reduction) for size in luma.shape)
    tall, wide = (min(size, reduction) for size in luma.shape)
    total = np.zeros((rows, columns), np.uint32)
    for i, j in np.ndindex(tall, wide):
        total += luma[i::tall, j::wide][:rows, :columns]
    unit = tall * wide << (bit_depth - 8)
    means: Luma8 = np.minimum((total + unit // 2) // unit, 255).astype(np.uint8)
    return means


def end_point_difference(reference: FlowArray, distorted: FlowArray) -> float:
    """Mean length of the difference of two flows [H, W, 2], in their own pixels.

        tOF = ||OF(I_{t-1}^Gen, I_t^Gen) - OF(I_{t-1}^GT, I_t^GT)||

    Section 4 (the equation has no number) of the discriminative-loss paper, which takes tOF from
    TecoGAN (Chu et al., 2020): the norm is a vector's length, averaged over the picture.
    """
    difference = np.subtract(distorted, reference, dtype=np.float64)
    return float(np.hypot(difference[..., 0], difference[..., 1]).mean())


def relative_pixel_flow(previous: ErrorPlane, current: ErrorPlane) -> tuple[float, float]:
    """(mu, sigma) of one step in time, from the errors of two consecutive frames, in code values.

    RAVE, section 4.3.4, with source x and version y, over all pixels (h, w):

        d_t = (y_{t+1} - y_t) - (x_{t+1} - x_t)
        mu_t = mean of d_t                              (10)
        sigma_t = standard deviation of d_t about mu_t  (11)

    With the error e_t = y_t - x_t, d_t = e_{t+1} - e_t: one plane a version is enough to go on.
    """
    difference = np.subtract(current, previous, dtype=np.float64).ravel()
    # Whole numbers: both sums are exact.
    mean = float(difference.sum()) / difference.size
    variance = float(difference @ difference) / difference.size - mean * mean
    return mean, math.sqrt(max(0.0, variance))


def ripple(series: Sequence[float]) -> float | None:
    """Mean size of the change from one value to the next; None of fewer than two values.

    RAVE, figures 8 and 13: "ripples in mu and sigma curves indicate temporal inconsistencies, the
    amplitude shows the extent of the artifacts". The paper draws them and has no number for them;
    this is ours.
    """
    changes = [abs(b - a) for a, b in pairwise(series)]
    return math.fsum(changes) / len(changes) if changes else None


@dataclass(frozen=True, slots=True)
class TemporalSteps:
    """One version's curves over time: value i is of the step from frame i to frame i + 1.

    ``rpf_mu`` (signed) and ``rpf_sigma`` in 8-bit luma code values, of every step; ``tof`` in
    pixels of the source per frame, of the steps ``tof_indices``. All empty where not defined.
    """

    rpf_mu: tuple[float, ...] = ()
    rpf_sigma: tuple[float, ...] = ()
    tof: tuple[float, ...] = ()
    tof_indices: tuple[int, ...] = ()


class TemporalScores:
    """tOF and RPF of one or several versions against one reference, frame by frame.

    RPF is cheap and of every pair of consecutive frames; tOF of at most ``max_pairs`` of them,
    evenly spread (see ``EvenSampling``). Between two frames it keeps one plane of errors a version
    and, where tOF is due, one small plane a picture: memory does not grow with the clip.

    RPF is of luma (the paper does not say of what) in 8-bit code values: 10-bit ones count a
    quarter. tOF is of luma too, reduced by ``flow_reduction``, its result in pixels of the source
    per frame. ``num_frames_hint`` is what the header claims; ``flow`` None: no tOF.
    """

    def __init__(
        self,
        format: VideoFormat,
        num_versions: int,
        *,
        flow: Flow | None,
        max_pairs: int,
        num_frames_hint: int | None,
    ) -> None:
        self._bit_depth = format.bit_depth
        self._reduction = flow_reduction(format.width)
        self._flow = flow
        # A hint of one frame says nothing about pairs: should more come, they are sampled.
        pairs = num_frames_hint - 1 if num_frames_hint and num_frames_hint > 1 else None
        self._sampling = EvenSampling(max_pairs, pairs)
        self._rpf: list[list[tuple[float, float]]] = [[] for _ in range(num_versions)]
        self._errors: list[ErrorPlane] = []
        self._small: list[Luma8] = []
        self._num_frames = 0

    def add(self, reference: SampleArray, distorted: Sequence[SampleArray]) -> None:
        """The next frame: luma planes [H, W] of the reference and of each version, in order."""
        errors = [np.subtract(plane, reference, dtype=np.int16) for plane in distorted]
        steps = zip(self._rpf, self._errors, errors, strict=False)  # nothing at the first frame
        for series, previous, current in steps:
            series.append(relative_pixel_flow(previous, current))
        self._errors = errors
        if self._flow is not None:
            self._add_flow(self._flow, [reference, *distorted])
        self._num_frames += 1

    def begin_run(self) -> None:
        """The next frame does not follow the last one: there is no step between them."""
        self._errors, self._small = [], []

    def _add_flow(self, flow: Flow, planes: Sequence[SampleArray]) -> None:
        """Finish the pair that ends here, if it is a chosen one, and begin the one that starts."""
        index = self._num_frames
        small: list[Luma8] = []
        if self._small:
            small = self._reduced(planes)
            reference, *others = map(flow, self._small, small)
            values = [self._reduction * end_point_difference(reference, f) for f in others]
            self._sampling.put(index - 1, values)
        # Asked after `put`, which may thin the sampling out.
        self._small = (small or self._reduced(planes)) if self._sampling.wants(index) else []

    def _reduced(self, planes: Sequence[SampleArray]) -> list[Luma8]:
        return [flow_luma(plane, self._bit_depth, self._reduction) for plane in planes]

    def of_version(self, version: int) -> dict[str, tuple[float, ...]]:
        """Values of each step in time by metric: tOF of the chosen ones, |mu| and sigma of all.

        |mu|, because the mean of mu itself over a clip tells only its two ends apart.
        """
        steps = self.steps_of_version(version)
        return {
            "tof": steps.tof,
            "rpf_mean": tuple(map(abs, steps.rpf_mu)),
            "rpf_deviation": steps.rpf_sigma,
        }

    def steps_of_version(self, version: int) -> TemporalSteps:
        """The same as curves, mu with its sign."""
        if self._num_frames < _MIN_FRAMES:
            return TemporalSteps()
        unit = 1 << (self._bit_depth - 8)
        series = self._rpf[version]
        return TemporalSteps(
            rpf_mu=tuple(mean / unit for mean, _ in series),
            rpf_sigma=tuple(deviation / unit for _, deviation in series),
            tof=self._sampling.of_version(version),
            tof_indices=self._sampling.indices,
        )

    def missing_reasons(self) -> dict[str, str]:
        """By metric, why there is no value, after the last frame."""
        if self._num_frames < _MIN_FRAMES:
            count = "one frame" if self._num_frames == 1 else "two frames"
            return dict.fromkeys(TEMPORAL_METRICS, f"not defined for a clip of {count}")
        if self._flow is None:
            return {"tof": 'needs OpenCV: pip install "codecaux[temporal]"'}
        if not self._sampling.indices:
            return {"tof": "no frames were chosen: fewer came than announced"}
        return {}
