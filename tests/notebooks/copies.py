"""Find code of the package that somebody has typed again, under the same or under other names.

Code is compared as syntax trees in which each variable is replaced by the number of its first
appearance. So a copy is found even when its variables have other names.
"""

import ast

SHORTEST = 12  # nodes of a syntax tree; two people write shorter expressions alike by chance


def defined_names(source):
    """Every name that a piece of code gives a meaning to by def, class or =."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def fingerprints(source, called=frozenset()):
    """The body of each function, and each longer value that is assigned or returned.

    Values that call one of the functions in `called` are left out: they use it, which is no copy.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            yield _without_names(body, {})
        elif isinstance(node, ast.Lambda):
            yield _without_names([ast.Return(node.body)], {})
        elif isinstance(node, (ast.Assign, ast.AugAssign, ast.Return)) and node.value is not None:
            parts = list(ast.walk(node.value))
            functions = {part.func.id for part in parts if _calls_by_name(part)}
            if len(parts) >= SHORTEST and called.isdisjoint(functions):
                yield _without_names(node.value, {})


def _calls_by_name(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def _without_names(node, numbers):
    """A syntax tree as nested tuples, with numbers for variables."""
    if isinstance(node, ast.Name):
        return numbers.setdefault(node.id, len(numbers))
    if isinstance(node, list):
        return tuple(_without_names(child, numbers) for child in node)
    if isinstance(node, ast.AST):
        children = (_without_names(child, numbers) for _, child in ast.iter_fields(node))
        return (type(node).__name__, *children)
    return repr(node)
