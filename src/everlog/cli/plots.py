"""Plots of a store's size and growth, by matplotlib, as PNG or SVG."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from everlog.errors import UnsupportedStoreError
from everlog.stats import Stats

_INCHES = (9.0, 6.0)
_MB = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def draw_stats(found: Stats, path: Path) -> None:
    """Draw what was recorded by day, in all and where it stands now, into a file that ends in .png or .svg."""
    if path.suffix.lower() not in (".png", ".svg"):
        raise UnsupportedStoreError(
            f"{path.name!r:.100} ends neither in .png nor in .svg; nothing was drawn; name one that does"
        )
    try:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedStoreError(
            "plots need the library matplotlib; nothing was drawn; install it: pip install 'everlog[plots]'"
        ) from error
    figure = Figure(figsize=_INCHES, layout="constrained")
    growth, parts = figure.subplots(2, 1, height_ratios=(3, 1))
    days = [_EPOCH + timedelta(days=day.day) for day in found.days]
    total = 0.0
    sums = [total := total + day.bytes / _MB for day in found.days]
    growth.bar(days, [day.bytes / _MB for day in found.days], width=0.9, color="tab:blue", label="recorded that day")
    growth.plot(days, sums, color="tab:orange", marker=".", label="recorded in all")
    growth.set_ylabel("MB of bodies")
    growth.set_ylim(bottom=0)
    locator = AutoDateLocator()
    growth.xaxis.set_major_locator(locator)
    growth.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    if days:
        margin = timedelta(hours=12)
        growth.set_xlim(days[0] - margin, max(days[-1], days[0] + timedelta(days=6)) + margin)
    growth.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False)
    growth.set_title(f"{found.sizes.sessions:,} sessions, {found.sizes.events:,} events", loc="left")
    _draw_parts(found, parts)
    figure.savefig(path, dpi=150)


def _draw_parts(found: Stats, axes: object) -> None:
    sizes = found.sizes
    held = sizes.hot + sizes.packed + sizes.shared + sizes.free
    parts = {
        "hot": sizes.hot,
        "packed": sizes.packed,
        "kept once": sizes.shared,
        "rows and indexes": max(0, sizes.file - held),
        "free": sizes.free,
        "archived": sizes.archived,
    }
    left = 0.0
    for name, count in parts.items():
        if count:
            axes.barh(0, count / _MB, left=left, label=f"{name} {count / _MB:,.1f} MB")  # pyright: ignore[reportAttributeAccessIssue]
            left += count / _MB
    axes.set_yticks([])  # pyright: ignore[reportAttributeAccessIssue]
    axes.set_xlabel("MB stored")  # pyright: ignore[reportAttributeAccessIssue]
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.45), ncols=3, frameon=False)  # pyright: ignore[reportAttributeAccessIssue]
