"""The page of an audit, which opens without a network."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcovid.audits.audit import Audit
from jaxcovid.audits.duplicates import Pair
from jaxcovid.audits.items import Item
from jaxcovid.data.png import encode_png
from jaxcovid.report import pages

FILE = "audit.html"
_SHOWN = 60  # pairs and rows on the page; audit.json has all
_GAP_PX = 6  # between the pictures of a pair


def render_audit(audit: Audit, content: dict[str, Any]) -> str:
    """Renders the page of an audit, its pictures inside.

    Args:
      audit: with its images.
      content: of `audit.json`, see `Audit.as_dict`.
    """
    pairs = audit.suspected_pairs()[:_SHOWN]
    return pages.render_page(
        "audit.html.jinja",
        {str(i): _side_by_side(audit.items, pair) for i, pair in enumerate(pairs)},
        audit=content,
        shown=_SHOWN,
        pairs=[
            {
                "kind": pair.kind,
                "correlation": pair.correlation,
                "names": [
                    f"{audit.items[i].split}: {audit.items[i].record['id']}"
                    for i in (pair.first, pair.second)
                ],
            }
            for pair in pairs
        ],
    )


def _side_by_side(items: Sequence[Item], pair: Pair) -> bytes:
    """PNG: the small copies of a pair."""
    first, second = items[pair.first].small, items[pair.second].small
    gap = np.full((first.shape[0], _GAP_PX), 255, np.uint8)
    return encode_png(np.hstack([first, gap, second]))
