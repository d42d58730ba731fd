"""The runner: parameters are checked first, a failure stops nothing else, and the gallery shows what ran."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.course import build, run
from lib.course.gallery import heading_and_purpose, render_notebook, results_table
from lib.course.outputs import NOTEBOOK_METADATA
from lib.course.parameters import Parameter, check_parameters, convert, read_parameters
from lib.course.process import MeasuredProcess
from lib.errors import InputError
from lib.paths import run_folder

PARAMETERS = """
profile = "quick"  # quick | full: how much to compute
steps: int = 10  # of training
rate = 0.5  # learning rate
half: bool = False
device: str = "auto"
layers = [1, 2]
run_dir = ""  # where results go
"""

GOOD = (
    """# %% [markdown]
# # A good one
#
# It adds **numbers**: $x^2$.

# %% tags=["parameters"]"""
    + PARAMETERS
    + """
# %%
import json
import os
import sys
from pathlib import Path

from matplotlib import pyplot as plt

from lib.paths import run_folder

folder = run_folder("00_good", profile, run_dir)
rows = [
    {"system": system, "metric": metric, "value": value, "category": "all", "protocol": "view"}
    for system, metric, value in [("ours", "f_score", 0.5), ("ours", "accuracy", 0.25), ("sphere", "f_score", 0.125)]
]
(folder / "results.json").write_text(json.dumps(rows));

# %% tags=["key-figure"] alt="a straight line"
plt.figure(figsize=(2, 2))
line = plt.plot([0, 1], [0, steps])

# %% tags=["nbval-check-output"]
print("steps", steps, profile, type(rate).__name__)

# %% tags=["results"]
print("the sum is 45")

# %%
import ipywidgets
from IPython.display import FileLink, display

display(ipywidgets.IntSlider())
FileLink(os.path.relpath(folder / "results.json"))

# %%
print(Path.cwd().name, os.environ["OMP_NUM_THREADS"], os.environ["TQDM_DISABLE"], sys.executable)
"""
)

BROKEN = """# %% [markdown]
# # A broken one

# %%
raise KeyError("the cause")
"""


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A folder with a good and a broken notebook."""
    folder = tmp_path_factory.mktemp("course") / "notebooks"
    (folder / "src").mkdir(parents=True)
    for name, text in {"00_good": GOOD, "01_broken": BROKEN}.items():
        (folder / "src" / f"{name}.py").write_text(text)
        build.write_notebook(build.build(folder / "src" / f"{name}.py")[0], folder / f"{name}.ipynb")
    return folder


def command(course, *arguments, runs=None):
    start = [sys.executable, "-m", "lib.course", "--folder", str(course)]
    environment = os.environ | ({"COURSE_RUNS": str(runs)} if runs else {})
    done = subprocess.run([*start, *arguments], check=False, capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def ran(course):
    """Both notebooks, executed by the command line in the quick profile: (folder, exit code, what it printed)."""
    runs = course.parent / "runs"
    code, printed, errors = command(
        course, "run", "--runs", str(runs), "--threads", "1", "--jobs", "2", "-p", "steps", "20"
    )
    assert errors == ""
    return runs / "quick", code, printed


def test_a_failure_does_not_stop_the_others_and_is_told(ran):
    _, code, printed = ran
    assert code == 1
    table = printed[printed.index("notebook   seconds") :].splitlines()
    assert table[0].split("  ")[0] == "notebook" and table[0].endswith("status")
    assert table[1].startswith("00_good") and table[1].endswith("  ok")
    assert table[2].startswith("01_broken") and table[2].endswith("  failed")
    assert table[3].endswith("1 of 2 ok")
    assert "cell 'a-broken-one-code': KeyError: 'the cause'" in printed
    assert "Traceback" not in printed


def test_each_notebook_runs_in_its_folder_with_our_environment(ran, course):
    target, _, _ = ran
    cells = nbformat.read(target / "00_good.ipynb", 4).cells
    assert cells[-1].outputs[0].text == f"notebooks 1 1 {sys.executable}\n"
    assert [cell.id for cell in cells if "parameters" in cell.metadata.get("tags", [])] == ["parameters"]
    texts = [output.text for cell in cells for output in cell.get("outputs", []) if output.output_type == "stream"]
    assert "steps 20 quick float\n" in texts
    assert not (course / "runs").exists()  # nothing is written beside the notebooks


def test_time_and_memory_are_measured(ran):
    target, _, _ = ran
    rows = {row["notebook"]: row for row in json.loads((target / "summary.json").read_text())["notebooks"]}
    assert rows["00_good"]["parameters"] == {"steps": 20}
    assert rows["01_broken"]["parameters"] == {}
    assert 1 < rows["00_good"]["seconds"] < 600
    assert 80 < rows["00_good"]["peak_memory_mb"] < 3000  # a kernel with matplotlib


def test_the_gallery_shows_figure_time_results_and_error(ran):
    target, _, _ = ran
    page = (target / "index.html").read_text()
    assert 'alt="a straight line" src="data:image/png;base64,iVBOR' in page
    assert ">A good one</a>" in page and "It adds numbers" in page
    assert "the sum is 45" in page
    cells = "".join(page.split())
    assert "<th>system</th><th>metric</th><th>value</th></tr>" in cells
    assert "<td>ours</td><td>accuracy</td><td>0.25</td>" in cells
    assert "<td>sphere</td><td>fscore</td><td>0.125</td>" in cells
    assert "category all · protocol view" in page
    assert "KeyError" in page and 'class="chip failed"' in page
    assert (target / "00_good/results.json").is_file() and 'href="00_good/results.json"' in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page


def test_pages_of_notebooks_link_back_and_draw_formulas(ran):
    target, _, _ = ran
    page = (target / "00_good.html").read_text()
    assert 'href="index.html"' in page and "<title>A good one</title>" in page
    assert '<a href="01_broken.html">01_broken &rarr;</a>' in page and "&larr;" not in page
    assert page.count('<img alt="a straight line" ') == 1 and "No description" not in page
    assert 'href="00_good/results.json"' in page and "unpkg.com" not in page  # a link that works, a control left out
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in page
    assert "MathJax.js" not in page and "require.min.js" not in page
    style = page[: page.index("</head>")]
    dark = style[style.index("@media screen and (prefers-color-scheme: dark)") :]  # after JupyterLab's own, light style
    assert "--jp-layout-color0: #111;" in dark
    assert "@media (max-width: 760px)" in style and 'class="course-bar"' in page


def test_another_run_keeps_the_cards_of_the_rest(ran, course):
    target, _, _ = ran
    code, printed, _ = command(course, "run", "--runs", str(target.parent), "--notebook", "00", "-p", "rate", "1")
    assert code == 0 and "1 of 1 ok" in printed
    rows = json.loads((target / "summary.json").read_text())["notebooks"]
    assert [(row["notebook"], row["parameters"]) for row in rows] == [("00_good", {"rate": 1.0}), ("01_broken", {})]


def test_execute_stores_outputs_that_nbval_then_checks(course):
    """A stored text that the executed copy does not show is found; the same text passes."""
    runs, path = course.parent / "build-runs", course / "00_good.ipynb"
    assert command(course, "build", "00", "--execute", runs=runs)[0] == 0
    assert "steps 10 quick float" in path.read_text()
    assert build.differences(course, ["00"]) == []
    check = ["check-outputs", "00", "--executed", str(runs / "quick")]
    code, printed, _ = command(course, *check)
    assert code == 0 and "7 passed" in printed
    path.write_text(path.read_text().replace("steps 10 quick", "steps 11 quick"))
    code, printed, _ = command(course, *check)
    assert code == 1 and "steps 11 quick" in printed and "1 failed" in printed


def test_nbval_finds_cells_that_failed_or_are_not_the_stored_ones(course, ran):
    """The copy of 01 ended with an error; that of 00 is older than the notebook."""
    target, _, _ = ran
    code, printed, _ = command(course, "check-outputs", "01", "--executed", str(target))
    assert code == 1 and "KeyError" in printed
    copy = target / "stale" / "00_good.ipynb"
    copy.parent.mkdir()
    copy.write_text((target / copy.name).read_text().replace("range", "rank").replace("figsize", "dpi"))
    code, printed, _ = command(course, "check-outputs", "00", "--executed", str(copy.parent))
    assert code == 1 and "is not the stored one" in printed
    code, printed, errors = command(course, "check-outputs", "--executed", str(course.parent / "nowhere"))
    assert (code, printed) == (2, "") and "holds no executed copy of 00_good: 'make run' writes them" in errors


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-p", "step", "3"], "none of the chosen notebooks has a parameter 'step': did you mean 'steps'"),
        (["--notebook", "01", "-p", "steps", "3"], "notebook 01_broken has no parameter 'steps': known are none"),
        (["-p", "steps", "many"], "parameter 'steps' of notebook 00_good must be a whole number, not 'many'"),
        (["-p", "steps", "1.5"], "must be a whole number, not '1.5'"),
        (["--profile", "huge"], "parameter 'profile' of notebook 00_good must be quick or full, not 'huge'"),
        (["--profile", "../up"], "must be a plain name"),
        (["-p", "profile", "full"], "chosen by PROFILE=name"),
        (["--notebook", "07"], "there is no notebook '07'"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_runs(course, tmp_path, arguments, sentence):
    code, printed, errors = command(course, "run", "--runs", str(tmp_path / "runs"), *arguments)
    assert (code, printed) == (2, "")
    assert errors.startswith("error: ") and sentence in errors and errors.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def write(tmp_path):
    """Write a notebook with one cell of parameters; gives its path."""

    def write(source, copies=1):
        cells = [nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]}) for _ in range(copies)]
        path = tmp_path / "03_x.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=NOTEBOOK_METADATA), path)
        return path

    return write


def test_parameters_are_read_with_types_and_choices(write):
    found = read_parameters(write(PARAMETERS))
    assert found["profile"] == Parameter("quick", "str", ("quick", "full"))
    assert found["steps"] == Parameter(10, "int")
    assert found["layers"] == Parameter([1, 2], "list")
    assert (found["half"].kind, found["rate"].kind) == ("bool", "float")
    assert read_parameters(write("sizes: list[int] = [\n    1,\n    2,\n]"))["sizes"] == Parameter([1, 2], "list")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("a = 1 + b", "parameter 'a' of notebook 03_x is not set to a literal"),
        ("a = [x for x in (1, 2)]", "not set to a literal"),
        ("a = None", "parameter 'a' of notebook 03_x is a NoneType: use bool"),
        ("import os", "must hold names set to literals"),
        ("a += 1", "must hold names set to literals"),
        ("a, b = 1, 2", "must hold names set to literals"),
        ("f(1)", "must hold names set to literals"),
        ("a = 1; b = 2", "must hold names set to literals"),
    ],
)
def test_a_parameters_cell_with_more_than_literals_is_refused(write, source, sentence):
    with pytest.raises(InputError, match=sentence):
        read_parameters(write(f"good = 1\n{source}"))
    with pytest.raises(InputError, match="2 cells tagged"):
        read_parameters(write("a = 1", copies=2))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", "-3", -3),
        ("rate", "1", 1.0),
        ("rate", "1e-3", 1e-3),
        ("half", "True", True),
        ("half", "false", False),
        ("device", "cuda:0", "cuda:0"),
        ("layers", "[3, 4]", [3, 4]),
        ("run_dir", "12", "12"),
        ("profile", "full", "full"),
        ("half", "yes", None),
        ("half", "1", None),
        ("layers", "3", None),
        ("layers", "[3", None),
        ("rate", "", None),
        ("steps", "1e3", None),
        ("steps", "True", None),
        ("profile", "huge", None),
    ],
)
def test_text_becomes_the_parameters_type_or_is_refused(write, name, text, value):
    known = {"x": read_parameters(write(PARAMETERS))}
    if value is None:
        with pytest.raises(InputError, match=f"parameter '{name}' of notebook x must be"):
            check_parameters([(name, text)], known)
        return
    result = check_parameters([(name, text)], known)["x"][name]
    assert result == value and type(result) is type(value)


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_subnormal=False), st.booleans(), st.text()))
def test_what_python_writes_is_read_back(value):
    assert convert(str(value), "p", Parameter(value, type(value).__name__), "x") == value


# --- processes ------------------------------------------------------------------------------------------------------


def finish(process, seconds=120):
    end = time.monotonic() + seconds
    while not process.watch():
        assert time.monotonic() < end
        time.sleep(0.05)
    return process


def nested(inner):
    """A command whose child does the work."""
    return [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"]


def test_memory_counts_children_and_their_children(tmp_path):
    command = nested("x = bytearray(300 * 2**20); import time; time.sleep(1)")
    measured = finish(MeasuredProcess(command, os.environ, tmp_path / "log"))
    assert measured.process.returncode == 0 and not measured.timed_out
    assert 300 < measured.peak_memory < 600
    assert 1 < measured.seconds < 120


def test_a_limit_of_time_stops_the_whole_tree(tmp_path):
    path = tmp_path / "pid"
    command = nested(f"import os, time; open({str(path)!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    assert finish(MeasuredProcess(command, os.environ, tmp_path / "log", timeout=3)).timed_out
    _assert_gone(int(path.read_text()))


def fake_jobs(folder, monkeypatch, codes):
    """Jobs whose process runs a line of Python instead of a notebook."""
    monkeypatch.setattr(run, "papermill_command", lambda job: [sys.executable, "-c", job.parameters["code"]])
    names = [f"job{number}" for number in range(len(codes))]
    return [
        run.Job(name, folder / "no.ipynb", folder / f"{name}.ipynb", folder / f"{name}.log", {"code": code})
        for name, code in zip(names, codes, strict=True)
    ]


def test_results_come_in_the_jobs_order_and_at_most_so_many_run_at_a_time(tmp_path, monkeypatch):
    note = f"open({str(tmp_path / 'times')!r}, 'a').write('%s %d\\n' % (time.time(), {{}}))"
    codes = [f"import time; {note.format(1)}; time.sleep({0.8 - 0.2 * n}); {note.format(-1)}" for n in range(4)]
    results = run.run_jobs(fake_jobs(tmp_path, monkeypatch, codes), dict(os.environ), workers=2, say=lambda line: None)
    assert [result.notebook for result in results] == ["job0", "job1", "job2", "job3"]
    events = sorted(line.split() for line in (tmp_path / "times").read_text().splitlines())
    running = [sum(int(change) for _, change in events[: n + 1]) for n in range(len(events))]
    assert len(events) == 8 and max(running) <= 2


def test_an_error_stops_what_runs_and_nothing_new_begins(tmp_path, monkeypatch):
    jobs, begun = fake_jobs(tmp_path, monkeypatch, ["import time; time.sleep(600)"] * 3), []

    def begin(job):
        begun.append(job.name)
        if len(begun) == 2:
            raise OSError("no such kernel")

    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with pytest.raises(OSError, match="no such kernel"):
        run.run_jobs(jobs, dict(os.environ), workers=2, begin=begin)
    assert begun == ["job0", "job1"]
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before


def test_ctrl_c_leaves_no_kernel_behind(course, tmp_path):
    import signal

    source = f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    folder = tmp_path / "notebooks"
    folder.mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbformat.write(notebook, folder / "00_long.ipynb")
    start = [sys.executable, "-m", "lib.course", "--folder", str(folder), "run", "--runs", str(tmp_path / "runs")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # a shell that runs the tests in the background has them ignore Ctrl-C, and what they start inherits that
    heed = {} if os.name == "nt" else {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = subprocess.Popen(start, **pipes, **heed)
    _wait_for(tmp_path / "pid")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "interrupted" in errors and "Traceback" not in errors
    _assert_gone(int((tmp_path / "pid").read_text()))


def _wait_for(path: Path):
    for _ in range(2400):
        if path.is_file() and path.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} did not appear")


def _assert_gone(pid: int):
    for _ in range(600):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    raise AssertionError(f"process {pid} goes on")


# --- the gallery's parts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '[{"a": 1}]'])
def test_a_results_file_that_is_broken_is_said_on_the_card(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    assert results_table(tmp_path / "results.json", tmp_path)["note"] == "results.json is not a list of results"


def test_a_table_of_results_has_what_matters_first_and_bookkeeping_last(tmp_path):
    """Numbers of other categories stay in the file; a number's protocol stands beside its metric."""
    same = {"commit": "abc", "seed": 0, "unit": "world unit", "category": "all", "low": 0.1, "high": 0.3, "n": 12}
    rows = [
        {
            "protocol": protocol,
            "steps": 5 + number,
            "value": 0.2 + number,
            "metric": "chamfer_distance",
            "system": "ours",
        }
        for number, protocol in enumerate(["view", "none", "raw"])
    ]
    rows = [same | row for row in rows] + [same | rows[0] | {"category": "chair"}]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    made = results_table(tmp_path / "results.json", tmp_path)
    first = "ours|chamfer distance, view|0.2|world unit|0.1|0.3|12|5"
    assert "|".join(re.findall("<th>(.*?)</th>", made["html"])) == "system|metric|value|unit|low|high|n|steps"
    cells = re.findall("<td>(.*?)</td>", made["html"])
    assert "|".join(cells[:8]) == first and cells[9::8] == ["chamfer distance", "chamfer distance, raw"]
    assert made["note"] == "category all · seed 0" and made["more"] == 0
    assert made["link"] == made["name"] == "results.json"
    assert results_table(tmp_path / "results.json", tmp_path / "elsewhere")["name"] == "results.json"


def test_title_and_purpose_are_plain_text():
    def first(text):
        return heading_and_purpose(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]), "00_x")

    assert first("# Title\nThe *purpose* of [it](http://x).\n\nMore.") == ("Title", "The purpose of it.")
    assert first("# Title\n\n![picture](x.png)\n\nThe purpose.") == ("Title", "The purpose.")
    assert first("No heading") == ("00_x", "No heading")


def test_formulas_become_mathml_and_code_stays(tmp_path):
    text = "`$a$` and $b_1$\n\n```\n$c$\n```\n$$\\frac{d}{e}$$\n\n\\$f and $\\nonsense{$"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]), tmp_path / "x.ipynb")
    page = render_notebook(tmp_path / "x.ipynb")
    assert page.count("<math") == 2 and "<mfrac>" in page and 'display="block"' in page
    assert "<code>$a$</code>" in page and "$c$" in page and "$f" in page


def test_folded_answers_stay_folded(tmp_path):
    text = "**Predict.** Why?\n\n<details><summary>What came out</summary>\n\nthe *answer*\n\n</details>\n\nafter"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]), tmp_path / "x.ipynb")
    page = render_notebook(tmp_path / "x.ipynb")
    folded = page[page.index("<details>") : page.index("</details>")]
    assert "<em>answer</em>" in folded and "after" not in folded and page.count("</details>") == 1


def test_memory_is_shown_in_readable_units():
    assert [run.format_memory(value) for value in (3.2, 840.4, 1536.0)] == ["3 MB", "840 MB", "1.5 GB"]


def test_a_mistyped_profile_starts_nothing(tmp_path):
    with pytest.raises(InputError, match="profile: 'Quick' is none of quick, full"):
        run_folder("00_good", "Quick", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
