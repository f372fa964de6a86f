"""Reads the defaults of functions from their source code.

A default is stated once, in the signature of the function that it belongs to. The configuration and
the command line read it from the source code, because importing the function would import jax.
"""

from __future__ import annotations

import ast
import pkgutil
import re
from functools import cache
from typing import Any


def default_of(function: str, parameter: str) -> Any:
    """Returns the default of a function's parameter or a class's field, or a module's constant.

    Args:
        function: Module below `jaxch5`, a colon, and the name of the function or class, as in
            "data.block:DataBlock.load"; for a constant, the module alone.
        parameter: Name of the parameter, field or constant. Its value has to be a literal,
            the name of a constant in the module, or a function, whose name is then returned.

    Example:
        >>> default_of("optim.schedule:one_cycle", "div")
        25.0
        >>> default_of("data.block:DataBlock", "sampler")
        'shuffled'
    """
    module, _, path = function.partition(":")
    default: Any = ast.Name(parameter)
    if path:
        name, *inner = path.split(".")
        node = _defined(module, name)
        for name in inner:
            node = next(each for each in node.body if getattr(each, "name", None) == name)
        default = _defaults(node)[parameter]
    while isinstance(default, ast.Name):
        value = getattr(_defined(module, default.id), "value", None)
        if value is None:
            return default.id
        default = value
    return ast.literal_eval(default)


@cache
def _defined(module: str, name: str) -> Any:
    """Returns the definition of a name at the top level of a module; None if it is imported."""
    source = pkgutil.get_data("jaxch5", f"{module.replace('.', '/')}.py")
    assert source is not None
    # Every command waits for this. Parsing the definition alone takes a fifth of the time that
    # parsing the module takes.
    statement = rf"^(?:(?:def|class) {name}\b|{name}\b.* = ).*(?:\n(?:[ )].*)?)*"
    found = re.search(statement, source.decode(), re.MULTILINE)
    return found and ast.parse(found[0]).body[0]


def _defaults(node: ast.FunctionDef | ast.ClassDef) -> dict[str, Any]:
    if isinstance(node, ast.ClassDef):
        fields = (each for each in node.body if isinstance(each, ast.AnnAssign))
        return {each.target.id: each.value for each in fields if isinstance(each.target, ast.Name)}
    arguments = node.args
    last = arguments.args[len(arguments.args) - len(arguments.defaults) :]
    both = [*last, *arguments.kwonlyargs], [*arguments.defaults, *arguments.kw_defaults]
    return {argument.arg: default for argument, default in zip(*both, strict=True)}
