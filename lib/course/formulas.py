"""LaTeX in markdown to MathML, which browsers draw by themselves: the gallery has to work without a network."""

import re

# fenced code | code span | display formula | inline formula; code comes first so that a $ inside it stays
PIECES = re.compile(
    r"(?P<code>^```.*?^```|`[^`\n]+`)"
    r"|\$\$(?P<block>.+?)\$\$"
    r"|(?<![\\$])\$(?!\s)(?P<inline>[^$\n]+?)(?<![\s\\])\$",
    re.DOTALL | re.MULTILINE,
)
# what the converter does not know, and what it does know that looks the same
SYNONYMS = (("{aligned}", "{align*}"), (r"\operatorname", r"\mathrm"), (r"\lVert", r"\|"), (r"\rVert", r"\|"))


def take_formulas(markdown: str, taken: dict[str, str]) -> str:
    """Replace the formulas of a markdown text by marks, and put their MathML into `taken`, in place.

    Marks pass through the cleaning of HTML, which MathML does not. A formula that cannot be converted stays.

    >>> taken = {}
    >>> take_formulas("the $x$ and `$y$`", taken)
    'the FORMULA0MARK and `$y$`'
    >>> "<mi>x</mi>" in put_formulas("FORMULA0MARK", taken)
    True
    """

    def replace(match: re.Match[str]) -> str:
        mathml = None if match["code"] else _convert(match)
        if mathml is None:
            return match[0]
        mark = f"FORMULA{len(taken)}MARK"
        taken[mark] = mathml
        return mark

    return PIECES.sub(replace, markdown)


def put_formulas(page: str, taken: dict[str, str]) -> str:
    """Put the MathML in place of its marks."""
    return re.sub(r"FORMULA\d+MARK", lambda match: taken.get(match[0], match[0]), page)


def _convert(match: re.Match[str]) -> str | None:
    from latex2mathml.converter import convert

    source = match["block"] or match["inline"]
    for known, same in SYNONYMS:
        source = source.replace(known, same)
    try:
        return convert(source.strip(), display="block" if match["block"] else "inline")
    except Exception:  # its errors share no base class, and a raw formula is better than no page
        return None
