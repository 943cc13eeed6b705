"""No validation item is a test item, however written; BIG-bench cut short, changed or missing."""

import io
import json
import random
import re
import sys
import tarfile
import types
from collections import Counter
from pathlib import Path

import pytest

from arte.core import tasks
from arte.data import bigbench
from arte.data.fetch import hub as hub_module
from arte.data.places import OutOfReach
from arte.core.answers import options
from arte.data.bigbench_form import PROGRAMMATIC, bigbench_name
from arte.data.bigbench import bigbench_source, load_bigbench
from arte.data.repeats import contradictory, distinct, stem
from arte.data.validation import validation_counts, validation_items, validation_pool
from arte.data.bbh import bbh_source, load_bbh
from arte.core.tasks import builtin_tasks

TASKS = tuple(builtin_tasks())
WITH_FILES = [t for t in TASKS if t not in PROGRAMMATIC]


@pytest.fixture(scope="module")
def data():
    "Both collections in folders."
    if not (isinstance(bbh_source(), Path) and isinstance(bigbench_source(), Path)):
        pytest.skip("no folders with BBH and BIG-bench (ARTE_DATA, ARTE_BIGBENCH)")


# Other ways to write a question. Each keeps what it says.


def shuffled(question, rng):
    "Options in another order under new letters."
    body, _, tail = question.partition("\nOptions:\n")
    words = list(options(question).values())
    if not words:
        return question
    rng.shuffle(words)
    return "\n".join(
        [
            body,
            "Options:",
            *(f"({'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[i]}) {w}" for i, w in enumerate(words)),
        ]
    )


def in_one_line(question, rng):
    return " ".join(shuffled(question, rng).split())


def louder(question, rng):
    return question.upper()


def spaced(question, rng):
    return "  " + re.sub(r"\s", lambda m: m[0] * rng.randint(1, 3), question) + "\n"


def unpunctuated(question, rng):
    return re.sub(r"""[.?!'"](?!\d)""", "", question)


def bullets(question, rng):
    return re.sub(r"^\([A-Z]\) ", "- ", shuffled(question, rng), flags=re.M)


def lower_letters(question, rng):
    return re.sub(r"^\(([A-Z])\) ", lambda m: f"{m[1].lower()}) ", question, flags=re.M)


REFORMATS = (shuffled, in_one_line, louder, spaced, unpunctuated, bullets, lower_letters)


def plain(question):
    """What a question says, in another way than `stem` finds it.

    Letters, digits and brackets of the lines, which are sorted after the first.
    """
    lines = re.sub(r"^(\([A-Z]\)|-) ", "", question, flags=re.M).casefold().splitlines()
    return tuple(sorted(re.sub(r"[^\w()\[\]{}<>+*=-]", "", o) for o in lines))


@pytest.mark.parametrize("task", TASKS)
def test_no_validation_item_is_a_test_item(data, task):
    bbh, val = load_bbh(task), validation_pool(task, 100, seed=0, test=load_bbh(task))
    assert len(val) == len({o.item for o in val}) == len({stem(o.question) for o in val}) == 100
    tested = distinct(bbh, val)
    assert tested and {o.item for o in tested}.isdisjoint(o.item for o in val)
    assert {plain(o.question) for o in tested}.isdisjoint(plain(o.question) for o in val)
    known, rng = {stem(o.question) for o in tested}, random.Random(task)
    for o in val:
        for reformat in REFORMATS:
            other = reformat(o.question, rng)
            assert stem(other) == stem(o.question), reformat.__name__
            assert stem(other) not in known


@pytest.mark.parametrize("task", TASKS)
def test_a_test_item_in_another_dress_is_found(data, task):
    "Conversely, `distinct` stops rewritten BBH items, and lets different ones pass."
    bbh, rng = load_bbh(task), random.Random(task)
    for reformat in REFORMATS:
        rewritten = [
            tasks.Item("another id", task, "val", reformat(o.question, rng), o.answer, o.kind)
            for o in bbh
        ]
        assert distinct(rewritten, bbh) == [], reformat.__name__
    unclear = {plain(o.question) for o in contradictory(bbh)}  # with two answers
    assert len(distinct(bbh)) == len({plain(o.question) for o in bbh} - unclear)


@pytest.mark.parametrize("task", TASKS)
def test_origins(data, task):
    bbh = {o.item for o in load_bbh(task)}
    other = "generated" if task in PROGRAMMATIC else "bigbench"
    chosen = validation_items(task, 100, seed=3, test=load_bbh(task))
    assert set(chosen) == {other, "bbh held out"}
    for origin, items in chosen.items():
        for o in items:
            assert origin == ("bbh held out" if o.item in bbh else other)
            assert (o.task, o.split, o.kind) == (task, "val", builtin_tasks()[task].kind)


@pytest.mark.parametrize("task", WITH_FILES)
def test_written_as_bbh_writes_it(data, task):
    """Examples that BBH has too: the same question and the same answer.

    The same text, apart from the order of options and options torn at a comma.
    """
    bbh, shared = load_bbh(task), 0
    theirs = {stem(o.question): o for o in bbh}
    for o in load_bigbench(task):
        b = theirs.get(stem(o.question))
        if b is None:
            continue
        shared += 1
        ours, bbhs = options(o.question), options(b.question)
        assert o.question.partition("\nOptions:")[0] == b.question.partition("\nOptions:")[0]
        if o.question != b.question:
            assert sorted(", ".join(ours.values()).split(", ")) == sorted(
                ", ".join(bbhs.values()).split(", ")
            )
        right, theirs_right = ours.get(o.answer, o.answer), bbhs.get(b.answer, b.answer)
        both = (
            len({x.answer for x in bbh if x.question == b.question}) == 2
        )  # two questions of causal judgement, each with both answers
        assert both or right.split(",")[0] == theirs_right.split(",")[0]
    assert shared


@pytest.mark.parametrize("task", WITH_FILES)
def test_all_examples_have_the_form(data, task):
    "Every converted example has lines, kinds of options and kinds of answers as in BBH."

    def answer(o):
        return (
            "letter"
            if o.answer in options(o.question)
            else o.answer
            if o.kind in ("yesno", "valid")
            else o.kind
        )

    def form(o):
        return (
            o.question.partition("\nOptions:")[2].count("\n- "),
            bool(options(o.question)),
            answer(o),
        )

    forms, items = {form(o) for o in load_bbh(task)}, load_bigbench(task)
    for o in items:
        assert form(o) in forms and "\n\n" not in o.question and o.question == o.question.strip()
        if o.kind == "option":
            assert o.answer in options(o.question)
    if items[0].kind in ("option", "yesno", "valid"):
        assert max(Counter(o.answer for o in items).values()) < 0.7 * len(
            items
        )  # no answer is right most of the time


def test_counts(data):
    c = validation_counts()
    assert list(c.index) == list(TASKS) and c.loc[list(PROGRAMMATIC), "generated"].eq(100).all()
    assert (
        (c.bigbench == c.in_bbh + c.repeated + c.left).all()
        and (c.bbh - c.held_out == c.test).all()
        and (c.test > 0).all()
    )
    for task in ("causal_judgement", "penguins_in_a_table", "snarks"):
        assert c.held_out[task] > 90


def test_seeds(data):
    for task in ("navigate", "snarks", "web_of_lies"):
        a, b, c = (
            {o.item for o in validation_pool(task, n, seed, load_bbh(task))}
            for n, seed in ((50, 1), (60, 1), (50, 2))
        )
        twice = [validation_pool(task, 50, 1, load_bbh(task)) for _ in range(2)]
        assert twice[0] == twice[1]
        assert a < b and a != c  # asking for more changes none


# Files that are not as they should be

GOOD = {
    "task_prefix": "Walk as you are told. Are you back at the starting point?",
    "examples": [
        {
            "input": "Take 2 steps. Turn around. Take 2 steps.",
            "target_scores": {"True": 1, "False": 0},
        }
    ],
}


def put(folder, content, name="navigate.json"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_truncated_file(tmp_path):
    put(tmp_path, json.dumps(GOOD)[:-30])
    with pytest.raises(
        ValueError,
        match=r"navigate.json is cut short or no task.json .*JSONDecodeError.*fetch it again",
    ):
        load_bigbench("navigate", tmp_path)


def test_truncated_bbh_file(tmp_path):
    put(tmp_path, '{"examples": [{"input": "not True is", "tar', "boolean_expressions.json")
    with pytest.raises(ValueError, match="boolean_expressions.json is cut short"):
        load_bbh("boolean_expressions", tmp_path)


def test_missing_file(tmp_path):
    put(tmp_path, GOOD)
    with pytest.raises(
        FileNotFoundError, match=r"no formal_fallacies_syllogisms_negation.json .*Set ARTE_BIGBENCH"
    ):
        load_bigbench("formal_fallacies", tmp_path)
    with pytest.raises(FileNotFoundError, match="logical_deduction/five_objects/task.json"):
        load_bigbench("logical_deduction_five_objects", tmp_path)


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(examples=None), "cut short or no task.json"),
        (dict(task_prefix=""), "example 0: no instruction that ends in 'starting point\\?'"),
        (
            dict(examples=[{"question": "Take 2 steps.", "target_scores": {"True": 1}}]),
            r"example 0: expected a text `input`, got \['question', 'target_scores'\]",
        ),
        (
            dict(examples=["Take 2 steps."]),
            "example 0: expected a text `input`, got 'Take 2 steps.'",
        ),
        (
            dict(examples=GOOD["examples"] + [{"input": "Take 2 steps."}]),
            "example 1: expected `target_scores`, or a text or texts as `target`",
        ),
        (
            dict(examples=[{"input": "Take 2 steps.", "target_scores": ["True"]}]),
            "expected `target_scores` from choices to numbers",
        ),
        (
            dict(examples=[{"input": "Take 2 steps.", "target_scores": {"True": None}}]),
            "expected `target_scores` from choices to numbers",
        ),
        (dict(examples=[{"input": "Take 2 steps.", "target": [7]}]), "a text or texts as `target`"),
        (
            dict(examples=[{"input": "Take 2 steps.", "target": "maybe"}]),
            "the answer 'maybe' is none of True, False",
        ),
    ],
)
def test_wrong_schema(tmp_path, change, says):
    put(tmp_path, GOOD | change)
    with pytest.raises(ValueError, match=says):
        load_bigbench("navigate", tmp_path)


def test_a_list_is_no_task(tmp_path):
    put(tmp_path, [GOOD])
    with pytest.raises(ValueError, match="cut short or no task.json of BIG-bench"):
        load_bigbench("navigate", tmp_path)


def test_choices_that_cannot_be(tmp_path):
    scores = {f"u{i}": int(i == 1) for i in range(27)}
    put(
        tmp_path,
        {"examples": [{"input": "Which one?", "target_scores": scores}]},
        "ruin_names.json",
    )
    with pytest.raises(ValueError, match="got 27 choices, expected 2 to 26"):
        load_bigbench("ruin_names", tmp_path)
    put(
        tmp_path,
        {
            "examples": [
                {
                    "input": "Which one? (a) This. (b) That.",
                    "target_scores": {"(a)": 1, "(b)": 0, "(c)": 0},
                }
            ]
        },
        "snarks.json",
    )
    with pytest.raises(ValueError, match="no two choices"):
        load_bigbench("snarks", tmp_path)


# Sources


@pytest.fixture
def nowhere(no_hub, tmp_path):
    "No folder, an empty cache, no hub, no package index."
    no_hub.chdir(tmp_path)
    return no_hub


def test_folders(nowhere, tmp_path):
    clone = tmp_path / "BIG-bench"
    clone.mkdir()
    nowhere.setenv("ARTE_BIGBENCH", str(clone))
    with pytest.raises(FileNotFoundError, match="holds no file of BIG-bench.*correct or unset it"):
        bigbench_source()
    put(clone, GOOD, "bigbench/benchmark_tasks/navigate/task.json")
    assert bigbench_source() == clone and len(load_bigbench("navigate")) == 1
    assert len(load_bigbench("navigate", clone / "bigbench/benchmark_tasks")) == 1


def test_below_the_folder_of_all_data(nowhere, tmp_path):
    nowhere.setenv("ARTE_DATA", str(tmp_path / "all"))
    put(tmp_path / "all", GOOD)  # BBH's files have names like BIG-bench's
    assert bigbench_source() is None
    put(tmp_path / "all/bigbench", GOOD)
    assert bigbench_source() == tmp_path / "all/bigbench"


def hub(monkeypatch, rows, asked=None):
    def load(*a, **k):
        if asked is not None:
            asked.append((a, k))
        if isinstance(rows, Exception):
            raise rows
        return {"train": rows[1:], "validation": rows[:1]}

    monkeypatch.setattr(hub_module, "hub_reachable", lambda: True)
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))


def hub_rows(head, examples):
    "Rows as the hub has them: what a model was shown, without the spaces around it."

    def row(i, e):
        scores = e.get("target_scores", {})
        choices = (
            "".join(f"\n  choice: {o}" for o in sorted(scores))
            if head.get("append_choices_to_input", True)
            else ""
        )
        text = (
            head.get("task_prefix", "")
            + head.get("example_input_prefix", "\nQ: ")
            + e["input"]
            + choices
            + head.get("example_output_prefix", "\nA: ")
        )
        target = e.get("target", [o for o, s in scores.items() if s == max(scores.values())][:1])
        return dict(
            idx=i,
            inputs=text.strip(),
            targets=[target] if isinstance(target, str) else target,
            multiple_choice_targets=list(scores),
            multiple_choice_scores=list(scores.values()),
        )

    return [row(i, e) for i, e in enumerate(examples)]


def items_of_hub(folder, task):
    "Items of a file that is made of the hub's rows."
    head, rows = bigbench._hub_rows(task)
    put(folder, head | dict(examples=rows), f"{bigbench_name(task).replace('/', '_')}.json")
    return load_bigbench(task, folder)


@pytest.mark.parametrize("task", WITH_FILES)
def test_hub_rows_give_the_same_items(data, monkeypatch, tmp_path, task):
    from_folder = load_bigbench(task)
    head = json.loads(bigbench._file(bigbench_source(), task).read_text(encoding="utf-8"))
    asked = []
    hub(monkeypatch, hub_rows(head, head["examples"]), asked)
    from_hub = items_of_hub(tmp_path, task)
    assert sorted(o.item for o in from_hub) == sorted(o.item for o in from_folder)
    assert {o.item: o.answer for o in from_hub} == {o.item: o.answer for o in from_folder}
    assert asked[0] == (("tasksource/bigbench", bigbench_name(task).partition("/")[0]), {})


def test_hub_has_all_sizes_in_one(monkeypatch, tmp_path):
    rows = [
        dict(
            idx=n,
            inputs=f"There are {n} birds within each paragraph. The owl is first.",
            targets=[],
            multiple_choice_targets=[f"The bird {i} is first." for i in range(n)],
            multiple_choice_scores=[1] + [0] * (n - 1),
        )
        for n in (3, 5, 7)
    ]
    hub(monkeypatch, rows)
    for size, n in zip(("three", "five", "seven"), (3, 5, 7)):
        (item,) = items_of_hub(tmp_path, f"logical_deduction_{size}_objects")
        assert len(options(item.question)) == n and item.answer == "(A)"


def test_hub_unreachable(nowhere):
    hub(nowhere, OSError("name or service not known"))
    with pytest.raises(OutOfReach, match="OSError: name or service not known") as e:
        load_bigbench("navigate")
    assert "Set ARTE_BIGBENCH" in str(e.value) and "bigbench: http://127.0.0.1:9" in str(e.value)


def test_hub_changed_its_columns(nowhere):
    hub(nowhere, [{"inputs": "Take 2 steps.", "answers": ["True"]}])
    with pytest.raises(
        OutOfReach,
        match="expected the columns inputs, multiple_choice_scores, .*got answers, inputs; the "
        "data set has changed",
    ):
        load_bigbench("navigate")


def archive(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def index(monkeypatch, tmp_path, files):
    "A package index whose archive of BIG-bench has these files."

    def fetch(package, name, sha256, folder):
        assert (package, name) == ("bigbench", "bigbench-1.0.0.tar.gz")
        return archive(folder / name, files)

    monkeypatch.setattr(bigbench, "fetch_from_index", fetch)


def test_archive(nowhere, tmp_path):
    top = "bigbench-1.0.0/bigbench/benchmark_tasks"
    content = json.dumps(GOOD).encode()
    files = {f"{top}/{bigbench_name(task)}/task.json": content for task in WITH_FILES}
    more = {
        f"{top}/other/task.json": b"{}",
        "bigbench-1.0.0/setup.py": b"raise SystemExit",
        f"{top}/navigate/../../../../out.json": b"{}",
    }
    index(nowhere, tmp_path, files | more)
    (item,) = load_bigbench("navigate")
    assert item.answer == "Yes"
    kept = {file.name for file in (tmp_path / "cache/bigbench").iterdir()}
    names = {f"{bigbench_name(task).replace('/', '_')}.json" for task in WITH_FILES}
    assert kept == names | {"origin.json"}
    nowhere.setattr(bigbench, "fetch_from_index", lambda *a: pytest.fail("fetched twice"))
    assert bigbench_source() == tmp_path / "cache/bigbench" and load_bigbench("navigate") == [item]


def test_archive_of_something_else(nowhere, tmp_path):
    index(nowhere, tmp_path, {"bigbench-1.0.0/README.md": b"hello"})
    with pytest.raises(OutOfReach, match="has no .*json and no .*/task.json"):
        load_bigbench("navigate")
    assert not (tmp_path / "cache/bigbench").exists()
