"""Texts of strangers in tables that people open in a spreadsheet."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with which one begins


def no_formula(text: str) -> str:
    """The text, with a quotation mark in front if a spreadsheet would take it for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
