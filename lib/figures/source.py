"""The code that is the formula: sources of functions of this package, shown in a notebook."""

import inspect
import textwrap
from collections.abc import Callable


def show_source(*functions: Callable):
    """Display the source of functions as it stands in the package, docstrings left out; an IPython Markdown object."""
    from IPython.display import Markdown

    return Markdown("\n\n".join(f"```python\n{source_of(function)}\n```" for function in functions))


def source_of(function: Callable) -> str:
    """Source of a function or class without the docstring at its top, not indented.

    Raises
    ------
    OSError
        It was not read from a file.
    """
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    documentation = inspect.getdoc(function)
    opening = source.find('"""')
    if not documentation or opening < 0:
        return source.rstrip()
    end = source.index('"""', opening + 3) + 3
    return (source[:opening].rstrip() + "\n" + source[end:].lstrip("\n")).rstrip()
