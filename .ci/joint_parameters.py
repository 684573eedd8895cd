"""Documents `x_0, eps: ...` for each of its parameters, so that the reference knows their types."""

import re
from typing import Any

import griffe

JOINT = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +.*)*)$", re.MULTILINE)


def separate(docstring: str) -> str:
    """A docstring in which every parameter, or attribute, has a line of its own."""

    def lines(joint: re.Match[str]) -> str:
        indent, names, text = joint.groups()
        return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))

    head, section, body = docstring.partition("\nArgs:\n")
    parameters, blank, rest = body.partition("\n\n")
    return head + section + JOINT.sub(lines, parameters) + blank + rest


class JointParameters(griffe.Extension):
    """What mkdocstrings calls for every function that it reads."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Separates the parameters in the docstring of a function."""
        if func.docstring:
            func.docstring.value = separate(func.docstring.value)
