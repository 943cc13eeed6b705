"""A teacher and a student that are scripts, not language models, for whole runs in seconds."""

from hashlib import blake2b

from arte.engines.protocol import FunctionEngine
from arte.engines.journaled import Journaled
from arte.data.generated.form import TECHNIQUES
from arte.data.generated.tasks import make_items, solve, write_rationale
from arte.core.tags import tag_question
from arte.core.tasks import get_task
from arte.run.stage import aligned_role


def chance(*what):
    "A number in [0, 1) that depends on `what` only."
    return int.from_bytes(blake2b(repr(what).encode(), digest_size=4).digest(), "big") / 2**32


def teacher(tasks, skew=0):
    "Write generated questions and rationales; `skew` favours plain ones after the naive prompt."

    def write(prompt, sampling, draw):
        task = next(
            t
            for t in map(get_task, tasks)
            if t.title in prompt
            or t.description in prompt
            or any(prompt.startswith(o.prompt) for o in t.techniques)
        )
        if "example questions" in prompt:
            n = 5 if "5 more questions" in prompt else 1
            items = make_items(task.name, n, int(chance(prompt, sampling.seed, draw) * 2**30))
            return "\n".join(tag_question(i.question, i.answer, x) for x, i in enumerate(items, 4))
        question = prompt.rsplit("Question: ", 1)[1].split("\nAnswer:")[0]
        named = next((t.name for t in task.techniques if prompt.startswith(t.prompt)), None)
        drawn = (
            list(TECHNIQUES)[int(chance(question) * 4)]
            if chance("skew", question) >= skew
            else "plain"
        )
        return " " + write_rationale(question, task.name, named or drawn)

    return write


def student(tasks, ability=0.5):
    "Right more often when its example is short, and never when it is long by chance."

    def answer(prompt, sampling, draw):
        task = next(t for t in map(get_task, tasks) if t.description in prompt)
        question = prompt.rsplit("Question: ", 1)[1].split("\nAnswer:")[0]
        words = len(prompt.split())
        if chance("loop", prompt) < 0.1:
            return " and so on and so on and so on"
        right = (
            chance(question, words // 20, ability)
            < ability + 0.3 * (chance(question) - 0.5) - words / 2000
        )
        gold = solve(task.name, question)
        return f" So the answer is <ans>{gold if right else 'none'}</ans>"

    return answer


def role_in_whole_run(run, role):
    "What a model of a further round is called in the outer run."
    if not run.folder.name.startswith("round-"):
        return role
    k = int(run.folder.name.removeprefix("round-"))
    return {"teacher": aligned_role(k - 1), "aligned": aligned_role(k)}.get(role, role)


def use_scripts(monkeypatch, tasks, count=None, **teachers):
    "Let all engines be scripts; `count`, a list, receives what is generated."

    def engine(run, role, engines=()):
        role = role_in_whole_run(run, role)
        f = teachers.get(role) or (
            teacher(tasks, skew=0.9 if role == "aligned" else 0)
            if role in ("teacher", "aligned")
            else student(tasks, 0.3 + 0.4 * chance(role))
        )

        def counted(prompt, sampling, draw):
            if count is not None:
                count.append((role, prompt, sampling.seed, draw))
            return f(prompt, sampling, draw)

        return Journaled(
            run.journal,
            f"script-{role}",
            lambda: FunctionEngine(counted, f"script-{role}", lambda p, c: [-chance(role, p, c)]),
            label=role,
        )

    for module in ("engine", "stage"):
        monkeypatch.setattr(f"arte.run.{module}.open_engine", engine)
