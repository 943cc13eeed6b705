"""A teacher behind a chat server on this machine: the server thinks aloud, fails at times, lacks
the model, and is paid until the money is spent. The student is a script, as in `world`."""

import json
import re
import threading

import pytest

from arte.core.fields import RecipeError
from arte.core.reading.judge import JUDGE_TOKENS
from arte.core.recipes import dump_recipe
from arte.engines.protocol import FunctionEngine, NoScores, Sampling
from arte.engines.remote.chat import ChatEngine, served_fingerprint
from arte.run import engine
from arte.run.cli import main
from arte.run.plan.plan import plan
from arte.run.rundir import RunDir
from support import roman
from support.loopback import Loopback, say
from support.world import World, teach

MODEL = "big-teacher"


class ChatServer(Loopback):
    "Answers as the script of `world` does; `faults` go first, one a request."

    def __init__(self, write):
        self.write, self.faults, self.asked, self.lock = write, [], [], threading.Lock()
        self.thinks, self.name = True, "max_tokens"
        self.serve()
        self.url += "/v1"

    def answer(self, h):
        body = h.rfile.read(int(h.headers.get("Content-Length") or 0))
        if h.path == "/v1/models":
            known = [dict(id=o, object="model", created=0, owned_by="us") for o in (MODEL, "small")]
            return say(h, dict(object="list", data=known))
        assert h.path == "/v1/chat/completions", h.path
        asked = json.loads(body)
        with self.lock:
            fault = self.faults.pop(0) if self.faults else None
            if fault is None:
                self.asked.append(asked)
        if isinstance(fault, int):
            return say(h, dict(error=dict(message="not now")), fault)
        if self.name not in asked:
            words = f"Unsupported parameter: use '{self.name}' instead."
            return say(h, dict(error=dict(message=words)), 400)
        say(h, self.completion(asked, fault))

    def completion(self, asked, fault):
        (message,) = asked["messages"]
        text = self.write(message["content"], asked)
        said = dict(role="assistant", content=None if fault == "empty" else text)
        if self.thinks:
            said["reasoning_content"] = "They want <ans>nothing</ans> of the kind </question_8>"
        choice = dict(index=0, message=said, finish_reason="stop")
        usage = dict(prompt_tokens=100, completion_tokens=50, total_tokens=150)
        about = dict(id="x", object="chat.completion", created=0, model=MODEL)
        return about | dict(choices=[] if fault == "half" else [choice], usage=usage)


def as_script(prompt, asked):
    how = Sampling(asked["temperature"], 100, seed=asked.get("seed", 0))
    return teach("big", prompt, how, asked.get("seed", 0))


@pytest.fixture
def server():
    server = ChatServer(as_script)
    yield server
    server.close()


@pytest.fixture
def world(tiny_model, tmp_path, monkeypatch):
    "The student is a script; what is registered as served is asked at its server."
    real, world = engine.live_engine, World(monkeypatch, tiny_model, tmp_path)
    scripts = engine.live_engine

    def opened(run, role, *how):
        return (real if "served" in run.models[role] else scripts)(run, role, *how)

    monkeypatch.setattr(engine, "live_engine", opened)
    return world


def settings(server, **more):
    return {
        "teacher.model": MODEL,
        "engine.kind": "chat",
        "engine.url": server.url,
        "engine.model": MODEL,
        "engine.concurrency": 4,
        "engine.retries": 2,
        "align.method": "prompt",
        "align.prompt.rounds": 2,
        "align.prompt.questions": 3,
        "align.prompt.examples": 1,
    } | more


def recipe_of(world, server, **more):
    world.models[MODEL] = MODEL  # its name is no folder
    return world.recipe(settings(server, **more))


@pytest.fixture
def arte(capsys):
    def command(*args):
        status = main([str(arg) for arg in args])
        return (status, *capsys.readouterr())

    return command


def paid_for(run):
    "How many answers of the server are in a run's journal."
    query = "SELECT count(*) FROM completions WHERE engine = 'ChatEngine'"
    return run.journal.db.execute(query).fetchone()[0]


# The engine


def test_thoughts_are_kept_apart(server):
    engine = ChatEngine(server.url, MODEL)
    how = Sampling(0.0, 100, stop=("</ans>",))
    server.write = lambda *_: "It is <ans>4</ans>, and more"
    (done,), (again,) = engine.generate(["What is 2 + 2?", "And 3?"], how)
    assert done.text.endswith("</think>\nIt is <ans>4</ans>") and done.finish == "stop"
    assert (done.prompt_tokens, done.tokens) == (100, 50) and again.text == done.text
    assert server.asked[0]["messages"][0]["role"] == "user" and "stop" not in server.asked[0]
    server.thinks = False
    assert engine.generate(["a"], how)[0][0].text == "It is <ans>4</ans>"


def test_draws_have_seeds_of_their_own(server):
    server.write = lambda prompt, asked: str(asked["seed"])
    server.thinks = False
    engine = ChatEngine(server.url, MODEL)
    first = engine.generate(["a"], Sampling(1.0, 9, n=3, seed=1))
    texts = [c.text for c in first[0]]
    assert len(set(texts)) == 3
    assert [c.text for c in engine.generate(["a"], Sampling(1.0, 9, n=3, seed=1))[0]] == texts


def test_a_server_that_fails_at_times(server):
    server.write = lambda prompt, asked: f" {prompt}!"
    server.thinks, server.faults = False, [500, "half", "empty", 429]
    engine = ChatEngine(server.url, MODEL, concurrency=1, retries=5)
    prompts = [f"Question {i}" for i in range(6)]
    done = engine.generate(prompts, Sampling(0.0, 9))
    assert [c.text for (c,) in done] == [f" {p}!" for p in prompts]


def test_the_new_name_of_the_longest_answer(server):
    server.write = lambda prompt, asked: f"{asked.get('max_completion_tokens')}"
    server.thinks, server.name = False, "max_completion_tokens"
    engine = ChatEngine(server.url, MODEL, concurrency=1)
    done = engine.generate(["a", "b"], Sampling(0.0, 9))
    assert [c.text for (c,) in done] == ["9", "9"]
    assert "max_tokens" in server.asked[0] and "max_tokens" not in server.asked[-1]


def test_no_scores(server):
    engine = ChatEngine(server.url, MODEL)
    with pytest.raises(NoScores, match="is a chat server"):
        engine.logprobs(["a"], ["b"])
    with pytest.raises(NoScores, match="first tokens"):
        engine.first_tokens(["a"], 3)


def test_a_server_without_the_model(world, server, arte, tmp_path):
    more = {"teacher.model": "gpt-9", "engine.model": "gpt-9"}
    world.models["gpt-9"] = "gpt-9"
    (tmp_path / "r.yaml").write_text(dump_recipe(world.recipe(settings(server, **more))))
    status, _, err = arte("run", tmp_path / "r.yaml", "--out", tmp_path / "out")
    assert status == 2 and "Traceback" not in err
    assert f"{server.url} does not serve 'gpt-9'. It serves: '{MODEL}', 'small'" in err
    assert not server.asked  # before anything is paid for


@pytest.mark.parametrize(
    "more, message",
    [
        ({"align.method": "dpo"}, "align.method: dpo trains its weights, and the teacher is"),
        ({"teacher.school": {}}, "teacher.school: a school trains its weights"),
        ({"elicit.cot": 3}, "elicit.cot: branches need the tokens"),
        ({"engine.model": "small"}, "engine.model: got 'small', expected the model that"),
        ({"rounds": 2}, "rounds: got 2 with align.method: prompt"),
        ({"engine.url": None}, "engine.url: got nothing with kind: chat"),
    ],
)
def test_recipes_that_a_chat_server_cannot_do(world, server, more, message):
    world.models["small"] = "small"
    with pytest.raises(RecipeError, match=message):
        recipe_of(world, server, **more)


# A whole run


def test_a_run_with_a_teacher_behind_a_chat_server(world, server, arte, tmp_path):
    "It ends, no thought gets into a table, and the same command asks for nothing again."
    recipe = recipe_of(world, server)
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe))
    status, told, _ = arte("try", tmp_path / "r.yaml")
    assert status == 0 and "is behind a chat server, which has its template" in told
    server.asked.clear()
    status, out, err = arte("run", tmp_path / "r.yaml", "--out", tmp_path / "out")
    assert (status, err) == (0, ""), err
    run, asked = RunDir(tmp_path / "out"), len(server.asked)
    for name in ("drafts", "examples", "prompts"):
        assert not run.table(name).map(lambda x: "They want" in str(x)).to_numpy().any()
    assert set(run.models["teacher"]) == {"folder", "fingerprint", "chat", "served"}
    assert run.models["teacher"]["fingerprint"] == served_fingerprint(MODEL)
    assert paid_for(run) == asked
    assert "cost" not in out
    assert arte("run", tmp_path / "r.yaml", "--out", tmp_path / "out")[0] == 0
    assert len(server.asked) == asked


@pytest.mark.filterwarnings("ignore:Only .* items tell")
def test_a_teacher_behind_a_chat_server_may_judge(world, server, arte, tmp_path):
    "It is asked at its server, thinks before its verdict, and is asked for none twice."
    lines = ["question,answer"] + [f"{roman.question(i)},the number {i}" for i in range(1, 41)]
    (tmp_path / "numerals.csv").write_text("\n".join(lines))
    (tmp_path / "roman.yaml").write_text("data: numerals.csv\nkind: judge\n")
    recipe = roman.write_recipe(tmp_path, world.models["student"], "[roman.yaml]")
    served = {"teacher.model": MODEL, "engine.kind": "chat", "engine.url": server.url}
    served |= {"engine.model": MODEL, "align.method": "prompt"}
    world.open = lambda role, name: FunctionEngine(roman.learn, name)

    def write(prompt, asked):
        if "Is the given answer right?" in prompt:
            right, given = re.findall(r"answer: .*?(\d+)", prompt)
            return "**Yes**" if right == given else "No, it is not."
        how = Sampling(asked["temperature"], 100, seed=asked.get("seed", 0))
        return roman.teach(prompt, how, asked.get("seed", 0))

    server.write = write
    how = ["run", recipe, "--out", tmp_path / "out", "--until", "irt"]
    how += ["--set", *(f"{name}={value}" for name, value in served.items())]
    status, out, err = arte(*how)
    assert (status, err) == (0, ""), err
    run, asked = RunDir(tmp_path / "out"), len(server.asked)
    responses = run.table("responses")
    assert set(responses.verdict.dropna()) == {"yes", "no"}
    assert (responses.correct == (responses.verdict == "yes")).all()
    last = server.asked[-1]
    assert (last["temperature"], last["max_tokens"]) == (0, JUDGE_TOKENS) and "judged" in out
    assert paid_for(run) == asked
    assert arte(*how, "--from-stage", "irt")[0] == 0 and len(server.asked) == asked


# Money

PRICE = {"engine.price": {"input": 10_000.0, "output": 20_000.0}}  # 2 an answer of 100 + 50 tokens


def test_the_plan_has_the_price_of_tokens(world, server):
    recipe = recipe_of(world, server, **PRICE)
    table = plan(recipe)
    elicit = table[table.stage == "elicit"].iloc[0]
    assert elicit.cost == pytest.approx((elicit.tokens_in + 2 * elicit.tokens_out) / 100, rel=1e-3)
    assert table[table.stage == "prefer"].cost.item() == 0  # the student is here
    assert "cost" not in plan(recipe_of(world, server))


def test_a_budget_stops_before_the_run(world, server, arte, tmp_path):
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe_of(world, server, **PRICE)))
    how = ("run", tmp_path / "r.yaml", "--out", tmp_path / "out", "--budget", "5")
    status, _, err = arte(*how)
    assert status == 2 and "budget: got 5, but the plan takes" in err and not server.asked


def test_a_budget_stops_in_the_middle_and_the_run_goes_on(
    world, server, arte, tmp_path, monkeypatch
):
    "What was paid for is kept, no answer is paid twice, and the budget is never exceeded."
    monkeypatch.setattr("arte.run.plan.budget.check_budget", lambda *a: None)  # a plan errs
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe_of(world, server, **PRICE)))
    how = ("run", tmp_path / "r.yaml", "--out", tmp_path / "out", "--budget")
    status, _, err = arte(*how, "60")
    assert status == 2 and "The budget of 60 is reached: " in err and "larger --budget" in err
    first = len(server.asked)
    assert 0 < 2 * first <= 60 and paid_for(RunDir(tmp_path / "out")) == first
    assert arte(*how, "60")[0] == 2 and len(server.asked) == first  # the same again
    status, out, err = arte(*how, "100000")
    assert (status, err) == (0, "") and "cost" in out
    prompts = [json.dumps(asked, sort_keys=True) for asked in server.asked]
    assert len(prompts) == len(set(prompts))
