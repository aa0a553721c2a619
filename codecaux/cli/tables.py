"""Tables on stdout: what was gained, scores, facts. Right at 80 and at 120 columns.

A grid that is too wide is printed as several tables, cut between its groups of columns. Figures of
steadiness in time are left out where there are none at all (a clip of one frame). Where
stdout is not a terminal, tables are Markdown, so that they can be pasted as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from codecaux.rate import Rate
    from codecaux.scores import Scores

__all__ = [
    "SCORE_COLUMNS",
    "Column",
    "Grid",
    "facts_grid",
    "gain_grid",
    "markdown",
    "missing_lines",
    "print_grid",
    "scores_grid",
    "split_to_width",
    "stdout_console",
]

MISSING = "-"


@dataclass(frozen=True)
class Column:
    """A heading, how numbers are printed under it, and the group that it is cut off with."""

    heading: str
    key: str
    spec: str
    group: str

    @property
    def broken_heading(self) -> str:
        """The heading in lines of a word each, as a terminal shows it: columns stay narrow."""
        return self.heading if self.spec == "" else self.heading.replace(" ", "\n")

    def text(self, value: float | None) -> str:
        return MISSING if value is None else format(value, self.spec)

    def difference(self, value: float | None, base: float | None) -> str:
        if value is None or base is None:
            return MISSING
        return format(value - base, "+" + self.spec)


RATE_COLUMNS = (
    Column("stream kb/s", "stream_kbps", ",.1f", "rate"),
    Column("weights bytes", "weights_bytes", ",.0f", "rate"),
    Column("weights kb/s", "weights_kbps", ",.1f", "rate"),
    Column("total kb/s", "total_kbps", ",.1f", "rate"),
)
SCORE_COLUMNS = (
    Column("VMAF v1", "vmaf_v1", ".2f", "scores"),
    Column("v0.6.1", "vmaf_v061", ".2f", "scores"),
    Column("NEG", "vmaf_v061_neg", ".2f", "scores"),
    Column("LPIPS", "lpips", ".4f", "scores"),
    Column("PSNR-Y", "psnr_y_db", ".2f", "scores"),
    Column("SSIM", "ssim", ".4f", "scores"),
    Column("tOF", "tof", ".3f", "steadiness"),
    Column("RPF mean", "rpf_mean", ".3f", "steadiness"),
    Column("RPF deviation", "rpf_deviation", ".3f", "steadiness"),
)

# A value of a row: what is in the cell under the column with that key.
Values = Mapping[str, float | None]


@dataclass(frozen=True)
class Grid:
    """Rows of cells under columns; the first cell of a row is its name."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    corner: str = ""

    def part(self, start: int, end: int) -> Grid:
        """The same rows under the columns ``start`` to ``end``, the last not included."""
        rows = tuple((name, cells[start:end]) for name, cells in self.rows)
        return Grid(self.columns[start:end], rows, self.corner)

    def width(self, *, broken_headings: bool = False) -> int:
        """Characters of a row, borders included, were it printed in one piece."""
        widths = [max(len(self.corner), *(len(name) for name, _ in self.rows))]
        for index, column in enumerate(self.columns):
            heading = column.broken_heading if broken_headings else column.heading
            words = [*heading.splitlines(), *(cells[index] for _, cells in self.rows)]
            widths.append(max(map(len, words), default=0))
        return sum(widths) + 3 * len(widths) + 1


def split_to_width(grid: Grid, width: int, *, broken_headings: bool = False) -> list[Grid]:
    """``grid`` in pieces of whole groups of columns, each of as many as fit into ``width``
    characters, or of one group that is wider.
    """
    pieces = []
    start = end = 0
    for _, members in groupby(grid.columns, key=lambda column: column.group):
        longer = end + len(tuple(members))
        is_wide = grid.part(start, longer).width(broken_headings=broken_headings) > width
        if start < end and is_wide:
            pieces.append(grid.part(start, end))
            start = end
        end = longer
    return [*pieces, grid.part(start, end)]


def values_grid(columns: Sequence[Column], rows: Mapping[str, Values], corner: str = "") -> Grid:
    """A grid of numbers, and below two rows the difference of the second from the first."""
    cells = [
        (name, tuple(column.text(values.get(column.key)) for column in columns))
        for name, values in rows.items()
    ]
    if len(rows) == 2:
        base, other = rows.values()
        differences = (c.difference(other.get(c.key), base.get(c.key)) for c in columns)
        cells.append(("difference", tuple(differences)))
    return Grid(tuple(columns), tuple(cells), corner)


def score_columns(scores: Mapping[str, Scores]) -> tuple[Column, ...]:
    """SCORE_COLUMNS, without those of steadiness where no version has any of them."""
    is_timeless = all(
        getattr(each, column.key) is None
        for each in scores.values()
        for column in SCORE_COLUMNS
        if column.group == "steadiness"
    )
    return tuple(c for c in SCORE_COLUMNS if not (is_timeless and c.group == "steadiness"))


def score_values(scores: Scores) -> Values:
    """A Scores as a row of SCORE_COLUMNS."""
    return {column.key: getattr(scores, column.key) for column in SCORE_COLUMNS}


def gain_grid(rate: Rate, scores: Mapping[str, Scores]) -> Grid:
    """The table of an encode: the stream shown plain, with the weights, and the difference."""
    plain = {
        "stream_kbps": rate.stream_kbps,
        "weights_bytes": 0.0,
        "weights_kbps": 0.0,
        "total_kbps": rate.stream_kbps,
    }
    enhanced = {column.key: float(getattr(rate, column.key)) for column in RATE_COLUMNS}
    rows: dict[str, Values] = {
        "H.265 + bicubic": {**plain, **_scores_of(scores, "bicubic")},
        "H.265 + weights": {**enhanced, **_scores_of(scores, "enhanced")},
    }
    return values_grid((*RATE_COLUMNS, *score_columns(scores)), rows)


def _scores_of(scores: Mapping[str, Scores], name: str) -> Values:
    return score_values(scores[name]) if name in scores else {}


def scores_grid(scores: Mapping[str, Scores]) -> Grid:
    """One row of scores for each picture that was compared with the reference."""
    rows = {name: score_values(each) for name, each in scores.items()}
    return values_grid(score_columns(scores), rows)


def missing_lines(scores: Mapping[str, Scores]) -> list[str]:
    """Why a score is not there, once for each that is not."""
    reasons = {key: why for each in scores.values() for key, why in each.missing.items()}
    headings = {column.key: column.heading for column in SCORE_COLUMNS}
    return [f"{headings.get(key, key)} is missing: {why}" for key, why in reasons.items()]


def facts_grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Grid:
    """A table of text: the first heading stands over the rows' names."""
    columns = tuple(Column(heading, heading, "", "facts") for heading in headings[1:])
    return Grid(columns, tuple((row[0], tuple(row[1:])) for row in rows), headings[0])


def stdout_console() -> Console:
    """rich's console on stdout. Not a terminal: 80 columns, or what $COLUMNS says."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def print_grid(grid: Grid, console: Console | None = None, *, wrap: bool = False) -> None:
    """Print to stdout, cut to the console's width. ``wrap``: long text breaks inside its cell."""
    console = console or stdout_console()
    broken = console.is_terminal
    pieces = [grid] if wrap else split_to_width(grid, console.width, broken_headings=broken)
    if console.is_terminal:
        for piece in pieces:
            console.print(_rich_table(piece, wrap=wrap))
    else:
        # A blank line between two tables, or Markdown takes them for one.
        console.file.write("\n".join(map(markdown, pieces)))


def markdown(grid: Grid) -> str:
    """The grid as a Markdown table, columns aligned; a bar inside a cell is escaped."""
    lines = [[grid.corner, *(column.heading for column in grid.columns)]]
    lines += [[name, *cells] for name, cells in grid.rows]
    lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(lines[0]))]
    is_text = [True, *(column.spec == "" for column in grid.columns)]
    rule = [
        "-" * width if left else "-" * (width - 1) + ":"
        for width, left in zip(widths, is_text, strict=True)
    ]
    return "".join(
        "| "
        + " | ".join(_align(*cell) for cell in zip(line, widths, is_text, strict=True))
        + " |\n"
        for line in (lines[0], rule, *lines[1:])
    )


def _align(text: str, width: int, left: bool) -> str:
    return text.ljust(width) if left else text.rjust(width)


def _rich_table(grid: Grid, *, wrap: bool) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.ROUNDED, header_style="bold")
    table.add_column(grid.corner, no_wrap=True)
    for column in grid.columns:
        left = column.spec == ""
        table.add_column(
            column.broken_heading,
            justify="left" if left else "right",
            no_wrap=not wrap,
            overflow="fold",
        )
    for name, cells in grid.rows:
        table.add_row(name, *cells, style="bold" if name == "difference" else None)
    return table
