"""Read the sections of our docstrings as Griffe names them."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
_DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)  # outside of a section of examples
_PARAGRAPH = re.compile(r"^(Bias|References): ?", re.MULTILINE)


class Sections(griffe.Extension):
    """`Example:` is a section of examples; `Bias:` and `References:` are words in bold."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change an object's docstring before it is parsed."""
        del kwargs
        if obj.docstring is not None:
            text = _EXAMPLE.sub("Examples:", obj.docstring.value)
            text = _DOCTEST.sub(lambda found: f"```pycon\n{found[0]}\n```", text)
            obj.docstring.value = _PARAGRAPH.sub(r"**\1.** ", text)
