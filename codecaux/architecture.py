"""The SR-UNet's shape, without torch: layers, tensors, parameter counts, multiply-adds.

Everything that must know a tensor's name and shape without running the network (the weights
reader above all, which never trusts a file's shapes) takes it from here.

The network is Vaccaro et al., "Fast Video Visual Quality and Resolution Improvement using
SR-UNet", ACM MM 2021, section 3.1 and figure 2::

    x [3, h, w] ── down1 ──────────────────────────── cat ─ up1 ─ last 1x1 ─ shuffle 2 ─ residual
                     └ pool ─ down2 ────────── cat ─ up2 ─┘
                               └ pool ─ down3 ─ cat ─ up3 ─┘
                                         └ pool ─ down4 ─┘        (each step up: bilinear x2)

Each stage is a row of blocks ``ReLU(W3x3 * x + b [+ W1x1 * x + b1 + x where Cin == Cout])``.
A network of two heads has a second last layer beside the first, "perceptual"
(:mod:`codecaux.fusion`).

A recurrent net is the same with a state, as Fuoli et al., "An Efficient Recurrent Adversarial
Framework for Unsupervised Real-Time Video Enhancement" (RAVE), section 3.2: see
:mod:`codecaux.recurrent`. All tensors of the single-frame net keep their names and shapes.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

from codecaux.container import parse_json
from codecaux.errors import UsageError, WeightsFormatError
from codecaux.video import SCALES

__all__ = [
    "FEEDBACK_CHANNELS",
    "NETS",
    "STAGES",
    "Block",
    "GlobalModule",
    "SrUnetConfig",
    "blocks",
    "coded_shapes",
    "config_from_json",
    "config_to_json",
    "gain_name",
    "global_modules",
    "head_names",
    "macs_per_coded_pixel",
    "merged_parameter_count",
    "net_config",
    "parameter_shapes",
    "training_parameter_count",
]

STAGES = ("down1", "down2", "down3", "down4", "up3", "up2", "up1")
# Area of each stage's feature maps, as a divisor of the network's input pixels.
_STAGE_AREA_DIVISOR = (1, 4, 16, 64, 16, 4, 1)
# Caps for configurations that come out of a file.
_MAX_WIDTH, _MAX_BLOCKS = 128, 8
_MAX_NAME_CHARS = 64
_PLAIN_KIND, _RECURRENT_KIND = "sr-unet", "sr-unet-recurrent"
# The picture that was shown last, 4:2:0: four phases of luma, and the chroma.
FEEDBACK_CHANNELS = 6
# RAVE's k_g: 8 at full resolution, as much less as the map is smaller (section 3.2.1).
_GLOBAL_WINDOWS = {"up3": 2, "up2": 4, "up1": 8}


@dataclass(frozen=True, slots=True)
class SrUnetConfig:
    """Widths of the four levels, blocks of the seven stages, the scale factor, and the last layers:
    one, or two whose pictures are fused.

    For scale 1 the input is folded by pixel-unshuffle 2 (3 -> 12 channels, half the size), so that
    a same-size enhancement costs what a x2 one to the same output size costs.

    ``hidden`` channels of state from one frame to the next, ``global_filters`` (RAVE's F') in each
    local/global module: both 0 for a net that sees one frame, both above 0 for a recurrent one.
    """

    name: str
    widths: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int, int, int, int]
    scale: Fraction = Fraction(2)
    heads: int = 1
    hidden: int = 0
    global_filters: int = 0

    def __post_init__(self) -> None:
        assert self.heads == 1 or not self.hidden, "expected one head of a recurrent net"

    @property
    def is_recurrent(self) -> bool:
        """Does it carry a state from one frame to the next?"""
        return self.hidden > 0

    @property
    def single_frame(self) -> SrUnetConfig:
        """The net that it becomes without its state, under the name that has in NETS."""
        plain = replace(self, hidden=0, global_filters=0)
        shape = (plain.widths, plain.blocks)
        names = (n for n, c in NETS.items() if not c.is_recurrent and (c.widths, c.blocks) == shape)
        return replace(plain, name=next(names, plain.name))

    @property
    def fold(self) -> int:
        """Pixel-unshuffle factor at the input: 2 for scale 1, else 1."""
        return 2 if self.scale == 1 else 1

    @property
    def in_channels(self) -> int:
        """Channels that the first convolution sees: RGB, folded for scale 1."""
        return 3 * self.fold**2

    @property
    def out_channels(self) -> int:
        """Channels of each head before pixel-shuffle 2."""
        return 12

    @property
    def alignment(self) -> int:
        """The coded picture is padded to a multiple of this: three poolings, and the fold."""
        return 8 * self.fold

    def padded(self, size: int) -> int:
        """``size``, of the coded picture, with the network's padding."""
        return self.alignment * math.ceil(size / self.alignment)


NETS: dict[str, SrUnetConfig] = {
    "full": SrUnetConfig("full", (32, 64, 64, 64), (2, 3, 3, 3, 3, 3, 3)),
    "light": SrUnetConfig("light", (24, 48, 48, 48), (1, 2, 2, 2, 2, 2, 2)),
    # Ours: the light net at half its widths, a quarter of its cost.
    "tiny": SrUnetConfig("tiny", (12, 24, 24, 24), (1, 2, 2, 2, 2, 2, 2)),
    # Light and tiny with a state: 1.07 and 1.09 times their multiply-adds.
    "recurrent": SrUnetConfig(
        "recurrent", (24, 48, 48, 48), (1, 2, 2, 2, 2, 2, 2), hidden=8, global_filters=8
    ),
    "recurrent-tiny": SrUnetConfig(
        "recurrent-tiny", (12, 24, 24, 24), (1, 2, 2, 2, 2, 2, 2), hidden=4, global_filters=4
    ),
}


def net_config(name: str, scale: Fraction) -> SrUnetConfig:
    """The net called ``name`` at ``scale``; UsageError names the known ones."""
    if name not in NETS:
        raise UsageError(f"expected a net of {', '.join(NETS)}, got {name!r}")
    if scale not in SCALES:
        raise UsageError(f"expected a scale of {', '.join(map(str, SCALES))}, got {scale}")
    return replace(NETS[name], scale=scale)


@dataclass(frozen=True, slots=True)
class Block:
    """One 3x3 block. ``has_branch``: Cin == Cout, so it carries the 1x1 and the identity."""

    name: str
    stage: str
    in_channels: int
    out_channels: int

    @property
    def has_branch(self) -> bool:
        """Has it the 1x1 and the identity beside its 3x3?"""
        return self.in_channels == self.out_channels


def blocks(config: SrUnetConfig) -> tuple[Block, ...]:
    """Every 3x3 block in the order in which the network runs them."""
    w1, w2, w3, w4 = config.widths
    inputs = (config.in_channels, w1, w2, w3, w4 + w3, w3 + w2, w2 + w1)
    outputs = (w1, w2, w3, w4, w3, w2, w1)
    result: list[Block] = []
    for stage, cin, cout, count in zip(STAGES, inputs, outputs, config.blocks, strict=True):
        result += [
            Block(f"{stage}.{index}", stage, cin if index == 0 else cout, cout)
            for index in range(count)
        ]
    return tuple(result)


@dataclass(frozen=True, slots=True)
class GlobalModule:
    """RAVE's local/global module (figure 2) around the last block of a stage on the way up.

    ``block``: the local branch; its input f goes through the global one too, a convolution of
    ``window`` x ``window`` with that stride from ``in_channels``. ``consumer`` is the layer
    downstream, of ``out_channels``, that sees the pooled features beside the local ones.
    """

    stage: str
    block: str
    in_channels: int
    window: int
    consumer: str
    out_channels: int


def global_modules(config: SrUnetConfig) -> tuple[GlobalModule, ...]:
    """The local/global modules of a recurrent net, one a stage on the way up; else none."""
    if not config.is_recurrent:
        return ()
    w1, w2, _, _ = config.widths
    last = {block.stage: block for block in blocks(config)}
    consumers = {"up3": ("up2.0", w2), "up2": ("up1.0", w1), "up1": ("last", config.out_channels)}
    return tuple(
        GlobalModule(stage, last[stage].name, last[stage].in_channels, window, *consumers[stage])
        for stage, window in _GLOBAL_WINDOWS.items()
    )


def parameter_shapes(config: SrUnetConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the merged form, in natural order.

    The identity branch is implicit: it is added at load, never stored.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for block in blocks(config):
        shapes[f"{block.name}.weight"] = (block.out_channels, block.in_channels, 3, 3)
        shapes[f"{block.name}.bias"] = (block.out_channels,)
    for head in head_names(config):
        shapes[f"{head}.weight"] = (config.out_channels, config.widths[0], 1, 1)
        shapes[f"{head}.bias"] = (config.out_channels,)
    return shapes | _state_shapes(config)


def _state_shapes(config: SrUnetConfig) -> dict[str, tuple[int, ...]]:
    """What a recurrent net has beyond the single-frame one."""
    if not config.is_recurrent:
        return {}
    first, hidden, count = config.widths[0], config.hidden, config.global_filters
    shapes: dict[str, tuple[int, ...]] = {
        "state.weight": (first, FEEDBACK_CHANNELS + hidden, 3, 3),
        "hidden.weight": (hidden, first, 1, 1),
        "hidden.bias": (hidden,),
    }
    for m in global_modules(config):
        shapes[f"{m.stage}.global.weight"] = (count, m.in_channels, m.window, m.window)
        shapes[f"{m.stage}.global.bias"] = (count,)
        shapes[f"{m.stage}.prior.weight"] = (m.out_channels, count, 1, 1)
    return shapes


def head_names(config: SrUnetConfig) -> tuple[str, ...]:
    """The last layers: of two, the first is for fidelity."""
    return ("last", "perceptual")[: config.heads]


def coded_shapes(config: SrUnetConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a weights file may hold: those of the network, then the
    gains, one for each output channel of each kernel.
    """
    shapes = parameter_shapes(config)
    gains = {gain_name(n): s[:1] for n, s in shapes.items() if n.endswith(".weight")}
    return shapes | gains


def gain_name(kernel: str) -> str:
    """The name of the gains of a kernel: "down1.0.gain" for "down1.0.weight"."""
    return kernel.removesuffix("weight") + "gain"


def merged_parameter_count(config: SrUnetConfig) -> int:
    """Parameters of the merged form: 665,932 for full and 260,700 for light at scale 2."""
    return sum(_product(shape) for shape in parameter_shapes(config).values())


def training_parameter_count(config: SrUnetConfig, *, as_authors_count: bool = False) -> int:
    """Parameters of the training form (3x3 and, where Cin == Cout, 1x1, each with a bias).

    The authors' implementation also holds layers that never run: a 1x1 adapter in blocks with
    Cin != Cout and a 1x1 "to_rgb". ``as_authors_count`` includes them: 740,975 for full and
    290,199 for light at scale 2. Ours does not create them.
    """
    count = merged_parameter_count(config)
    for block in blocks(config):
        if block.has_branch or as_authors_count:
            count += block.in_channels * block.out_channels + block.out_channels
    if as_authors_count:
        count += 3 * config.widths[0] + 3
    return count


def macs_per_coded_pixel(config: SrUnetConfig) -> float:
    """Multiply-adds of the convolutions for one pixel of the coded picture (134,304 for full)."""
    areas = dict(zip(STAGES, _STAGE_AREA_DIVISOR, strict=True))
    macs = sum(9 * b.in_channels * b.out_channels / areas[b.stage] for b in blocks(config))
    macs += config.heads * config.out_channels * config.widths[0]
    if config.is_recurrent:
        # 3x3 of the state and 1x1 to the next one; window and stride are equal, so each pixel of
        # a map is multiplied once by each global filter; priors are one a picture.
        macs += config.widths[0] * (9 * (FEEDBACK_CHANNELS + config.hidden) + config.hidden)
        modules = global_modules(config)
        macs += sum(m.in_channels * config.global_filters / areas[m.stage] for m in modules)
    return float(macs) / config.fold**2


def config_to_json(config: SrUnetConfig) -> str:
    """The configuration as it stands in a weights file's metadata; one head goes without saying."""
    values = asdict(config) | {"scale": str(config.scale)}
    if not config.is_recurrent:
        del values["hidden"], values["global_filters"]
    if config.heads == 1:
        del values["heads"]
    kind = _RECURRENT_KIND if config.is_recurrent else _PLAIN_KIND
    return json.dumps({"kind": kind, **values}, sort_keys=True)


def config_from_json(text: str) -> SrUnetConfig:
    """Parse and check :func:`config_to_json`'s output; WeightsFormatError on anything else."""
    values: dict[str, Any] = parse_json(text, "the architecture record")
    try:
        kind = values["kind"]
        if kind not in (_PLAIN_KIND, _RECURRENT_KIND):
            raise WeightsFormatError(
                f"expected architecture {_PLAIN_KIND} or {_RECURRENT_KIND}, got {kind!r}"
            )
        state = [values["hidden"], values["global_filters"]] if kind == _RECURRENT_KIND else None
        hidden, count = (0, 0) if state is None else _int_tuple(state, 2, _MAX_WIDTH)
        heads = _heads(values.get("heads", 1), 2 if kind == _PLAIN_KIND else 1)
        config = SrUnetConfig(
            name=values["name"],
            widths=_int_tuple(values["widths"], 4, _MAX_WIDTH),  # type: ignore[arg-type]
            blocks=_int_tuple(values["blocks"], 7, _MAX_BLOCKS),  # type: ignore[arg-type]
            scale=_scale_from_text(values["scale"]),
            heads=heads,
            hidden=hidden,
            global_filters=count,
        )
        if len(config.name) > _MAX_NAME_CHARS:
            raise ValueError(f"expected a name of at most {_MAX_NAME_CHARS} characters")
        # Names that are not known, and what goes without saying said, are refused too.
        if values != json.loads(config_to_json(config)) or not isinstance(config.name, str):
            raise ValueError("expected no names but those of the format")
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsFormatError(f"the architecture record is damaged: {error}") from error
    return config


def _scale_from_text(text: object) -> Fraction:
    for scale in SCALES:
        if text == str(scale):
            return scale
    raise ValueError(f"scale {str(text)[:32]!r} is not one of {', '.join(map(str, SCALES))}")


def _heads(value: object, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"expected 1 to {most} heads")
    return value


def _int_tuple(values: object, length: int, largest: int) -> tuple[int, ...]:
    if not isinstance(values, list) or len(values) != length:
        raise ValueError(f"expected {length} integers")
    for value in values:
        if type(value) is not int or not 1 <= value <= largest:
            raise ValueError(f"expected integers of 1 to {largest}")
    return tuple(values)


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result
