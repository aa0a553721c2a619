"""All cached points of the rate-distortion benchmark -> curves, BD-rates and tables. No files.

Curves: ``x265`` is the Pareto front of x265 at the source size, ``x265-tuned`` that of x265 with
the options of our own streams; ``x265 over sizes`` the convex hull of the first and of x265-sizes;
``anchor``, ``base NET``, ``fit NET`` and ``fit NET OBJECTIVE`` (of all but the default one) the
convex hulls of those families over all their scales. Each is compared with the three of x265, and
these with x265.

Lengths: ``own`` takes the rates as they are. ``10 s`` and ``60 s`` are the rates had the same
scene lasted that long with the same weights: a statement about scenes, not about these files. What
a byte of weights is worth depends on the length, so these take fits that were priced for 10 s where
a clip has such, and ``own`` never does.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from rd_cache import Point
from rd_settings import BICUBIC_SUFFIX, RD_METRICS

from codecaux.encoder.settings import FitSettings
from codecaux.ladders.rd import BdRate, RdPoint, bd_rate, convex_hull, pareto
from codecaux.scores import LOWER_IS_BETTER

__all__ = [
    "BD_COLUMNS",
    "LENGTHS",
    "POINT_COLUMNS",
    "REFERENCES",
    "X265_SIZES",
    "bd_table",
    "clip_curves",
    "current_points",
    "fit_minus_base",
    "markdown",
    "mean_change",
    "nets",
    "of_default_objective",
    "of_net",
    "priced_for",
    "titles_table",
]

Row: TypeAlias = dict[str, Any]

LENGTHS: Mapping[str, str] = {
    "own": "total_kbps",
    "10 s": "total_kbps_if_10_s",
    "60 s": "total_kbps_if_60_s",
}
X265, X265_TUNED, X265_SIZES = "x265", "x265-tuned", "x265 over sizes"
REFERENCES = (X265, X265_TUNED, X265_SIZES)
MEAN = "mean"
DEFAULT_OBJECTIVE = FitSettings().objective
DEFAULT_NET = "light"
PRICED_SECONDS = 10.0

POINT_COLUMNS = (
    *("clip", "split", "family", "net", "scale", "crf", "coded", "frames", "seconds"),
    *("stream_bytes", "weights_bytes", "stream_kbps", "weights_kbps"),
    *LENGTHS.values(),
    *RD_METRICS,
    *("tof", "rpf_deviation"),
    *(name + BICUBIC_SUFFIX for name in (*RD_METRICS, "tof", "rpf_deviation")),
    *("lpips_frames", "upscaler", "base_id", "objective", "priced_for"),
    *("fit_minutes", "fit_is_resumed"),
    *("making_seconds", "settings_hash", "device", "ffmpeg", "torch", "codecaux"),
)
_TITLE_HEADS: Mapping[str, str] = {metric: metric for metric in (*RD_METRICS, "tof")}
BD_COLUMNS = (
    *("clip", "split", "curve", "reference", "length", "metric", "bd_rate_percent"),
    *("quality_low", "quality_high", "clips"),
)


def current_points(points: Iterable[Point]) -> list[Point]:
    """Without those that later points of other settings have replaced, in the tables' order.

    Of one clip, family, net, scale, price and objective only the settings of the newest point
    count: a curve is never made of two bases or two lengths of fit. The tuning alone may differ
    from point to point, because the encoder chooses it for each; the newest counts there too.
    """
    newest: dict[tuple[Any, ...], Point] = {}
    every = sorted(points, key=lambda point: float(point["made_at"]))
    for point in every:
        newest[_series(point)] = newest[*_series(point), point["crf"]] = point
    kept = [p for p in every if _made_with(p) == _made_with(newest[_series(p)])]
    kept = [p for p in kept if p is newest[*_series(p), p["crf"]]]
    return sorted(kept, key=lambda p: (*_series(p), p["crf"]))


def _made_with(point: Point) -> dict[str, Any]:
    return {name: value for name, value in point["settings"].items() if name != "tuning"}


def _series(point: Point) -> tuple[Any, ...]:
    keys = ("clip", "family", "net", "scale")
    return *(point[key] for key in keys), priced_for(point), objective(point)


def objective(point: Point) -> str:
    """A fit's; "" for what is no fit."""
    return str(point.get("settings", {}).get("fit", {}).get("objective", ""))


def priced_for(point: Point) -> float:
    """Seconds of the title that a fit weighed its bytes for; 0: the clip itself, or no fit."""
    return float(point.get("settings", {}).get("priced_for", 0.0))


def of_default_objective(points: Sequence[Point]) -> list[Point]:
    """Without the fits of other objectives."""
    return [p for p in points if objective(p) in ("", DEFAULT_OBJECTIVE)]


def nets(points: Sequence[Point]) -> list[str]:
    """Of bases and fits, the default one first."""
    found = {point["net"] for point in points if point["net"]}
    return sorted(found, key=lambda net: (net != DEFAULT_NET, net))


def of_net(points: Sequence[Point], net: str) -> list[Point]:
    """Without the bases and fits of other nets."""
    return [point for point in points if point["net"] in ("", net)]


def _of_length(points: Sequence[Point], length: str) -> list[Point]:
    """Without the fits that were priced for another length, where their curve has others."""
    wanted = 0.0 if length == "own" else PRICED_SECONDS
    fits = [p for p in points if p["family"] == "fit"]
    priced = {_curve_name(p) for p in fits if priced_for(p) == wanted}
    return [
        p
        for p in points
        if p["family"] != "fit" or priced_for(p) == (wanted if _curve_name(p) in priced else 0.0)
    ]


# ----------------------------------------------------------------------------------------- curves


def clip_curves(points: Sequence[Point], metric: str, length: str) -> dict[str, list[RdPoint]]:
    """Curve name -> its points, of one clip's points; quality is ``metric``, negated if need be."""
    families: dict[str, list[RdPoint]] = defaultdict(list)
    for point in _of_length(points, length):
        if point[metric] is not None:
            families[_curve_name(point)].append(_rd_point(point, metric, length))
    sizes = families.pop("x265-sizes", [])
    whole = (X265, X265_TUNED)
    ours = {name: family for name, family in families.items() if name not in whole}
    curves = {name: convex_hull(family, "rate") for name, family in ours.items()}
    if families[X265_TUNED]:
        curves[X265_TUNED] = pareto(families[X265_TUNED])
    if families[X265]:
        curves[X265] = pareto(families[X265])
        if sizes:
            curves[X265_SIZES] = convex_hull(families[X265] + sizes, "rate")
    return curves


def _curve_name(point: Point) -> str:
    own = objective(point) if objective(point) != DEFAULT_OBJECTIVE else ""
    return " ".join(filter(None, (point["family"], point["net"], own)))


def _rd_point(point: Point, metric: str, length: str) -> RdPoint:
    sign = -1 if metric in LOWER_IS_BETTER else 1
    label = f"{point['family']} {point['scale']}x CRF {point['crf']:g}"
    return RdPoint(point[LENGTHS[length]], sign * point[metric], label)


# --------------------------------------------------------------------------------------- BD-rates


def bd_table(points: Sequence[Point]) -> list[Row]:
    """One row for each clip, curve, reference, length and metric; then the means over clips.

    A curve without weights has the same rate at every length: it has rows for ``own`` only.
    """
    rows: list[Row] = []
    for clip, its in _by_clip(points).items():
        with_weights = {_curve_name(point) for point in its if point["weights_bytes"]}
        for length in LENGTHS:
            for metric in RD_METRICS:
                curves = clip_curves(its, metric, length)
                for name in curves:
                    if length != "own" and name not in with_weights:
                        continue
                    key = {"clip": clip, "split": its[0]["split"], "curve": name}
                    rows += _compared(key, curves, metric, length)
    return rows + _means(rows)


def _compared(
    key: Row, curves: Mapping[str, list[RdPoint]], metric: str, length: str
) -> Iterable[Row]:
    of_x265 = key["curve"] in REFERENCES
    for reference in REFERENCES[: 1 if of_x265 else None]:
        if reference in curves and key["curve"] != X265:
            found = bd_rate(curves[reference], curves[key["curve"]])
            about = {"reference": reference, "length": length, "metric": metric}
            yield key | about | _bd_values(found, metric) | {"clips": int(found is not None)}


def _bd_values(found: BdRate | None, metric: str) -> Row:
    if found is None:
        return {"bd_rate_percent": None, "quality_low": None, "quality_high": None}
    sign = -1 if metric in LOWER_IS_BETTER else 1
    low, high = sorted((sign * found.low, sign * found.high))
    return {"bd_rate_percent": found.percent, "quality_low": low, "quality_high": high}


def _means(rows: Sequence[Row]) -> list[Row]:
    """Over the clips of a split whose curves overlap; ``clips`` says how many those are."""
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    keys = ("split", "curve", "reference", "length", "metric")
    for row in rows:
        values = groups[tuple(row[key] for key in keys)]
        if row["bd_rate_percent"] is not None:
            values.append(row["bd_rate_percent"])
    return [
        {
            "clip": MEAN,
            **dict(zip(keys, group, strict=True)),
            "bd_rate_percent": statistics.fmean(values) if values else None,
            "quality_low": None,
            "quality_high": None,
            "clips": len(values),
        }
        for group, values in groups.items()
    ]


def _by_clip(points: Sequence[Point]) -> dict[str, list[Point]]:
    clips: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        clips[point["clip"]].append(point)
    return clips


# ----------------------------------------------------------------------------------- fit and base


@dataclass(frozen=True, slots=True)
class _Gain:
    """What fitting gains over the base it started from, at equal stream."""

    clip: str
    split: str
    net: str
    scale: str
    crf: float
    objective: str
    priced_for: float
    vmaf_v1_gain: float | None
    lpips_gain_percent: float | None
    fit_minutes: float
    fit_is_resumed: bool
    weights_bytes: int
    is_same_stream: bool


def fit_minus_base(points: Sequence[Point]) -> list[Row]:
    """One row for each fit that has its base's point; LPIPS below 0 is better.

    ``is_same_stream``: both were shown from streams of the same number of bytes, as they must be.
    """
    bases = {_operating_point(p): p for p in points if p["family"] == "base"}
    rows = []
    for fit in points:
        base = bases.get(_operating_point(fit)) if fit["family"] == "fit" else None
        if base is None:
            continue
        gain = _Gain(
            **{key: fit[key] for key in ("clip", "split", "net", "scale", "crf")},
            objective=objective(fit) or DEFAULT_OBJECTIVE,
            priced_for=priced_for(fit),
            vmaf_v1_gain=_difference(fit["vmaf_v1"], base["vmaf_v1"]),
            lpips_gain_percent=_per_cent(fit["lpips"], base["lpips"]),
            **{key: fit[key] for key in ("fit_minutes", "fit_is_resumed", "weights_bytes")},
            is_same_stream=fit["stream_bytes"] == base["stream_bytes"],
        )
        rows.append(asdict(gain))
    return rows


def _operating_point(point: Point) -> tuple[Any, ...]:
    return point["clip"], point["net"], point["scale"], point["crf"]


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _per_cent(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None or b == 0 else 100 * (a / b - 1)


# --------------------------------------------------------------------------------------- markdown


def markdown(bd_rows: Sequence[Row], gains: Sequence[Row]) -> str:
    """BD-rates in per cent, a row for each clip, curve, reference and length; then the gains."""
    groups: dict[tuple[str, ...], dict[str, Row]] = defaultdict(dict)
    keys = ("curve", "reference", "length", "clip", "split")
    for row in bd_rows:
        groups[tuple(row[key] for key in keys)][row["metric"]] = row
    lines = ["BD-rate in per cent, below 0 is less rate at equal quality; - where curves do not"]
    lines += ["overlap; of a mean, the number of clips in brackets where not all count.", ""]
    lines += _table_head([*keys, *RD_METRICS])
    for group, metrics in sorted(groups.items(), key=lambda item: _order(item[0])):
        whole = max(row["clips"] for row in metrics.values())
        cells = [_bd_cell(metrics.get(metric), whole) for metric in RD_METRICS]
        lines.append("| " + " | ".join([*group, *cells]) + " |")
    if not gains:
        return "\n".join(lines)
    lines += ["", "What fitting gains over its base, at the same stream:", ""]
    heads = ["clip", "net", "scale", "CRF", "objective", "priced for", "VMAF v1", "LPIPS", "fit"]
    lines += _table_head([*heads, "weights"])
    return "\n".join(lines + [_gain_line(row) for row in gains])


def _order(group: tuple[str, ...]) -> tuple[Any, ...]:
    curve, reference, length, clip, split = group
    at = REFERENCES.index(reference), list(LENGTHS).index(length)
    return curve, *at, split, clip == MEAN, clip


def _table_head(names: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]


def _bd_cell(row: Row | None, whole: int) -> str:
    if row is None or row["bd_rate_percent"] is None:
        return "-"
    count = f" ({row['clips']})" if row["clip"] == MEAN and row["clips"] < whole else ""
    return f"{row['bd_rate_percent']:+.1f}{count}"


def _gain_line(row: Row) -> str:
    v1, lpips = row["vmaf_v1_gain"], row["lpips_gain_percent"]
    cells = [row["clip"], row["net"], row["scale"], f"{row['crf']:g}", row["objective"]]
    cells += [f"{row['priced_for']:g} s" if row["priced_for"] else "itself"]
    cells += ["-" if v1 is None else f"{v1:+.2f}", "-" if lpips is None else f"{lpips:+.1f} %"]
    least = "at least " if row["fit_is_resumed"] else ""
    cells += [f"{least}{row['fit_minutes']:.1f} min", f"{row['weights_bytes'] / 1000:.1f} kB"]
    return "| " + " | ".join(cells) + " |"


def titles_table(
    points: Sequence[Point], scale: str, crf: float, heads: Mapping[str, str] = _TITLE_HEADS
) -> str:
    """Fits of the default objective at one scale and CRF, as they are: bicubic -> enhanced, and the
    mean gains. ``points`` are of one net; ``heads``: metric -> what its column is called.
    """
    fits = [p for p in points if p["family"] == "fit" and (p["scale"], p["crf"]) == (scale, crf)]
    fits = [p for p in fits if not priced_for(p) and p.get("psnr_y_db_bicubic")]
    fits = of_default_objective(fits)
    lines = _table_head(["title", "stream", "weights", *heads.values()])
    for fit in fits:
        cells = [
            fit["clip"],
            f"{fit['stream_kbps']:,.0f} kb/s",
            f"{fit['weights_bytes'] / 1e3:.1f} kB",
        ]
        lines.append("| " + " | ".join(cells + [_change(fit, metric) for metric in heads]) + " |")
    means = [f"**{mean_change(fits, metric)}**" for metric in heads]
    return "\n".join([*lines, "| **mean gain** | | | " + " | ".join(means) + " |"])


def _digits(metric: str) -> int:
    return 3 if metric in ("lpips", "ssim", "tof") else 1


def _change(fit: Point, metric: str) -> str:
    pair = fit.get(metric + BICUBIC_SUFFIX), fit.get(metric)
    return " → ".join("-" if v is None else f"{v:.{_digits(metric)}f}" for v in pair)


def mean_change(fits: Sequence[Point], metric: str) -> str:
    """Of what is shown over bicubic; "-" where no fit has both."""
    pairs = [(fit.get(metric), fit.get(metric + BICUBIC_SUFFIX)) for fit in fits]
    found = [a - b for a, b in pairs if a is not None and b is not None]
    return f"{statistics.fmean(found):+.{_digits(metric)}f}" if found else "-"
