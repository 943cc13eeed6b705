"Two controls learn before the teacher writes: what they hold up, and what the report shows."

import pytest

from arte.core.fields import RecipeError
from arte.run.parts import PARTS
from arte.run.pipeline import status
from arte.run.report import write_report
from arte.run.rundir import RunDir
from arte.core.recipes import load_recipe
from support.world import World

FEW = {"controls.examples": 4, "data.n_test": 20}


@pytest.fixture(scope="module")
def world(tiny_model, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield World(patch, tiny_model, tmp_path_factory.mktemp("controls"))


def test_student_that_does_not_learn_stops_the_run(world):
    with pytest.raises(RecipeError, match="after gold solutions the student is right in") as e:
        world.run(FEW | {"controls.margin": 0.6})
    assert "controls.margin: 0" in str(e.value)
    folder = max(world.folder.glob("run-*"), key=lambda f: f.stat().st_mtime_ns)
    stopped = RunDir(folder)
    assert list(stopped.stages) == ["items", "school"] and not stopped.has("drafts")
    assert set(stopped.table("controls").arm) == {"gold", "shuffled"}
    assert "controls     to do" in status(folder)


def test_report_shows_what_they_learned(world):
    run, done = world.run(FEW | {"controls.margin": 0})
    assert {"control-gold", "control-shuffled", "controls"} <= done
    page = write_report(run.folder).read_text()
    assert "gold solutions" in page and "shuffled solutions" in page and "best constant" in page
    questions = set(run.table("items").question)
    examples = run.table("control_examples")
    for question in questions:
        assert not examples.prompt.str.contains(question, regex=False).any()


def test_tasks_without_programs_are_refused():
    changes = {"tasks": ["navigate"], "data.items": "bbh", "teacher.school": None}
    recipe = load_recipe("nano", **changes | {"controls.examples": 10})
    with pytest.raises(RecipeError, match="controls.examples asks for it"):
        PARTS.check(recipe)
