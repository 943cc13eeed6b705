"""A training set and a student are pushed to a hub of our own, through the real client."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
from huggingface_hub import DatasetCard, ModelCard

from arte.models.load import check_folder, load_model
from arte.models.folders import fingerprint
from arte.data.generated.tasks import make_items
from arte.core.settings.method import Student
from arte.run.rundir import RunDir
from arte.core.tasks import items_table
from arte.run.hub.cards import dataset_card, model_card
from arte.run.hub.dataset import tailored_dataset
from arte.run.hub.push import dataset_files, push
from support.hub import TOKEN, FakeHub

REPLAY = Path(__file__).parent.parent / "nbs" / "replay"
TASKS = ("boolean_expressions", "object_counting", "sports_understanding")


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory):
    "Return the recorded run with generated test items and a random model as its students."
    folder = tmp_path_factory.mktemp("hub") / "run"
    shutil.copytree(REPLAY, folder)
    with RunDir(folder, RunDir(REPLAY).recipe) as run:
        tests = [replace(i, split="test") for t in TASKS for i in make_items(t, 20, 7)]
        run.save("items", pd.concat([run.table("items"), items_table(tests)], ignore_index=True))
        for arm in ("original", "arte"):
            shutil.copytree(tiny_model, run.path("models", f"student-{arm}"))
            run.register(f"student-{arm}", run.path("models", f"student-{arm}"))
    return RunDir(folder)


@pytest.fixture
def copied(finished, tmp_path):
    "The same run, to be spoiled."
    shutil.copytree(finished.folder, tmp_path / "run")
    return RunDir(tmp_path / "run")


@pytest.fixture
def hub(monkeypatch):
    server = FakeHub()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.close()


def test_push(finished, hub, tmp_path):
    addresses = push(finished, "arte", "me/tailored")
    assert addresses == [f"{hub.url}/datasets/me/tailored", f"{hub.url}/me/tailored"]
    data, model = hub.repos["dataset", "me/tailored"], hub.repos["model", "me/tailored"]
    assert data["private"] and model["private"]
    assert set(data["files"]) == {"README.md", "train.parquet", "recipe.yaml"}
    for name, content in model["files"].items():
        (tmp_path / name).write_bytes(content)
    assert fingerprint(tmp_path) == finished.models["student-arte"]["fingerprint"]
    assert sum(p.numel() for p in load_model(check_folder(tmp_path)).parameters()) > 0
    cards = (
        DatasetCard(data["files"]["README.md"].decode()),
        ModelCard(model["files"]["README.md"].decode()),
    )
    accuracy = (
        finished.table("results")
        .query("arm == 'arte' and shots == 0")
        .groupby("task")
        .correct.mean()
        .mean()
    )
    assert (
        cards[1].data.eval_results[0].metric_value == round(100 * accuracy, 1)
        and "n = 300" in cards[1].data.eval_results[0].metric_name
    )
    assert (
        cards[1].data.datasets == ["me/tailored"]
        and cards[1].data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    )
    assert all(f"| {task} | " in cards[0].text for task in TASKS)
    sent = pd.read_parquet(BytesIO(data["files"]["train.parquet"]))
    assert f"{24 - len(sent)} examples were left out" in cards[0].text
    for f in (*data["files"].values(), *model["files"].values()):
        assert str(finished.folder.parent.parent).encode() not in f, "a path of this machine"


def test_the_dataset_can_be_loaded(finished, hub, tmp_path):
    from datasets import load_dataset

    push(finished, "original", "me/first")
    for name, content in hub.repos["dataset", "me/first"]["files"].items():
        (tmp_path / name).write_bytes(content)
    got = load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache")).to_pandas()
    assert (
        got.columns.tolist() == ["task", "question", "rationale", "answer", "prompt", "completion"]
        and len(got) > 20
    )
    want = finished.table("examples").query("arm == 'original'")
    assert set(zip(got.prompt, got.completion)) <= set(zip(want.prompt, want.completion))


def test_what_repeats_an_item_stays_here(copied):
    questions, examples, items = (
        copied.table(t) for t in ("tailored_questions", "examples", "items")
    )
    before, _ = tailored_dataset(copied)
    ids = examples.query("arm == 'arte' and task == 'object_counting'").question_id.tolist()
    tested, validated = (
        items.query(f"split == '{s}' and task == 'object_counting'").question.iloc[0]
        for s in ("test", "val")
    )
    with RunDir(copied.folder, copied.recipe) as spoiled:
        spoiled.save(
            "tailored_questions",
            questions.assign(
                question=questions.question.where(
                    questions.question_id != ids[0], f" {validated.upper()}"
                )
            ),
        )
        spoiled.save(
            "examples",
            examples.assign(
                completion=examples.completion.where(
                    examples.question_id != ids[1],
                    f"{examples.completion.iloc[0]} Another question: {tested}",
                )
            ),
        )
    rows, left_out = tailored_dataset(copied)
    sent = pd.read_parquet(BytesIO(dataset_files(copied)["train.parquet"]))
    assert len(rows) == len(sent) == len(before) - 2 and left_out == 24 - len(sent)
    assert not sent.map(lambda x: tested in x or validated.lower() in x.lower()).any(axis=None)
    assert f"{left_out} examples were left out" in dataset_card(copied).text


def test_nothing_is_sent_when_something_is_wrong(copied, hub):
    with pytest.raises(ValueError, match="other people"):
        push(copied, "Tulu-v2", "me/x")
    with pytest.raises(ValueError, match="has no examples"):
        push(copied, "vanilla", "me/x")
    with pytest.raises(ValueError, match="needs a licence"):
        push(copied, "arte", "me/x", public=True)
    with RunDir(copied.folder, copied.recipe) as changed:
        changed.save("items", copied.table("items").query("split != 'test'"))
    with pytest.raises(ValueError, match="has no test items"):
        push(copied, "arte", "me/x")
    assert not hub.asked


def test_another_student_than_the_one_evaluated(copied, hub):
    (copied.model_folder("student-arte") / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="its files have changed"):
        push(copied, "arte", "me/x")
    assert not hub.asked


def test_a_public_repository_is_not_written_by_mistake(finished, hub):
    hub.repos["dataset", "me/open"] = dict(private=False, files={})
    with pytest.raises(ValueError, match="is public. Say so if it is meant"):
        push(finished, "arte", "me/open")
    assert not hub.repos["dataset", "me/open"]["files"]
    push(finished, "arte", "me/open", licence="cc-by-4.0", public=True)
    assert not hub.repos["model", "me/open"]["private"]
    assert (
        DatasetCard(hub.repos["dataset", "me/open"]["files"]["README.md"].decode()).data.license
        == "cc-by-4.0"
    )


def test_not_allowed_or_not_there(finished, hub, monkeypatch):
    with pytest.raises(ConnectionError, match="under the namespace others"):
        push(finished, "arte", "others/x")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ConnectionError, match="hf auth login"):
        push(finished, "arte", "me/x")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="Is there a network"):
        push(finished, "arte", "me/x")


def test_command(finished, hub):
    def arte(*args):
        env = os.environ | dict(HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET="1", ARTE_DEBUG="")
        return subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; from arte.run.cli import main; sys.exit(main())",
                *map(str, args),
            ],
            capture_output=True,
            text=True,
            env=env,
            timeout=120,
        )

    r = arte("push", finished.folder, "--to", "me/by-command")
    assert (
        r.returncode == 0
        and f"Training set: {hub.url}/datasets/me/by-command" in r.stdout
        and "before you make them public" in r.stdout
    ), r.stderr
    assert set(hub.repos) == {("dataset", "me/by-command"), ("model", "me/by-command")}


CHAT = {"chat": {"before": "<user>", "behind": "<assistant>"}}  # as an engine notes it


class Changed:
    "The same run with another recipe; a further round has the tables of the first."

    def __init__(self, run, **changes):
        self.run, self.recipe = run, replace(run.recipe, **changes)

    def table(self, name):
        return self.run.table(name.removeprefix("round-2/"))

    def __getattr__(self, name):
        return getattr(self.run, name)


def test_cards_of_other_recipes(finished):
    pairs, own = len(finished.table("pairs")), finished.folder / "secret" / "mine"
    twice = dataset_card(Changed(finished, rounds=2)).text
    assert f"on {2 * pairs} pairs" in twice and "and 2 rounds" in twice
    chatty = Changed(finished, student=Student(str(own), chat="on"))
    chatty.models = {role: model | CHAT for role, model in finished.models.items()}
    local = model_card(chatty)
    assert local.data.base_model is None and "secret" not in local.text and "`mine`" in local.text
    assert (
        'dict(role="user", content=prompt)' in local.text
        and "without a chat template" not in local.text
    )
