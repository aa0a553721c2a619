"""A ladder's report: one HTML file that needs nothing else, no network, no script. Pure.

Everything that comes from outside (names above all) is escaped; pictures and charts are inline.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from codecaux.ladders.charts import Chart, Series, chart_svg
from codecaux.ladders.picture import METRIC_NAMES
from codecaux.ladders.thumbnails import Thumbnails

__all__ = ["report_html"]

_OURS, _PLAIN, _X265, _CHOSEN, _APPLE = "#c51b7d", "#8fb8d8", "#333333", "#e66101", "#1b7837"
_MARKS = {2.0: "triangle", 1.5: "square", 1.0: "circle"}
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1200px; margin: 2em auto;
  padding: 0 1.2em; }
h1 { font-size: 1.5em; margin-bottom: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15em; margin: 2em 0 .5em; border-bottom: 1px solid #ddd; }
p { max-width: 75ch; margin: .5em 0; } p.facts, figcaption, .note { color: #555; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #eee; }
th { font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
td { white-space: nowrap; }
.tiles { display: flex; flex-wrap: wrap; gap: .8em; margin: 1.2em 0; }
.tiles div { border: 1px solid #ddd; border-radius: 8px; padding: .6em 1em; min-width: 10em; }
.tiles b { display: block; font-size: 1.5em; font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(430px, 1fr)); gap: 1em; }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: #333; }
svg .title { font-weight: 600; font-size: 13px; }
.grid { stroke: #e6e6e6; fill: none; } .axis { stroke: #888; fill: none; }
.thumbs { display: flex; flex-wrap: wrap; gap: .6em; } figure { margin: 0; }
figure img { display: block; max-width: 100%; image-rendering: pixelated; }
"""


def report_html(fields: Mapping[str, Any], thumbnails: Thumbnails | None = None) -> str:
    """The page. ``fields``: of :func:`codecaux.ladders.ladder_fields.ladder_fields`."""
    title = fields["title"]
    name = escape(title["name"])
    body = [
        f"<h1>{name}</h1>",
        f'<p class="facts">{_facts(fields)}</p>',
        _tiles(fields),
        _section("Rungs", _rungs(fields)),
        _section("Curves and hulls", _charts(fields)),
        _section("Against x265 at equal quality", _versus_x265(fields)),
        _section("Against Apple's fixed HEVC ladder", _versus_apple(fields)),
    ]
    if thumbnails is not None:
        body.append(_section("One frame", _pictures(thumbnails)))
    body.append(_section("Time and bytes spent", _spent(fields)))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Ladder of {name}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>{content}</section>"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are text: escaped here and nowhere else."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _number(value: float | None, spec: str = ",.0f", unit: str = "") -> str:
    return "–" if value is None else format(value, spec) + unit


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:,.2f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:,.1f} kB"


def _seconds(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _metric(fields: Mapping[str, Any]) -> str:
    return METRIC_NAMES[fields["metric"]]


# ---------------------------------------------------------------------------------------- summary


def _facts(fields: Mapping[str, Any]) -> str:
    title = fields["title"]
    words = [
        f"{title['width']}x{title['height']}, {title['fps']:.4g} fps",
        f"{title['duration_seconds']:.1f} s",
        f"net {fields['net']} on {fields['device']}",
        f"segments of {fields['segment_seconds']:g} s",
        f"codecaux {fields['codecaux_version']}",
    ]
    if title["sample_seconds"] < 0.999 * title["duration_seconds"]:
        words.insert(2, f"probed on samples of {title['sample_seconds']:.1f} s in all")
    return escape(" · ".join(words))


def _tiles(fields: Mapping[str, Any]) -> str:
    storage, top = fields["storage"], fields["apple"]["equal_top"]
    tiles = [
        (str(len(fields["rungs"])), "rungs"),
        (_size(storage["total_bytes"]), f"in all, {_size(storage['weights_bytes'])} of it weights"),
        (_number(storage["saved_percent"], ".1f", " %"), "less than x265's hull, equal quality"),
    ]
    if top is not None:
        saved = _number(top["saved_percent"], ".1f", " %")
        tiles.append((saved, "less than Apple's ladder, equal top quality"))
    cells = "".join(f"<div><b>{escape(a)}</b>{escape(b)}</div>" for a, b in tiles)
    return f'<div class="tiles">{cells}</div>'


def _rungs(fields: Mapping[str, Any]) -> str:
    metric = fields["metric"]
    headings = ["rung", "coded", "CRF", "stream kb/s", "weights", "total kb/s", "BANDWIDTH kb/s"]
    headings += [f"{_metric(fields)} plain", "with weights", "LPIPS", "probe − final"]
    folders = {rung["name"]: rung["folder"] for rung in fields["rungs"]}
    rows = []
    for rung in fields["rungs"]:
        shown, plain = rung["scores"]["enhanced"], rung["scores"]["bicubic"]
        weights = f"{rung['weights_bytes']:,} B"
        if rung["weights_of"] != rung["name"]:
            weights += f" ({folders[rung['weights_of']]}'s)"
        rows.append(
            [
                f"{rung['folder']}: {rung['name']}",
                f"{rung['coded_width']}x{rung['coded_height']}",
                f"{rung['crf']:g}",
                _number(rung["stream_kbps"]),
                weights,
                _number(rung["total_kbps"]),
                _number(rung["peak_bits_per_second"] / 1000),
                _number(plain[metric], ".2f"),
                _number(shown[metric], ".2f"),
                _number(shown["lpips"], ".4f"),
                _number(rung["probe_error"].get(metric), "+.2f"),
            ]
        )
    others = [
        f"{entry['folder']}: {entry['codecs']}, {entry['average_bits_per_second'] / 1000:,.0f} kb/s"
        for entry in fields["others"]
    ]
    note = f'<p class="note">Beside them: {escape("; ".join(others))}.</p>' if others else ""
    return _table(headings, rows) + note


# ------------------------------------------------------------------------------------------ charts


def _charts(fields: Mapping[str, Any]) -> str:
    charts = [_chart(fields, fields["metric"])]
    if all(point["scores"]["enhanced"]["lpips"] is not None for point in fields["points"]):
        charts.append(_chart(fields, "lpips"))
    return '<div class="charts">' + "".join(f"<div>{chart}</div>" for chart in charts) + "</div>"


def _chart(fields: Mapping[str, Any], metric: str) -> str:
    points = fields["points"]
    ours = [point for point in points if point["family"] == "ours"]
    x265 = [point for point in points if point["family"] == "x265"]
    series = []
    if metric == fields["metric"]:
        plain = [(point["kbps"], point["quality"]) for point in fields["plain_hull"]]
        series.append(Series("H.265 without weights, hull", plain, _X265, line=True, dashed=True))
        hull = sorted((p for p in ours if p["is_on_hull"]), key=lambda p: float(p["total_kbps"]))
        series.append(Series("ours, hull", _places(hull, metric), _OURS, line=True))
    label = "x265 at the source's size"
    series.append(Series(label, _places(x265, metric), _X265, "circle", titles=_titles(x265)))
    for scale, mark in _MARKS.items():
        group = [point for point in ours if point["scale"] == scale]
        places = _places(group, metric, plain=True)
        series.append(Series(f"scale {scale:g}, plain", places, _PLAIN, mark))
        named = f"scale {scale:g}, with weights"
        series.append(Series(named, _places(group, metric), _OURS, mark, titles=_titles(group)))
    rungs = fields["rungs"]
    names = [rung["name"] for rung in rungs]
    series.append(Series("rungs", _places(rungs, metric), _CHOSEN, "ring", titles=names))
    if metric == fields["metric"]:
        known = [rung for rung in fields["apple"]["rungs"] if rung["quality"] is not None]
        apple = [(rung["kbps"], rung["quality"]) for rung in known]
        series.append(Series("Apple's rates, x265 at its best", apple, _APPLE, "cross"))
    name = METRIC_NAMES[metric] + (" (lower is better: axis turned)" if metric == "lpips" else "")
    return chart_svg(Chart(name, series, turned=metric == "lpips"))


def _places(
    points: Sequence[Mapping[str, Any]], metric: str, *, plain: bool = False
) -> list[tuple[float, float]]:
    rate, version = ("stream_kbps", "bicubic") if plain else ("total_kbps", "enhanced")
    found = [(point[rate], point["scores"][version][metric]) for point in points]
    return [(kbps, score) for kbps, score in found if score is not None]


def _titles(points: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"CRF {p['crf']:g}, scale {p['scale']:.3g}: {p['total_kbps']:,.0f} kb/s" for p in points
    ]


# ------------------------------------------------------------------------------------- comparisons


def _versus_x265(fields: Mapping[str, Any]) -> str:
    rows = [
        [
            rung["folder"],
            _number(rung["scores"]["enhanced"][fields["metric"]], ".2f"),
            _number(rung["total_kbps"]),
            _number(rung["x265_kbps"]),
            _number(rung["saved_percent"], "+.1f", " %"),
        ]
        for rung in fields["rungs"]
    ]
    storage = fields["storage"]
    if storage["num_compared"]:
        sums = [storage["compared_bytes"], storage["x265_bytes"], storage["saved_percent"]]
        cells = [_size(sums[0]), _size(sums[1]), _number(sums[2], "+.1f", " %")]
        rows.append([f"storage of {storage['num_compared']}", "", *cells])
    text = (
        "x265 at its best: the hull over the source's size and over our own streams shown plain, "
        "without weights, each at the rate where it is as good as the rung. A dash: that hull does "
        "not go there. In the sum, shared weights count once."
    )
    headings = ["rung", _metric(fields), "ours kb/s", "x265 kb/s", "saved"]
    return f'<p class="note">{escape(text)}</p>' + _table(headings, rows)


def _versus_apple(fields: Mapping[str, Any]) -> str:
    apple = fields["apple"]
    if not apple["rungs"]:
        return "<p>The source is smaller than the smallest rung of that ladder.</p>"
    rows = []
    for rung in apple["rungs"]:
        quality = _number(rung["quality"], ".2f")
        ours = rung["ours_kbps"]
        saved = None if ours is None else 100 * (1 - ours / rung["kbps"])
        rows.append(
            [
                f"{rung['height']}p",
                _number(rung["kbps"]),
                f"at least {quality}" if rung["is_least"] else quality,
                _number(ours),
                _number(saved, "+.1f", " %"),
            ]
        )
    text = (
        "Average rates of the HLS Authoring Specification for HEVC (SDR, 30 fps), heights up to "
        "the source's. Each is taken to be as good as x265's hull at its rate; ours is our hull's "
        "rate at that quality. A rate above the hull's best point is no worse than that."
    )
    headings = ["rung", "kb/s", _metric(fields), "ours at that quality, kb/s", "saved"]
    result = f'<p class="note">{escape(text)}</p>' + _table(headings, rows)
    top = apple["equal_top"]
    if top is None:
        return result + "<p>Our hull does not reach the quality of its top rung.</p>"
    sums = f"{_size(top['ours_bytes'])} against {_size(top['apple_bytes'])}"
    saved = _number(top["saved_percent"], ".1f", " %")
    line = (
        f"Both ladders whole, up to {_metric(fields)} {top['quality']:.2f}: {sums}, {saved} saved."
    )
    return result + f"<p>{escape(line)}</p>"


# ---------------------------------------------------------------------------------- pictures, costs


def _pictures(thumbnails: Thumbnails) -> str:
    figures = []
    for name, data in thumbnails.pictures.items():
        source = "data:image/png;base64," + base64.b64encode(data).decode()
        figures.append(
            f'<figure><img src="{source}" alt="{escape(name)}" width="{thumbnails.width}" '
            f'height="{thumbnails.height}"><figcaption>{escape(name)}</figcaption></figure>'
        )
    where = f"frame {thumbnails.frame} of {thumbnails.rung}, at {thumbnails.left},{thumbnails.top}"
    text = f"{where}, pixel for pixel, where the weights gain most."
    return f'<p class="note">{escape(text)}</p><div class="thumbs">{"".join(figures)}</div>'


def _spent(fields: Mapping[str, Any]) -> str:
    rows = [[part, _seconds(spent)] for part, spent in fields["seconds"].items()]
    made = f"{fields['num_probes']} probes, {fields['num_cached']} of them cached before"
    rows.append(
        [f"{made}: all of them, whenever they were made", _seconds(fields["probes_seconds"])]
    )
    storage = fields["storage"]
    rows += [
        ["coded pictures", _size(storage["stream_bytes"])],
        ["weights, shared ones once", _size(storage["weights_bytes"])],
        ["the folder: segments, sound, fallback and weights", _size(fields["folder_bytes"])],
    ]
    notes = [f"{failure['label']} failed: {failure['message']}" for failure in fields["failures"]]
    failed = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    return _table(["what", "spent"], rows) + failed
