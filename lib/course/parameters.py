"""The ``parameters`` cell of a notebook: read it, and check what a reader asks for before anything runs."""

import ast
import difflib
import io
import re
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbformat import NotebookNode

from lib.errors import InputError

KINDS = {  # in the order in which a text is tried
    "NoneType": "none",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "list": "a list such as [1, 2]",
    "dict": 'a dictionary such as {"a": 1}',
    "str": "text",
}
CHOICES = re.compile(r"^\s*([\w.\-]+(?:\s*\|\s*[\w.\-]+)+)")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a notebook.

    Attributes
    ----------
    name : str
    default : Any
        A literal; the quick profile's value.
    kinds : tuple of str
        Names of the types it may have, out of `KINDS`; empty means any literal.
    choices : tuple of str
        The only values allowed, read from a comment that begins with ``a | b``; empty means no such limit.
    """

    name: str
    default: Any
    kinds: tuple[str, ...]
    choices: tuple[str, ...] = ()


def parameters_cell(notebook: NotebookNode, name: str) -> NotebookNode | None:
    """Give the only cell tagged ``parameters``, or None; `InputError` where there are two."""
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) > 1:
        raise InputError(f"notebook {name} has {len(cells)} cells tagged 'parameters': keep one")
    return cells[0] if cells else None


def read_parameters(notebook: NotebookNode, name: str) -> dict[str, Parameter]:
    """Read the parameters of a notebook without running it.

    Raises
    ------
    InputError
        Where the cell holds anything but names set to literals: values derived there go stale, because
        papermill injects after this cell.
    """
    cell = parameters_cell(notebook, name)
    if cell is None:
        return {}
    comments = _comments(cell.source)
    found = {}
    for statement in ast.parse(cell.source).body:
        parameter = _read_statement(statement, comments, name)
        found[parameter.name] = parameter
    return found


def _read_statement(statement: ast.stmt, comments: Mapping[int, str], notebook: str) -> Parameter:
    target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
    value = getattr(statement, "value", None)
    try:
        if not isinstance(target, ast.Name) or isinstance(statement, ast.AugAssign):
            raise ValueError
        default = ast.literal_eval(value)
    except ValueError:
        raise InputError(
            f"line {statement.lineno} of the parameters cell of {notebook} is not a name set to a literal: "
            "move it to the next cell"
        ) from None
    annotation = getattr(statement, "annotation", None)
    kinds = _annotated_kinds(annotation) if annotation else _kinds_of(default)
    if not set(kinds) <= set(KINDS):
        raise InputError(
            f"parameter '{target.id}' of {notebook} is a {kinds[0]}: papermill passes {', '.join(KINDS)} only"
        )
    choices = CHOICES.match(comments.get(statement.end_lineno, ""))
    return Parameter(target.id, default, kinds, tuple(re.split(r"\s*\|\s*", choices[1])) if choices else ())


def _kinds_of(default: Any) -> tuple[str, ...]:
    return () if default is None else (type(default).__name__,)


def _annotated_kinds(annotation: ast.expr) -> tuple[str, ...]:
    """``int | None`` -> ("int", "NoneType"); ``list[str]`` -> ("list",)."""
    if isinstance(annotation, ast.BinOp):
        return _annotated_kinds(annotation.left) + _annotated_kinds(annotation.right)
    if isinstance(annotation, ast.Subscript):
        return _annotated_kinds(annotation.value)
    if isinstance(annotation, ast.Constant):
        return ("NoneType",)
    return (ast.unparse(annotation),)


def _comments(source: str) -> dict[int, str]:
    """Map line number -> text of the comment at its end."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("#") for token in tokens if token.type == tokenize.COMMENT}


def convert(text: str, parameter: Parameter, notebook: str) -> Any:
    """Turn the text of a command line into the parameter's type.

    Raises
    ------
    InputError
        Where the text is not of that type, or not one of the choices.
    """
    for kind in sorted(parameter.kinds, key=list(KINDS).index) if parameter.kinds else ["literal"]:
        try:
            value = _CONVERTERS[kind](text)
        except (ValueError, SyntaxError):
            continue
        if parameter.choices and str(value) not in parameter.choices:
            break
        return value
    wanted = " or ".join(parameter.choices or [KINDS[kind] for kind in parameter.kinds])
    raise InputError(f"parameter '{parameter.name}' of notebook {notebook} must be {wanted}, not '{text}'")


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


def _none(text: str) -> None:
    if text.lower() not in ("none", "null"):
        raise ValueError


def _container(kind: type) -> Any:
    def read(text: str) -> Any:
        value = ast.literal_eval(text)
        if not isinstance(value, kind):
            raise ValueError
        return value

    return read


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


_CONVERTERS = {
    "NoneType": _none,
    "bool": _boolean,
    "int": int,
    "float": float,
    "list": _container(list),
    "dict": _container(dict),
    "str": str,
    "literal": _literal,
}


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
            raise InputError(_unknown(name, known))
        for notebook in owners:
            chosen[notebook][name] = convert(text, known[notebook][name], notebook)
    return chosen


def _unknown(name: str, known: Mapping[str, Mapping[str, Parameter]]) -> str:
    names = sorted({parameter for parameters in known.values() for parameter in parameters})
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{near[0]}'" if near else f"known are {_listed(names)}"
    who = f"notebook {next(iter(known))} has no" if len(known) == 1 else "none of the chosen notebooks has a"
    return f"{who} parameter '{name}': {hint}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
