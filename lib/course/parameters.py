"""The ``parameters`` cell of a notebook: read it, and check what a reader asks for before anything runs."""

import ast
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import papermill

from lib.course.build import read_notebook
from lib.course.outputs import tags
from lib.errors import InputError

KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "list": "a list such as [1, 2]",
    "dict": 'a dictionary such as {"a": 1}',
    "str": "text",
}
CHOICES = re.compile(r"[\w.\-]+(?:\s*\|\s*[\w.\-]+)+")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a notebook.

    Attributes
    ----------
    default : Any
        A literal; the quick profile's value.
    kind : str
        Name of its type, one of `KINDS`.
    choices : tuple of str
        The only values allowed, read from a comment that begins with ``a | b``; empty means no such limit.
    """

    default: Any
    kind: str
    choices: tuple[str, ...] = ()


def read_parameters(path: Path) -> dict[str, Parameter]:
    """Read the parameters of a notebook without running it.

    Raises
    ------
    InputError
        Two cells are tagged ``parameters``, or theirs holds anything but names set to literals: values derived there
        go stale, because papermill injects after this cell.
    """
    sources = [cell.source for cell in read_notebook(path).cells if "parameters" in tags(cell)]
    if len(sources) > 1:
        raise InputError(f"notebook {path.stem} has {len(sources)} cells tagged 'parameters': keep one")
    written = papermill.inspect_notebook(path)
    if sources and len(ast.parse(sources[0]).body) != len(written):
        raise InputError(
            f"the parameters cell of notebook {path.stem} must hold names set to literals, each on lines of its own "
            "with one '=': move everything else to the next cell"
        )
    found = {}
    for name, about in written.items():
        try:
            default = ast.literal_eval(about["default"])
        except (ValueError, SyntaxError):
            raise InputError(
                f"parameter '{name}' of notebook {path.stem} is not set to a literal: move it to the next cell"
            ) from None
        annotation = about["inferred_type_name"].split("[")[0]  # list[str] is a list
        kind = type(default).__name__ if annotation == "None" else annotation
        if kind not in KINDS:
            raise InputError(f"parameter '{name}' of notebook {path.stem} is a {kind}: use {', '.join(KINDS)}")
        choices = CHOICES.match(about["help"])
        found[name] = Parameter(default, kind, tuple(re.split(r"\s*\|\s*", choices[0])) if choices else ())
    return found


def convert(text: str, name: str, parameter: Parameter, notebook: str) -> Any:
    """Turn the text of a command line into the parameter's type.

    Raises
    ------
    InputError
        Where the text is not of that type, or not one of the choices.
    """
    try:
        if parameter.kind == "str":
            value: Any = text
        elif parameter.kind == "float":
            value = float(text)
        else:
            value = ast.literal_eval(text.capitalize() if parameter.kind == "bool" else text)
    except (ValueError, SyntaxError):
        value = None
    if type(value).__name__ != parameter.kind or (parameter.choices and str(value) not in parameter.choices):
        wanted = " or ".join(parameter.choices) or KINDS[parameter.kind]
        raise InputError(f"parameter '{name}' of notebook {notebook} must be {wanted}, not '{text}'")
    return value


def check_parameters(
    asked: Sequence[tuple[str, str]], known: Mapping[str, Mapping[str, Parameter]]
) -> dict[str, dict[str, Any]]:
    """Give each notebook its own parameters, converted to their types.

    Parameters
    ----------
    asked : sequence of (name, text)
        As given on the command line.
    known : mapping notebook -> name -> Parameter
        The notebooks that will run; one that does not have a parameter runs without it.

    Raises
    ------
    InputError
        Where none of the notebooks has the parameter, or its text is of the wrong type.
    """
    chosen: dict[str, dict[str, Any]] = {notebook: {} for notebook in known}
    for name, text in asked:
        owners = [notebook for notebook, parameters in known.items() if name in parameters]
        if not owners:
            names = sorted({parameter for parameters in known.values() for parameter in parameters})
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean '{near[0]}'" if near else f"known are {', '.join(names) or 'none'}"
            who = f"notebook {next(iter(known))} has no" if len(known) == 1 else "none of the chosen notebooks has a"
            raise InputError(f"{who} parameter '{name}': {hint}")
        for notebook in owners:
            chosen[notebook][name] = convert(text, name, known[notebook][name], notebook)
    return chosen
