"""The house: who may import whom, how long modules are, how calmly they are written.

`arte.howto.house` and `arte.howto.measure` read the source. The first tests hold the package to
its rules; the others feed small packages with one fault each, and see that it is found.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from arte.howto.house import (
    circle,
    documentation_faults,
    imports,
    misplaced,
    too_full,
    too_long,
    undocumented,
)
from arte.howto.measure import BOUNDS, measure

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "arte"


def listed(lines):
    return f"{len(lines)}:\n" + "\n".join(lines)


# The package


def test_imports_go_one_way():
    wrong = misplaced(imports(PACKAGE))
    assert not wrong, listed(wrong)


def test_no_modules_import_each_other_in_a_circle():
    found = circle(imports(PACKAGE))
    assert not found, " → ".join(found)


def test_no_module_is_too_long():
    long = too_long(PACKAGE)
    assert not long, listed(long)


def test_no_folder_has_too_many_modules():
    full = too_full(PACKAGE)
    assert not full, listed(full)


def test_everything_public_is_documented():
    faults = undocumented(PACKAGE)
    assert not faults, listed(faults)


@pytest.fixture(scope="module")
def figures():
    return measure(PACKAGE)


@pytest.mark.parametrize("name", BOUNDS)
def test_lines_are_calm(figures, name):
    assert figures[name] <= BOUNDS[name], f"{name}: {figures[name]:.4g}, at most {BOUNDS[name]}"


def test_the_script_prints_the_figures():
    done = subprocess.run(
        [sys.executable, "tools/measure.py", "arte"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name in BOUNDS:
        assert name in done.stdout


# What a reader adds to the package

PARTS = ["ROMAN = ", "NUMBERS = ", "READABLE = ", "SHORTEST = ", "PROGRAMS = ", "LABELS = "]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_ones_own_takes_at_most_15_lines(part):
    page = json.loads((ROOT / "nbs/howto/extend.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in page["cells"] if cell["cell_type"] == "code"]
    (cell,) = [cell for cell in cells if f"\n{part}" in cell]
    lines = [line for line in cell.splitlines() if line.strip()]
    assert len(lines) <= 15, f"{part.strip(' =')}: {len(lines)} lines"


# Small packages with a fault


@pytest.fixture
def package(tmp_path):
    "A function that writes modules and returns the package's folder."

    def write(**files):
        for name, text in files.items():
            file = tmp_path / "tiny" / (name.replace("__", "/") + ".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path / "tiny"

    return write


WRONG = [
    "import tiny.run.report",
    "import tiny.run.report as r",
    "from tiny.run.report import title",
    "from tiny.run import report",
    "from ..run.report import title",
    "from ..run import report",
    "def f():\n    from ..run import report",
    "try:\n    from ..run import report\nexcept ImportError:\n    pass",
]


@pytest.mark.parametrize("text", WRONG)
def test_an_import_against_the_order_is_found(package, text):
    folder = package(core__words=text, run__report="title = 1")
    assert misplaced(imports(folder)) == [
        "core.words imports run.report, which comes later in the order"
    ]


RIGHT = [
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..run.report import title",
    "import json\nimport run.report",
    "from . import __version__",
]


@pytest.mark.parametrize("text", RIGHT)
def test_other_imports_are_no_fault(package, text):
    folder = package(core__words=text, run__report="title = 1")
    assert not imports(folder)["core.words"]


def test_the_methods_modules_have_an_order(package):
    folder = package(irt="from .pairs import a", pairs="from .irt import b")
    assert misplaced(imports(folder)) == ["irt imports pairs, which comes later in the order"]
    folder = package(irt="b = 1")
    assert not misplaced(imports(folder))


def test_a_subfolder_belongs_to_its_folder(package):
    folder = package(data__generated__dates="from ...models.train import a", models__train="a = 1")
    assert len(misplaced(imports(folder))) == 1


def test_a_folder_outside_of_the_house_is_refused(package):
    folder = package(attic__box="from ..core.words import a", core__words="a = 1")
    with pytest.raises(ValueError, match="attic.box is in no room"):
        misplaced(imports(folder))


def test_a_circle_is_found(package):
    folder = package(
        core__a="from .b import x",
        core__b="def f():\n    from .c import x",
        core__c="from . import a",
    )
    assert set(circle(imports(folder))) == {"core.a", "core.b", "core.c"}
    package(core__c="x = 1")
    assert not circle(imports(folder))


def test_a_long_module_is_found(package):
    body = "\n".join(f"x{i} = {i}\n# a comment counts\n" for i in range(150))
    nbdev = "# %% auto #0\n__all__ = ['x0',\n 'x1']\n\n# %% ../a.ipynb #1\n"
    folder = package(core__a=nbdev + body)
    assert not too_long(folder)
    package(core__a=nbdev + body + "y = 1\n")
    assert too_long(folder) == ["core.a: 301 lines"]


def test_a_full_folder_is_found(package):
    folder = package(**{f"core__m{i}": "x = 1" for i in range(10)}, core__deep__m="x = 1")
    assert not too_full(folder)
    package(core__m10="x = 1")
    assert too_full(folder) == ["core: 11 modules"]


DOCUMENTED = """
def area(
    width: float,  # in metres
    # in metres, too, but with
    # more to say
    height: float,
    *rest,  # further sides
    unit: str = "m",  # of both
    **more,  # anything
) -> float:
    "Return the area."
"""
UNDOCUMENTED = {
    "has no docstring": DOCUMENTED.replace('"Return the area."', "pass"),
    "begins with 'The'": DOCUMENTED.replace("Return the", "The"),
    "begins with 'What'": DOCUMENTED.replace("Return the area", "What: is the area"),
    "'width' has no comment": DOCUMENTED.replace("  # in metres\n", "\n"),
    "'rest' has no comment": DOCUMENTED.replace("  # further sides", ""),
    "'unit' has no comment": DOCUMENTED.replace("  # of both", ""),
    "'more' has no comment": DOCUMENTED.replace("  # anything", ""),
}


def test_a_documented_function_is_no_fault():
    assert not documentation_faults(DOCUMENTED)
    assert not documentation_faults("def _own(a): pass")


@pytest.mark.parametrize("fault", UNDOCUMENTED)
def test_missing_documentation_is_found(fault):
    faults = documentation_faults(UNDOCUMENTED[fault])
    assert len(faults) == 1 and fault in faults[0]
    body = UNDOCUMENTED[fault].strip().replace("\n", "\n    ")
    inside = documentation_faults(f'class Shape:\n    "A shape."\n\n    {body}\n')
    assert len(inside) == 1 and inside[0].startswith("Shape.area")


BUSY = {
    "lines a function, p99": "def f():\n" + "    x = 1\n" * 25,
    "expressions a statement, p90": "x = a + b + c + d + e + f + g",
    "comprehensions in 100 statements": "x = [a for a in b]\n" + "y = 1\n" * 18,
    "nested comprehensions": "x = [[a for a in b] for b in c]",
    "calls with six or more positional arguments": "f(1, 2, 3, 4, 5, 6)",
}


@pytest.mark.parametrize("name", BUSY)
def test_a_busy_line_is_found(package, name):
    folder = package(core__a=BUSY[name])
    assert measure(folder)[name] > BOUNDS[name]
    assert measure(package(core__a="x = 1"))[name] <= BOUNDS[name]
