"""Data over the network: servers that redirect, refuse, are busy, stop halfway or have other data.

The servers are on this machine and answer as GitHub, the hub and a package index do. The hub is
asked by the real libraries, in a process of its own, since they read `HF_ENDPOINT` only once.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from arte.core.tasks import builtin_tasks
from arte.data import places
from arte.data.bbh import bbh_source, load_bbh, load_exemplars
from arte.data.benchmarks import load_benchmark
from arte.data.fetch import bbh as ways
from arte.data.fetch import benchmarks, download, index, overview
from arte.data.places import OutOfReach
from arte.run.rundir import RunDir
from support import roman
from support.sites import COMMIT, Sites, wheel

ROOT = Path(__file__).resolve().parent.parent
ARCHIVE = f"/{ways.REPOSITORY}/archive/{ways.COMMIT}.tar.gz"
MOVED = f"/codeload/{ways.COMMIT}"
SAMPLE = "fewshot_config:\n  samples: {samples}\nuse_prompt: !function utils.write\n"


@pytest.fixture
def sites():
    servers = Sites()
    yield servers
    servers.close()


@pytest.fixture
def online(no_hub, sites, tmp_path):
    "All servers are this machine's; waiting takes no time."
    for name, path in (("HF_ENDPOINT", ""), ("ARTE_GITHUB", ""), ("PIP_INDEX_URL", "/simple")):
        no_hub.setenv(name, sites.url + path)
    waited = []
    no_hub.setattr(download.time, "sleep", waited.append)
    no_hub.waited = waited
    no_hub.chdir(tmp_path)
    return no_hub


STEPS = "Let's think step by step."


def our_items():
    "Two items for each task, none of them BBH's."
    return {
        task: [dict(input=f"Fruit {i} of {task}?", target=f"fig {i}") for i in range(2)]
        for task in builtin_tasks()
    }


def our_worked(task):
    return [dict(input=f"{task}, {i}?", target=f"It is {i}. So the answer is {i}.") for i in "123"]


def our_files():
    "A repository like BBH's."
    files = {"LICENSE": b"MIT", "README.md": b"hello", "bbh/more.json": b"{}"}
    for task, rows in our_items().items():
        files[f"bbh/{task}.json"] = json.dumps(dict(canary="", examples=rows)).encode()
        shown = [f"Q: {e['input']}\nA: {STEPS}\n{e['target']}" for e in our_worked(task)]
        files[f"cot-prompts/{task}.txt"] = "\n\n".join(["Above.\n-----\nA task.", *shown]).encode()
    return files


def our_wheel():
    "A wheel like lm-evaluation-harness's; its code would fail."
    files = {"lm_eval/__init__.py": b"raise SystemExit('imported')"}
    for task in builtin_tasks():
        text = SAMPLE.format(samples=json.dumps(our_worked(task)))
        files[f"lm_eval/tasks/bbh/cot_fewshot/{task}.yaml"] = text.encode()
    return wheel(files)


def publish(patch):
    "Let our items be the published ones."
    known, files = {}, our_files()
    for task, rows in our_items().items():
        worked = ways.worked_hash(files[f"cot-prompts/{task}.txt"].decode())
        known[task] = dict(items=2, sha256=ways.items_hash(rows), worked=worked)
    patch.setattr(ways, "published", lambda: known)
    patch.setattr(ways, "WHEEL_SHA256", hashlib.sha256(our_wheel()).hexdigest())


@pytest.fixture
def ours(online):
    publish(online)
    return online


# The repository's archive


def test_the_archive(ours, sites, tmp_path, capsys):
    sites.put_archive(ways.REPOSITORY, ways.COMMIT, our_files())
    assert [i.answer for i in load_bbh("navigate")] == ["fig 0", "fig 1"]
    assert [e.answer for e in load_exemplars("navigate")] == ["1", "2", "3"]
    assert sites.asked == [f"GET {ARCHIVE}", f"GET {MOVED}"]  # once, for items and examples
    assert bbh_source() == tmp_path / "cache/bbh"
    kept = {p.relative_to(bbh_source()).as_posix() for p in bbh_source().rglob("*") if p.is_file()}
    tasks = builtin_tasks()
    expected = {"LICENSE", "origin.json", *(f"{t}.json" for t in tasks)}
    assert kept == expected | {f"cot-prompts/{t}.txt" for t in tasks}
    found = "27 files, 54 items, 3 worked examples each"
    assert places.origin(bbh_source()) == dict(way=f"github.com/{ways.REPOSITORY}", holds=found)
    assert f"bbh: {found}, from github.com/{ways.REPOSITORY}, now in" in capsys.readouterr().out


@pytest.mark.parametrize(
    "fault, told",
    [
        ([404], "404 Not Found"),
        ([403], "403 Forbidden"),
        ([(429, {"Retry-After": "3600"})], "429 Too Many Requests, to be asked again in 3600 sec"),
        ([(429, {"Retry-After": "2"})] * 3, "429 Too Many Requests"),
        ([503] * 3, "503 Service Unavailable"),
        (["cut"] * 3, "cut short, "),
    ],
)
def test_the_archive_is_refused(ours, sites, fault, told):
    sites.put_archive(ways.REPOSITORY, ways.COMMIT, our_files())
    sites.faults[MOVED] = list(fault)
    with pytest.raises(OutOfReach, match=told):
        load_bbh("navigate")
    assert bbh_source() is None and not list(Path(os.environ["ARTE_CACHE"]).iterdir())
    assert len([a for a in sites.asked if a == f"GET {MOVED}"]) == len(fault)


@pytest.mark.parametrize(
    "fault, waited",
    [
        ([(429, {"Retry-After": "7"})], [7.0]),
        ([(429, {"Retry-After": "in a while"}), 502], [1.0, 1.0]),
        (["cut"], [1.0]),
    ],
)
def test_the_archive_comes_later(ours, sites, fault, waited):
    sites.put_archive(ways.REPOSITORY, ways.COMMIT, our_files())
    sites.faults[MOVED] = list(fault)
    assert len(load_bbh("navigate")) == 2 and ours.waited == waited


CHANGES = {
    "another answer": (
        "bbh/snarks.json",
        lambda b: b.replace(b"fig 1", b"fig 2"),
        "SHA-256 of snarks",
    ),
    "an item less": ("bbh/snarks.json", lambda b: b'{"examples": []}', r"snarks \(0 of 2 items\)"),
    "no file": ("bbh/snarks.json", lambda b: None, r"snarks \(0 of 2 items\)"),
    "no JSON": ("bbh/snarks.json", lambda b: b[:40], "JSONDecodeError"),
    "another example": (
        "cot-prompts/snarks.txt",
        lambda b: b.replace(b"It is 1", b"It is one"),
        "not BBH's worked examples: snarks",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_archive_has_something_else(ours, sites, change):
    name, changed, told = CHANGES[change]
    files = our_files()
    files[name] = changed(files[name])
    files = {name: content for name, content in files.items() if content is not None}
    sites.put_archive(ways.REPOSITORY, ways.COMMIT, files)
    with pytest.raises(OutOfReach, match=told):
        load_bbh("navigate")
    assert bbh_source() is None


def test_no_archive_at_all(ours, sites):
    sites.files[ARCHIVE] = b"<html>Please log in to this network</html>"
    with pytest.raises(OutOfReach, match="archive.tar.gz is no whole archive"):
        load_bbh("navigate")


# Files with a SHA-256


def test_gsm8k_from_its_authors(online, sites, tmp_path):
    rows = [dict(question=f"{i} + 1?", answer=f"#### {i + 1}") for i in range(1319)]
    content = "\n".join(map(json.dumps, rows)).encode()
    sites.moved[f"/{benchmarks.GSM8K}"] = "/raw/test.jsonl"
    sites.files["/raw/test.jsonl"] = content
    with pytest.raises(OutOfReach, match="its SHA-256 is [0-9a-f]{64}, expected 3730d312f6"):
        load_benchmark("gsm8k")
    online.setitem(benchmarks.SHA256, "test.jsonl", hashlib.sha256(content).hexdigest())
    places.FAILED.clear()
    assert len(load_benchmark("gsm8k")[1]) == 1319
    assert (tmp_path / "cache/gsm8k/gsm8k/test.jsonl").read_bytes() == content


# The package index


@pytest.mark.parametrize("form", ["json", "html"])
def test_worked_examples_from_the_wheel(ours, sites, form):
    sites.put_package("lm-eval", ways.WHEEL, our_wheel(), form)
    assert [e.answer for e in load_exemplars("snarks")] == ["1", "2", "3"]
    assert "lm_eval" not in sys.modules


@pytest.mark.parametrize(
    "content, told",
    [
        (b"something else", "its SHA-256 is [0-9a-f]{64}, expected"),
        (None, "lm-eval/: 404 Not Found"),
    ],
)
def test_the_wheel_is_refused(ours, sites, content, told):
    if content:
        sites.put_package("lm-eval", ways.WHEEL, content)
    with pytest.raises(OutOfReach, match=told):
        load_exemplars("snarks")


def test_the_index_has_another_version(ours, sites):
    sites.put_package("lm-eval", "lm_eval-9.9-py3-none-any.whl", b"")
    with pytest.raises(OutOfReach, match=f"1 files of lm-eval, but no {ways.WHEEL}"):
        load_exemplars("snarks")


def test_an_index_with_a_password(ours, sites):
    ours.setenv("PIP_INDEX_URL", sites.url.replace("//", "//me:p%40ss@") + "/simple")
    sites.put_package("lm-eval", ways.WHEEL, our_wheel())
    assert index.index_urls()[0].startswith("http://me:p%40ss@")
    assert len(load_exemplars("snarks")) == 3


# The hub, asked by the real libraries

SCRIPT = """
import json, sys
from pathlib import Path
from arte.data.fetch import bbh as ways
known = json.loads(Path(sys.argv[1]).read_text())
ways.published = lambda: known["published"]
ways.REVISION = known["revision"]
ways.HUB = known.get("hub", ways.HUB)
ways.WHEEL_SHA256 = known["wheel"]
from arte.run.cli import main
sys.exit(main(sys.argv[2:]))
"""


def in_a_process(tmp_path, sites, *argv, **env):
    "Run a command with our items as the published ones, in a home of its own."
    known = dict(published=ways.published(), wheel=ways.WHEEL_SHA256) | sites.known
    (tmp_path / "known.json").write_text(json.dumps(known))
    home = dict(HOME=str(tmp_path / "home"), HF_HOME=str(tmp_path / "hf"))
    drop = ("ARTE_DATA", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE")
    known = {name: value for name, value in os.environ.items() if name not in drop}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "known.json", *argv],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env=known | home | {"PYTHONPATH": str(ROOT)} | env,
    )


@pytest.fixture
def hub(ours, sites):
    "A hub with a copy of our items as Parquet files."
    sites.put_data(ways.HUB, {task: dict(test=rows) for task, rows in our_items().items()})
    sites.known = dict(revision=COMMIT)
    return sites


def test_the_hubs_copy(hub, tmp_path):
    "Items from the hub, worked examples from the index, since there is no archive."
    hub.put_package("lm-eval", ways.WHEEL, our_wheel())
    done = in_a_process(tmp_path, hub, "data", "fetch", "bbh")
    assert done.returncode == 0, done.stdout + done.stderr
    first, second, third = done.stdout.splitlines()
    assert first.startswith("bbh: not from github.com/suzgunmirac/BIG-Bench-Hard: http://127.0.0.1")
    assert first.endswith("404 Not Found")
    assert second.startswith(f"bbh: 27 files, 54 items, from huggingface.co/datasets/{ways.HUB}")
    assert third.startswith("bbh-worked: 81 worked examples, from the package index, lm-eval, now")
    assert [i.answer for i in load_bbh("navigate")] == ["fig 0", "fig 1"]
    assert [e.answer for e in load_exemplars("navigate")] == ["1", "2", "3"]


def test_the_hubs_copy_is_worded_differently(hub, tmp_path):
    rows = our_items()
    rows["snarks"][1]["target"] = "pear"
    hub.put_data(ways.HUB, {task: dict(test=rows) for task, rows in rows.items()})
    done = in_a_process(tmp_path, hub, "data", "fetch", "bbh")
    assert "27 files, 54 items (worded differently: snarks)" in done.stdout


def test_a_data_set_with_a_script(hub, tmp_path):
    files = {"bbh.py": b"raise SystemExit('executed')", "README.md": b"---\nlicense: mit\n---\n"}
    hub.repos[f"datasets/{ways.HUB}"] = dict(files=files)
    done = in_a_process(tmp_path, hub, "data", "fetch", "bbh")
    assert done.returncode == 2 and "executed" not in done.stdout + done.stderr
    (line,) = [o for o in done.stdout.splitlines() if o.startswith("bbh: not from huggingface")]
    assert "Dataset scripts are no longer supported, but found bbh.py" in line


@pytest.mark.parametrize(
    "change, told",
    [
        (dict(hub="someone/else"), "Repository not found|doesn't exist on the Hub"),
        (dict(revision="1" * 40), "Invalid rev id|doesn't exist on the Hub|Revision"),
    ],
)
def test_the_hub_does_not_know_it(hub, tmp_path, change, told):
    hub.known |= change
    done = in_a_process(tmp_path, hub, "data", "fetch", "bbh")
    (line,) = [o for o in done.stdout.splitlines() if o.startswith("bbh: not from huggingface")]
    assert done.returncode == 2 and re.search(told, line), line


def test_the_hub_is_busy(hub, tmp_path):
    "The library waits as long as it is told, some times, and then the next way is tried."
    head = f"/datasets/{ways.HUB}/resolve/{hub.known['revision']}/README.md"
    hub.faults[head] = [(429, {"Retry-After": "0"})] * 99
    done = in_a_process(tmp_path, hub, "data", "fetch", "bbh")
    (line,) = [o for o in done.stdout.splitlines() if o.startswith("bbh: not from huggingface")]
    assert done.returncode == 2 and "HTTP 429: " in line
    hub.faults[head] = [(429, {"Retry-After": "0"})]
    assert "27 files, 54 items" in in_a_process(tmp_path, hub, "data", "fetch", "bbh").stdout


def test_no_network_at_all(hub, tmp_path):
    dead = dict.fromkeys(("HF_ENDPOINT", "ARTE_GITHUB", "PIP_INDEX_URL"), "http://127.0.0.1:9")
    done = in_a_process(tmp_path, hub, "data", "fetch", "bbh", **dead)
    assert done.returncode == 2 and done.stderr.count("cannot be reached") == 2
    assert "arte: bbh is not here and no server gave it:" in done.stderr


# A run's first stage, on BBH's own items

FIRST_STAGE = """
import json, sys
from arte.core.recipes import load_recipe
from arte.run.parts import PARTS
from arte.run.rundir import RunDir
from arte.run.stages.items import run_items
own = {"teacher.model": sys.argv[1], "student.model": sys.argv[1], "eval.max_tokens": 1024}
with RunDir("run", load_recipe("nano", **own)) as run:
    counts = run_items(run, PARTS)
    items = run.table("items")
    tested = items[items.split == "test"].question.tolist()
    print("FOUND " + json.dumps(counts | dict(tested=tested)))
"""


def put_bbh(sites, data, reached):
    "Let servers have the real items."
    tasks = builtin_tasks()
    if reached == "the archive":
        files = {f"bbh/{task}.json": (data / f"{task}.json").read_bytes() for task in tasks}
        for name in (f"cot-prompts/{task}.txt" for task in tasks):
            files[name] = (data / name).read_bytes()
        sites.put_archive(ways.REPOSITORY, ways.COMMIT, files)
    if reached == "the hub":
        rows = {task: json.loads((data / f"{task}.json").read_text())["examples"] for task in tasks}
        sites.put_data(ways.HUB, {task: dict(test=rows[task]) for task in tasks})
        sites.repos[f"datasets/{ways.HUB}"]["commit"] = ways.REVISION


def first_stage(tmp_path, url, model):
    "What a process in a new home prints, and what it found."
    drop = ("HF_", "ARTE_")
    known = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
    servers = dict(HF_ENDPOINT=url, ARTE_GITHUB=url, PIP_INDEX_URL=f"{url}/simple")
    done = subprocess.run(
        [sys.executable, "-c", FIRST_STAGE, model],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env=known | servers | dict(HOME=str(tmp_path / "home"), PYTHONPATH=str(ROOT)),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told, _, found = done.stdout.rpartition("FOUND ")
    return told.splitlines(), json.loads(found)


@pytest.mark.parametrize("reached", ["the archive", "the hub", "nothing"])
def test_a_run_on_a_new_machine(tmp_path, sites, tiny_model, reached):
    "A new home, no cache; `data.test: auto` is BBH if a server has it, else generated items."
    data = bbh_source()
    if data is None or not (data / "cot-prompts").is_dir():
        pytest.skip("needs BBH's files: set ARTE_DATA to a folder that holds them")
    put_bbh(sites, data, reached)
    url = "http://127.0.0.1:9" if reached == "nothing" else sites.url
    told, found = first_stage(tmp_path, url, tiny_model)
    if reached == "nothing":
        assert found["test_data"] == "generated" and "fetched_from" not in found
        assert told[-1].endswith("BBH is out of reach: the test items are generated ones")
        return
    questions = {item.question for task in builtin_tasks() for item in load_bbh(task, data)}
    assert found["test_data"] == "bbh" and set(found["tested"]) <= questions
    server = ways.BBH_PLACE.ways[reached == "the hub"].name
    assert found["fetched_from"] == f"bbh from {server}"
    (line,) = [line for line in told if line.startswith("bbh: 27 files, 6,511 items")]
    assert f", from {server}, now in {tmp_path}/home/.cache/arte/bbh" in line
    assert ("3 worked examples each" in line) == (reached == "the archive")
    assert "worded differently" not in line


# The overview


def test_the_overview(ours, sites, tmp_path):
    assert "bbh                 MIT             not here\n" in overview.overview()
    sites.put_archive(ways.REPOSITORY, ways.COMMIT, our_files())
    load_bbh("navigate")
    text = overview.overview()
    where = f"in {tmp_path / 'cache/bbh'}, from github.com/{ways.REPOSITORY}\n"
    assert f"bbh                 MIT             {where}" in text
    worked = f"in {tmp_path / 'cache/bbh/cot-prompts'}, from github.com/{ways.REPOSITORY}\n"
    assert f"bbh-worked          MIT             {worked}" in text
    assert "huggingface.co/datasets/Open-Orca/OpenOrca (4.1 GB)" in text


def test_the_overview_of_a_wrong_folder(ours, tmp_path):
    ours.setenv("ARTE_DATA", str(tmp_path))
    assert f"ARTE_DATA={tmp_path} holds no BBH file" in overview.overview()


# A task of one's own, on the hub

OWN = "arithmetic/numerals"


def numerals(i, question="question", answer="answer"):
    "A row as GSM8K has them: the answer behind its worked solution."
    return {
        question: f"What number is the Roman numeral {roman.numeral(i)}?",
        answer: f"So.\n#### {i}",
    }


def own_recipe(tmp_path, model, hub, columns="mark: '####'"):
    "A recipe whose task is a data set on the hub."
    (tmp_path / "roman.yaml").write_text(f"hub: {hub}\ncolumns: {{{columns}}}\n")
    return roman.write_recipe(tmp_path, model, "[roman.yaml]")


@pytest.fixture
def own_hub(sites):
    "A hub with a data set of two configurations."
    splits = dict(train=list(map(numerals, range(1, 26))), test=list(map(numerals, range(26, 41))))
    sites.put_data(OWN, dict(main=splits, socratic=splits))
    sites.known = dict(revision=COMMIT)
    return sites


def drawn(tmp_path, sites, recipe, **env):
    "Draw the items of a run in a process of its own."
    argv = ["run", str(recipe), "--out", "run", "--until", "items"]
    servers = dict(HF_ENDPOINT=sites.url, ARTE_CACHE=str(tmp_path / "cache"))
    return in_a_process(tmp_path, sites, *argv, **servers | env)


def test_ones_own_task_on_the_hub(own_hub, tmp_path, tiny_model):
    recipe = own_recipe(tmp_path, tiny_model, f"{OWN}:main")
    done = drawn(tmp_path, own_hub, recipe)
    assert done.returncode == 0, done.stdout + done.stderr
    items = RunDir(tmp_path / "run").table("items")
    learned, tested = items[items.split != "test"], items[items.split == "test"]
    assert learned.answer.astype(int).max() <= 25 < tested.answer.astype(int).min()
    # it is here now: another run needs no network
    shutil.rmtree(tmp_path / "run")
    again = drawn(tmp_path, own_hub, recipe, HF_ENDPOINT="http://127.0.0.1:9")
    assert again.returncode == 0, again.stdout + again.stderr
    assert RunDir(tmp_path / "run").table("items").equals(items)


OWN_FAULTS = {
    "no configuration": (dict(hub=OWN), "'main', 'socratic'"),
    "another configuration": (dict(hub=f"{OWN}:other"), "'main', 'socratic'"),
    "not there": (dict(hub="nobody/nothing"), "nobody/nothing"),
    "other columns": (
        dict(hub=f"{OWN}:main", columns="answer: target"),
        "no column target; got the columns question, answer",
    ),
}


@pytest.mark.parametrize("fault", OWN_FAULTS)
def test_ones_own_task_is_not_as_it_is_said(own_hub, tmp_path, tiny_model, fault):
    said, told = OWN_FAULTS[fault]
    done = drawn(tmp_path, own_hub, own_recipe(tmp_path, tiny_model, **said))
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert told in done.stderr


def test_ones_own_task_is_gated(own_hub, tmp_path, tiny_model):
    own_hub.repos[f"datasets/{OWN}"]["gated"] = True
    done = drawn(tmp_path, own_hub, own_recipe(tmp_path, tiny_model, f"{OWN}:main"))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"Accept its terms at {own_hub.url}/datasets/{OWN}, then log in" in done.stderr


def test_splits_that_nobody_knows(own_hub, tmp_path, tiny_model):
    own_hub.put_data(OWN, dict(main=dict(everything=list(map(numerals, range(1, 41))))))
    done = drawn(tmp_path, own_hub, own_recipe(tmp_path, tiny_model, f"{OWN}:main"))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"{OWN}:main has the splits everything; expected one of seed, train, " in done.stderr


def test_splits_that_are_left_out(own_hub, tmp_path, tiny_model):
    rows = list(map(numerals, range(1, 41)))
    own_hub.put_data(OWN, dict(main=dict(train=rows, extra=list(map(numerals, (1, 2))))))
    done = drawn(tmp_path, own_hub, own_recipe(tmp_path, tiny_model, f"{OWN}:main"))
    assert done.returncode == 0, done.stderr
    assert f"roman: left out the splits extra of {OWN}:main" in done.stdout
