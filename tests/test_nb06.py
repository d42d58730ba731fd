"""The tables of the objective say what the system does; the paper's numbers are read, not typed."""

from dataclasses import replace

import pytest
import torch
from tiny import EVERYTHING, TINY, make_batch, make_system

from lib.systems.shapeclipper import ABLATIONS, IN_THE_PAPER
from lib.training.log import write_log
from lib.training.recipes import RECIPES
from support.nb06 import TERMS, objective_table, watch


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        EVERYTHING,
        replace(EVERYTHING, viewpoint="given"),
        replace(TINY, semantic_weight=0.0, normal_weight=0.0),
    ],
    ids=["paper", "everything", "given", "reprojection alone"],
)
def test_the_table_lists_the_terms_that_training_sums(config):
    system = make_system(config)
    system.begin_step(0.5)
    given = set(system.losses(make_batch(4), torch.Generator().manual_seed(0)))
    table = objective_table(config)
    assert given == set(table[table["weight"] > 0].index) - {"shape"}


@pytest.mark.parametrize("term", [term for term in TERMS if term.weight], ids=lambda term: term.name)
def test_a_term_is_proportional_to_its_setting(term):
    batch, values = make_batch(4), []
    for factor in (1, 3):
        config = replace(EVERYTHING, **{term.weight: factor * getattr(EVERYTHING, term.weight)})
        system = make_system(config, shake=0.05)
        system.begin_step(0.5)
        values.append(system.losses(batch, torch.Generator().manual_seed(0))[term.name].detach())
    assert float(values[1]) == pytest.approx(3 * float(values[0]), rel=1e-5)


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_are_changes_that_recipes_accept(name):
    changed = RECIPES["small"].changed(**ABLATIONS[name])
    assert changed != RECIPES["small"]
    assert set(IN_THE_PAPER) <= set(ABLATIONS)


def test_weights_of_several_configurations_side_by_side():
    table = objective_table(RECIPES["quick"].system, paper=RECIPES["paper"].system)
    assert table.loc["azimuth_prior", ["weight", "in paper"]].tolist() == [0.0, 0.1]


@pytest.mark.parametrize(
    ("done", "sentence"),
    [(0, "a new run of 10 steps"), (4, "goes on after about step 4 of 10"), (10, "finished already, 10 steps")],
)
def test_watching_says_what_is_in_the_run_folder_and_keeps_its_curves(tmp_path, capsys, done, sentence):
    rows = [{"step": step, "phase": "training", "loss": 1.0} for step in range(1, done + 1)]
    if rows:
        write_log(tmp_path / "log.jsonl", rows)
    board = watch(tmp_path, 10, make_batch(1))
    assert capsys.readouterr().out.startswith(sentence)
    assert board.rows == rows
