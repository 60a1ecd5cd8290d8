"""How blocks fill the pages of a SQLite file: what packs them chooses their sizes and their order so that little of a page stays empty.

Of a row that is larger than a page the end stays in a leaf, and the rest fills overflow pages of its own; a leaf holds whole rows only, in
the order in which they came (https://www.sqlite.org/fileformat2.html, "Cell Payload Overflow Pages"). No answer depends on it: where
rows or pages are other than said here, more of them stays empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_PAGE: Final = 8192
_LEAF: Final = _PAGE - 8  # its header
_LEAST: Final = (_PAGE - 12) * 32 // 255 - 23  # of a row that is larger than a page, in its leaf
_MOST: Final = _PAGE - 35  # of any row
_OVERFLOW: Final = _PAGE - 4  # the number of the next page
_COLUMNS: Final = 80  # of a block's row, beside its content
_CELL: Final = 11  # the row's size and key, its overflow page, its place in the leaf


def in_leaf(size: int) -> int:
    """Give how many bytes of a leaf a block takes. size: of its content."""
    row = size + _COLUMNS
    if row > _MOST:
        row = _LEAST + (row - _LEAST) % _OVERFLOW
        if row > _MOST:
            row = _LEAST
    return row + _CELL


def odd_bytes(size: int) -> int:
    """Give how many bytes of pages a block takes beside those that it fills: of a leaf, and empty ones of its last overflow page."""
    beyond = (size + _COLUMNS - _LEAST) % _OVERFLOW
    is_cut = size + _COLUMNS > _MOST and beyond > _MOST - _LEAST
    return in_leaf(size) + (_OVERFLOW - beyond if is_cut else 0)


def filled(size: int) -> int:
    """Give the largest content, up to a size, whose row fills its overflow pages and takes the least of a leaf; 0 where there is none."""
    pages = (size + _COLUMNS - _LEAST) // _OVERFLOW
    return pages * _OVERFLOW + _LEAST - _COLUMNS if pages > 0 else 0


def fill_leaves(sizes: Sequence[int]) -> list[int]:
    """Give the order in which blocks fill leaves best, as places in `sizes`: the largest next that what is left of a leaf has room for."""
    taken = [in_leaf(size) for size in sizes]
    left = sorted(range(len(sizes)), key=lambda place: (-taken[place], place))
    ordered: list[int] = []
    room = 0
    while left:
        fits = next((at for at, place in enumerate(left) if taken[place] <= room), None)
        if fits is None:
            fits, room = 0, _LEAF
        ordered.append(left.pop(fits))
        room -= taken[ordered[-1]]
    return ordered
