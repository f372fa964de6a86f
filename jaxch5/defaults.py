"""Defaults of functions, read from their source.

A default stands once, in the signature of the function that it belongs to. The configuration and
the command line read it there without importing the function, which would import jax.
"""

from __future__ import annotations

import ast
import pkgutil
from functools import cache
from typing import Any


def default_of(function: str, parameter: str) -> Any:
    """Returns the default of a function's parameter, of a class's field, or a module's constant.

    Args:
        function: Module, below `jaxch5`, and name, as in "data.block:DataBlock.load"; a module
            alone has constants.
        parameter: Name of the parameter. Its default is a literal, a constant of the module, or
            a function that has a name.

    Example:
        >>> default_of("optim.schedule:one_cycle", "div")
        25.0
        >>> default_of("training.recipe:Recipe", "loss")
        'cross_entropy'
    """
    module, _, path = function.partition(":")
    names = inner = _names_in(module)
    for name in filter(None, path.split(".")):
        node = inner[name]
        inner = _defined(node.body) if isinstance(node, ast.ClassDef) else _defaults(node.args)
    default = inner[parameter]
    while isinstance(default, ast.Name):
        if not isinstance(names.get(default.id), ast.expr):
            return default.id
        default = names[default.id]
    return ast.literal_eval(default)


@cache
def _names_in(module: str) -> dict[str, Any]:
    source = pkgutil.get_data("jaxch5", f"{module.replace('.', '/')}.py")
    assert source is not None
    return _defined(ast.parse(source).body)


def _defined(body: list[ast.stmt]) -> dict[str, Any]:
    """Returns the functions and classes of a module or class, and the values of its constants."""
    found: dict[str, Any] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node.value for target in targets if isinstance(target, ast.Name)}
    return found


def _defaults(arguments: ast.arguments) -> dict[str, Any]:
    last = arguments.args[len(arguments.args) - len(arguments.defaults) :]
    both = [*last, *arguments.kwonlyargs], [*arguments.defaults, *arguments.kw_defaults]
    return {argument.arg: default for argument, default in zip(*both, strict=True)}
