"""Measured rows as the table of ``benchmarks/README.md``."""

from lib.errors import InputError

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
HEAD = """| what | size | way | seconds | times as fast | memory, MB | load |
|---|---:|---|---:|---:|---:|---:|"""


def table(rows: list[dict]) -> str:
    """One line for each way, and where the numbers come from; all rows are of one commit and machine."""
    lines = [HEAD]
    for row in rows:
        seconds = f"{row['seconds']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
        cells = [row["name"], f"{row['size']:,}", row["way"], seconds, f"{row['ratio']:.2f}", f"{row['memory_mb']:,}"]
        lines.append("| " + " | ".join([*cells, f"{row['load']:.1f}"]) + " |")
    first = rows[0]
    rounds = " or ".join(str(number) for number in sorted({row["rounds"] for row in rows}))
    threads = f"{first['threads']} thread{'s' * (first['threads'] > 1)}"
    about = f"Median of {rounds} rounds on {first['device']} with {threads}: {first['machine']}; {first['commit']}."
    return "\n".join(lines) + f"\n\n{about}"


def with_table(text: str, rows: list[dict]) -> str:
    """A page with the table between its marks."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise InputError(f"The page needs one line {BEGIN} and one line {END} for the table.")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.split(END)[1]}"
