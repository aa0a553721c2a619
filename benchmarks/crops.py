"""Crops of one frame, side by side: plain bicubic, enhanced, source. For docs/.

python benchmarks/crops.py SOURCE STREAM WEIGHTS --frame 30 --at 600,400 -o docs/crops.png
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from codecaux.colour import frame_to_rgb
from codecaux.decoder.load import open_enhancer
from codecaux.device import choose_device
from codecaux.frames import read_frames
from codecaux.probe import probe
from codecaux.video import Frame, VideoFormat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("stream", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--frame", type=int, default=0)
    parser.add_argument("--at", default="0,0", help="left,top of the crop in source pixels")
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--zoom", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()

    enhancer = open_enhancer(options.stream, options.weights, device=choose_device())
    pair = enhancer.enhance_one(read_frames(options.stream), options.frame)
    source = _frame(options.source, options.frame)
    pictures = [
        ("bicubic", _rgb(pair.base, enhancer.format)),
        ("enhanced", _rgb(pair.enhanced, enhancer.format)),
        ("source", _rgb(source, probe(options.source).format)),
    ]
    left, top = (int(v) for v in options.at.split(","))
    width, height = (int(v) for v in options.size.split("x"))
    box = (left, top, left + width, top + height)
    tiles = [(name, picture.crop(box)) for name, picture in pictures]
    _side_by_side(tiles, options.zoom).save(options.output, optimize=True)


def _frame(path: Path, index: int) -> Frame:
    return next(islice(read_frames(path), index, None))


def _rgb(frame: Frame, video_format: VideoFormat) -> Image.Image:
    rgb = frame_to_rgb(frame, video_format, torch.device("cpu"))[0]
    return Image.fromarray((rgb * 255).round().byte().permute(1, 2, 0).numpy())


def _side_by_side(tiles: list[tuple[str, Image.Image]], zoom: int) -> Image.Image:
    gap, band = 6, 18
    tiles = [
        (n, t.resize((t.width * zoom, t.height * zoom), Image.Resampling.NEAREST)) for n, t in tiles
    ]
    width, height = tiles[0][1].size
    sheet = Image.new("RGB", (len(tiles) * (width + gap) - gap, height + band), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, tile) in enumerate(tiles):
        sheet.paste(tile, (i * (width + gap), band))
        draw.text((i * (width + gap) + 2, 3), name, fill="black")
    return sheet


if __name__ == "__main__":
    main()
