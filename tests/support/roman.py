"""Roman numerals as a task of one's own: a CSV file, a teacher and a student that are scripts."""

import re

from arte.engines.protocol import FunctionEngine
from support.scripted import chance

LETTERS = [("X", 10), ("IX", 9), ("V", 5), ("IV", 4), ("I", 1)]
VALUES = dict(I=1, V=5, X=10)


def numeral(n):
    "Write a number as a Roman numeral."
    out = ""
    for letters, value in LETTERS:
        out += n // value * letters
        n %= value
    return out


def question(n):
    return f"What number is the Roman numeral {numeral(n)}?"


def value(letters):
    v = [VALUES[c] for c in letters]
    return sum(-a if a < b else a for a, b in zip(v, v[1:] + [0]))


def write_csv(path, n=40, worked=False):
    "Write a file of n labelled questions."
    lines = ["question,answer,worked" if worked else "question,answer"]
    for i in range(1, n + 1):
        lines.append(f"{question(i)},{i}" + (f",{numeral(i)} is {i}" if worked else ""))
    path.write_text("\n".join(lines) + "\n")
    return path


def tagged(i, n):
    return f"<question_{i}><input>{question(n)}</input><target>{n}</target></question_{i}>"


def teach(prompt, sampling, draw):
    "Write new questions, or a rationale: with the values of the letters if steps are asked for."
    if "example questions" in prompt:
        n = 5 if "5 more" in prompt else 1
        start = 41 + int(chance(prompt, sampling.seed, draw) * 200)
        return "\n".join(tagged(i, start + 7 * i) for i in range(n))
    letters = re.findall(r"numeral (\w+)\?", prompt)[-1]
    n = value(letters)
    steps = "" if "no more" in prompt else " ".join(f"{c} is {VALUES[c]}." for c in letters)
    return f" {steps} So the answer is <ans>{n}</ans>."


def learn(prompt, sampling, draw):
    "Answer, more often right after an example with steps."
    letters = re.findall(r"numeral (\w+)\?", prompt)[-1]
    right = chance(letters, prompt.count(" is ") > 3) < (0.8 if " is 1" in prompt else 0.4)
    return f" So the answer is <ans>{value(letters) if right else 0}</ans>"


def use_scripts(monkeypatch, teacher=teach, student=learn):
    "Let scripts play the models of whole runs."

    def live(run, role, folder, engines=(), prompts=None):
        script = teacher if role.startswith(("teacher", "aligned")) else student
        scores = lambda prompt, text: [-chance(role, prompt, text)]  # noqa: E731
        return FunctionEngine(script, run.models[role]["fingerprint"], scores)

    monkeypatch.setattr("arte.run.engine.live_engine", live)


def write_recipe(folder, model, tasks, more=""):
    "Write a recipe that is as small as can be."
    file = folder / "mine.yaml"
    file.write_text(f"""
name: mine
tasks: {tasks}
teacher: {{model: {model}}}
student: {{model: {model}}}
data: {{n_val: 12, n_test: 10}}
elicit: {{questions: 6, techniques: 3, max_rouge: 1.0, rationale_tokens: 200}}
irt: {{method: map, k: 6, shots: [0, 1]}}
prefer: {{max_tokens: 60, agreement_questions: 1}}
pairs: {{question_pairs: 2}}
align: {{lr: 1e-4, batch: 4, max_length: 1200, held_out: 1}}
distill: {{lr: 1e-4, batch: 4, max_length: 400, arms: [original, arte]}}
eval: {{max_tokens: 200}}
{more}""")
    return file
