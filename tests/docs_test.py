"""The documentation: links lead somewhere, and it names every option."""

import pathlib
import re
import urllib.parse

import ml_collections
import pytest

from configs import default

REPOSITORY = pathlib.Path(__file__).parents[1]
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
MOST_README_LINES = 150
MOST_PICTURE_BYTES = 300_000


def without_code(text):
    """A page without its code blocks, whose text is no Markdown."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def links_of(page):
    """Targets of the links and pictures of a page, without those that lead to other sites."""
    targets = re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text()))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors_of(page):
    """Anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text()), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def options_of(config, prefix=""):
    """Dotted names of all options of a configuration."""
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from options_of(value, f"{prefix}{name}.")
        else:
            yield prefix + name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for link in links_of(page):
        path, _, anchor = urllib.parse.unquote(link).partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name} links to {link}, which does not exist"
        if anchor:
            assert anchor in anchors_of(target), f"{page.name}: {target.name} has no #{anchor}"


def test_the_readme_is_short_and_links_to_every_page():
    readme = REPOSITORY / "README.md"
    assert len(readme.read_text().splitlines()) <= MOST_README_LINES
    linked = {(REPOSITORY / link.partition("#")[0]).resolve() for link in links_of(readme)}
    assert {page.resolve() for page in PAGES} - {readme.resolve()} <= linked


def test_pictures_are_small_and_used():
    text = "\n".join(page.read_text() for page in PAGES)
    for picture in (REPOSITORY / "docs").glob("*.png"):
        assert picture.stat().st_size < MOST_PICTURE_BYTES, picture.name
        assert f"{picture.name})" in text, f"no page shows {picture.name}"


def test_the_configuration_page_names_every_option_and_no_other():
    text = (REPOSITORY / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(options_of(default.get_config()))
