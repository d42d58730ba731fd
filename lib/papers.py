"""Numbers as the papers print them, with where each stands: ``lib/paper_tables.csv``."""

from pathlib import Path

import pandas as pd

from lib.errors import InputError

TABLES = Path(__file__).with_name("paper_tables.csv")


def paper_table(table: int, paper: str = "ShapeClipper") -> pd.DataFrame:
    """A table of a paper: methods down, metrics across, in the paper's order and units.

    Parameters
    ----------
    table : int
        Its number in the paper.
    paper : str
        A part of the citation.

    Returns
    -------
    DataFrame
        ``.attrs["source"]`` says paper, table, dataset and protocol.

    Raises
    ------
    InputError
        There is no such table in the file.
    """
    entries = pd.read_csv(TABLES)
    entries = entries[(entries["table"] == table) & entries["paper"].str.contains(paper, regex=False)]
    if entries.empty:
        raise InputError(f"{TABLES} has no table {table} of {paper!r}; add its numbers there.")
    wide = entries.pivot(index="row", columns="metric", values="value")
    wide = wide.loc[entries["row"].unique(), entries["metric"].unique()]
    first = entries.iloc[0]
    wide.attrs["source"] = f"{first.paper}, Table {table}: {first.dataset}, protocol {first.protocol}"
    return wide.rename_axis(index=None, columns=None)
