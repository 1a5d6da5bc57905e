"""Print pip constraints: each dependency of the library and of its tests at its lower bound."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))[
    "project"
]
for requirement in project["dependencies"] + project["optional-dependencies"]["test"]:
    bound = re.fullmatch(r"([\w-]+)(?:\[[\w,]+\])?>=([\w.]+).*", requirement)
    if bound is None:
        raise SystemExit(f"{requirement} has no lower bound")
    print(f"{bound[1]}=={bound[2]}")
