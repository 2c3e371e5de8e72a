"""Pages that carry their pictures inside and open without a network."""

import base64
from collections.abc import Callable, Mapping
from typing import Any

import jinja2


def render_page(
    template: str,
    pictures: Mapping[str, bytes],
    filters: Mapping[str, Callable[..., Any]] | None = None,
    **values: Any,
) -> str:
    """A page that carries its pictures inside, from a Jinja template.

    Args:
      template: name in `templates/`; a value that it lacks is an error; text in HTML is escaped.
      pictures: PNG by name; the template sees them as `pictures`, each an address.
      filters: more filters of the template.
      **values: what else it sees.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxcovid.report", "templates"),
        autoescape=jinja2.select_autoescape([".html.jinja"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    addresses = {
        name: f"data:image/png;base64,{base64.b64encode(content).decode()}"
        for name, content in pictures.items()
    }
    return environment.get_template(template).render(pictures=addresses, **values)
