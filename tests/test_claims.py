"""The ledger of claims: its form, that what it points to exists, and that our side comes from files alone."""

import math
import re

import pandas as pd
import pytest
import yaml

from lib.course.grids import GRIDS, find_recipe
from lib.errors import InputError
from lib.evaluation import claims as c
from lib.evaluation import write_results
from lib.evaluation.results import kept_name, study_row
from lib.geometry.alignment import PROTOCOLS

TABLE_KEYS = {"paper", "table", "section", "dataset", "protocol", "scale", "columns", "rows"}
OURS = {"grid", "grid_rows", "category", "checkpoints", "prepared"}
PREPARED = ("pix3d", "pascal3d", "shapenet")  # names that data_scripts give
METRIC = re.compile(r"(chamfer_distance|accuracy|completeness|f_score(@0\.\d+)?|azimuth_error|segmentation_iou)$")


@pytest.fixture(scope="module")
def ledger() -> dict:
    return yaml.safe_load(c.LEDGER.read_text())


def test_tables_have_the_form_that_the_file_describes(ledger):
    seen = set()
    for table in ledger["tables"]:
        place = (table["paper"], table["table"])
        assert TABLE_KEYS <= set(table) <= TABLE_KEYS | OURS, place
        assert table["paper"] in ledger["papers"] and place not in seen
        assert all(METRIC.search(column) for column in table["columns"]), place
        assert table["scale"] in (1, 10)
        for row, values in table["rows"].items():
            assert len(values) == len(table["columns"]), (place, row)
            assert all(value is None or (isinstance(value, float) and 0 < value < 100) for value in values), (
                place,
                row,
            )
        seen.add(place)
    assert {paper for paper, _ in seen} == set(ledger["papers"])  # all five


def test_grids_and_their_rows_exist(ledger):
    for table in (table for table in ledger["tables"] if "grid" in table):
        assert table["protocol"] == GRIDS[table["grid"]].protocol and table["protocol"] in PROTOCOLS
        assert set(table["grid_rows"]) <= set(table["rows"]) and table["prepared"] in PREPARED
        assert set(table["grid_rows"].values()) == set(GRIDS[table["grid"]].rows)  # no row of ours is left out
        small = c.RECIPES[table["paper"]]["small"]
        assert small == GRIDS[table["grid"]].recipe
    for recipes in c.RECIPES.values():
        assert tuple(recipes) == c.SIZES and all(find_recipe(name) for name in recipes.values())


def test_statements_have_a_number_a_unit_and_a_place(ledger):
    for entry in ledger["statements"]:
        assert {"paper", "section", "says", "value", "unit", "dataset"} <= set(entry), entry
        assert math.isfinite(entry["value"]) and entry["paper"] in ledger["papers"]
        assert set(entry.get("ours", {})) <= set(c.SIZES)


def test_differences_in_statements_are_those_of_the_tables(ledger):
    """Where a statement shows a subtraction, it is right, and both numbers stand in a table of that paper."""
    checked = 0
    for entry in ledger["statements"]:
        found = re.search(r"\(([\d.]+) - ([\d.]+)\)", entry["says"])
        if found:
            first, second = (float(number) for number in found.groups())
            assert entry["value"] == pytest.approx(first - second, abs=1e-9)
            tables = [table for table in ledger["tables"] if table["paper"] == entry["paper"]]
            printed = {value for table in tables for values in table["rows"].values() for value in values}
            assert {first, second} <= printed
            checked += 1
    assert checked >= 7


def test_percentages_of_cat3d_are_those_of_its_tables(ledger):
    """An independent check of typed numbers: the text's percentages follow from the tables' distances."""
    cd = {(t["table"], row): v[-1] for t in ledger["tables"] if t["paper"] == "cat3d" for row, v in t["rows"].items()}
    less = {
        23.8: (cd[2, "w/o category"], cd[2, "SDF-SRN"]),
        37.0: (cd[2, "Cat3D"], cd[2, "SDF-SRN"]),
        32.4: (cd[3, "Cat3D"], cd[3, "w/o category"]),
        31.6: (cd[3, "w/o category"], cd[3, "SDF-SRN"]),
        53.8: (cd[3, "Cat3D"], cd[3, "SDF-SRN"]),
    }
    stated = {e["value"] for e in ledger["statements"] if e["paper"] == "cat3d" and "below" in e["says"]}
    assert stated == set(less)
    for percent, (ours, theirs) in less.items():
        assert 100 * (1 - ours / theirs) == pytest.approx(percent, abs=0.15)


def test_means_of_tables_are_the_means_of_their_rows(ledger):
    """Another: means over categories that the paper prints are those of the typed cells, but for two of them."""
    tables = {t["table"]: t for t in ledger["tables"] if t["paper"] == "jof"}
    rows = pd.DataFrame(tables[5]["rows"], tables[5]["columns"]).T
    off = (rows.drop("Mean").mean() - rows.loc["Mean"]).abs() / rows.loc["Mean"]
    assert list(off[off > 0.01].index) == ["PSG, chamfer_distance"]  # printed 0.188, the cells give 0.215
    whole = pd.DataFrame(tables[6]["rows"], tables[6]["columns"]).T.dropna(axis=1)
    for dataset, odd in (("Pascal 3D+", []), ("Pix3D", ["joint occupancy field, chamfer_distance"])):
        part, mean = whole[whole.index.str.startswith(dataset)], whole.loc[f"{dataset}, Mean"]
        off = (part.drop(mean.name).mean() - mean).abs()
        assert list(off[off > 0.0011].index) == odd  # printed 0.137, the cells give 0.130


def test_every_reference_finds_one_row_where_its_file_exists():
    found = [c.our_value(ref) for claim in c.all_claims() for ref in claim.ours.values()]
    assert sum(value is not None for value in found) >= 3
    assert all(value is None or math.isfinite(value) for value in found)


def test_numbers_of_an_experiment_appear_once_its_file_does(tmp_path):
    def row(name, metric, value, seed):
        return study_row(f"small-given: {name}", "view", metric, value, "", n=1, seed=seed, dataset="furniture")

    rows = [row(name, "chamfer_distance", v, s) for name, v, s in (("full", 0.05, None), ("full", 0.09, 0))]
    rows += [row("full", f"f_score@{t}", 0.5, None) for t in ("0.01", "0.05", "0.1")]
    place = ("shapeclipper", "Table 2", "ShapeClipper")
    claims = [one for one in c.all_claims() if (one.paper, one.where, one.row) == place]
    assert {c.our_value(one.ours["small"], tmp_path) for one in claims} == {None}
    write_results(tmp_path / "results" / "tables-2-3.json", rows)
    values = [c.our_value(one.ours["small"], tmp_path) for one in claims]
    assert values == pytest.approx([0.5, 0.5, 0.5, 0.5])  # the one over seeds, distances times ten
    assert c.our_value(claims[0].ours["paper"], tmp_path) is None
    assert c.place_table("shapeclipper|Table 2", tmp_path).loc["w/o normal", "10 x CD"] == "0.766"  # not run
    write_results(tmp_path / "other" / "results" / "tables-2-3.json", rows[:2])
    with pytest.raises(InputError, match="0 rows"):  # a system without a number that the ledger asks for
        c.place_table("shapeclipper|Table 2", tmp_path / "other")


@pytest.mark.parametrize(("dataset", "filled"), [("pix3d", True), ("furniture", False), ("pascal3d", False)])
def test_numbers_of_paper_size_count_on_the_papers_dataset_only(tmp_path, dataset, filled):
    """Whatever the file is called: its rows say what was measured."""
    rows = [
        study_row("paper: full", "view", metric, 0.5, "", n=1, dataset=dataset)
        for metric in ("chamfer_distance", "f_score@0.01", "f_score@0.05", "f_score@0.1")
    ]
    for name in ("tables-2-3-pix3d-paper", "tables-2-3-paper", "tables-2-3-pascal3d-all-paper"):
        write_results(tmp_path / "results" / f"{name}.json", rows)
    table = c.summary_table(tmp_path).set_index(["paper", "where"])["ours, paper"]
    assert (table["ShapeClipper", "Table 2"] == "4") == filled
    assert (table["ShapeClipper", "Table 3"] == "4") == (dataset == "pascal3d")
    assert set(table.drop([("ShapeClipper", "Table 2"), ("ShapeClipper", "Table 3")])) == {c.NOT_RUN}


def test_table_3_is_filled_by_what_the_experiment_keeps(tmp_path):
    """Its stand-in at small size is the furniture of every category."""
    row = study_row("small-given: full", "view", "chamfer_distance", 0.05, "", n=1, dataset="furniture")
    more = [row | {"metric": f"f_score@{t}"} for t in ("0.01", "0.05", "0.1")]
    write_results(tmp_path / "results" / f"{kept_name('tables-2-3', 'furniture', '', 'small')}.json", [row, *more])
    assert c.place_table("shapeclipper|Table 3", tmp_path).loc["ShapeClipper", "10 x CD"] == "0.693 | small 0.500"
    assert c.place_table("shapeclipper|Table 2", tmp_path).loc["ShapeClipper", "10 x CD"] == "0.618"


def test_table_4_is_filled_by_checkpoints_measured_under_its_protocol(tmp_path):
    def rows(protocol, dataset, profile, value):
        metrics = ("chamfer_distance", "f_score@0.01", "f_score@0.05", "f_score@0.1")
        about = {"n": 1, "dataset": dataset, "profile": profile, "seed": 0}
        return [study_row("shapeclipper", protocol, metric, value, "", **about) for metric in metrics]

    def shown():
        return c.place_table("shapeclipper|Table 4", tmp_path)["10 x CD"].to_dict()

    path = tmp_path / "weights" / "one" / "results.json"
    write_results(path, rows("view", "furniture", "small", 0.01))
    assert shown() == {"SS3D": "0.696", "ShapeClipper": "0.572"}
    c._rows.cache_clear()
    small, elsewhere = rows("rotation", "furniture", "small", 0.04), rows("rotation", "furniture", "paper", 0.02)
    write_results(path, rows("view", "furniture", "small", 0.01) + small + elsewhere)
    assert shown() == {"SS3D": "0.696", "ShapeClipper": "0.572 | small 0.400"}
    write_results(tmp_path / "weights" / "two" / "results.json", rows("rotation", "pascal3d", "paper", 0.03))
    assert shown() == {"SS3D": "0.696", "ShapeClipper": "0.572 | small 0.400 | paper 0.300"}
    write_results(tmp_path / "weights" / "three" / "results.json", small)
    with pytest.raises(InputError, match="2 rows"):
        shown()


def test_the_summary_counts_and_every_place_can_be_shown(tmp_path):
    table = c.summary_table(tmp_path)
    assert table["numbers"].sum() == len(c.all_claims())
    assert set(table[[f"ours, {size}" for size in c.SIZES]].to_numpy().ravel()) == {c.NOT_RUN}
    for label, key in c.places():
        table = c.place_table(key)
        assert len(table) and label.startswith(c.read_ledger()["papers"][key.split("|")[0]]["short"])
    with pytest.raises(InputError, match="no 'nowhere'"):
        c.place_table("nowhere")


def test_paper_tables():
    table = c.paper_table(2)
    assert table.loc["ShapeClipper"].to_dict() == {"FS@1": 0.1317, "FS@5": 0.5473, "FS@10": 0.8002, "10 x CD": 0.618}
    assert list(c.paper_table(4).index) == ["SS3D", "ShapeClipper"]
    assert "protocol rotation" in c.paper_table(4).attrs["source"]
    assert not any(c.paper_table(number).isna().any(axis=None) for number in (2, 3, 4))
    with pytest.raises(InputError, match="no table 9"):
        c.paper_table(9)
