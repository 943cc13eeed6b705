"""Compare one-shot answers per second of four engines on the same prompts.

    python bench/throughput.py              # what was measured is kept in runs/bench-throughput
    python bench/throughput.py ENGINE DTYPE # one of them, in this process

The engines: what one would write first, lm-evaluation-harness, our transformers engine and vLLM.
32 drafts of the recorded run, each before 40 items of BBH, SmolLM2-135M, at most 160 new tokens,
greedy. Loading is not counted. "… to the end" is our engine without the rule that stops a loop that
has proven itself: what the rule changes and saves.
"""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from results import ROOT, cached, save

FOLDER, NEW, DRAFTS, ITEMS = ROOT / "runs" / "bench-throughput", 160, 32, 40
TASKS = ("boolean_expressions", "sports_understanding")
ENGINES = {
    "bfloat16": (
        "generate",
        "lm-eval",
        "transformers",
        "vllm",
        "transformers to the end",
        "vllm to the end",
    ),
    "float32": ("generate", "transformers", "vllm"),
}  # in which rounding hardly depends on the batch: for comparing answers, on every fourth draft


def asked(dtype):
    "The prompts and the items they end in, a draft's items next to each other."
    from arte.core.prompts import student_prompt
    from arte.run.rundir import open_replay
    from arte.core.tasks import get_task
    from arte.data.bbh import load_bbh

    drafts, out = open_replay().table("drafts"), []
    for task in TASKS:
        items = load_bbh(task)[:ITEMS]
        for d in (
            drafts[drafts.task == task]
            .head(DRAFTS // len(TASKS))[:: 4 if dtype == "float32" else 1]
            .itertuples()
        ):
            out += [
                (student_prompt(get_task(task), [(d.question, d.rationale)], i.question), i)
                for i in items
            ]
    return [p for p, _ in out], [i for _, i in out]


def counting(model):
    "What goes through a model of transformers: tokens (padding too), and forward passes."
    work = Counter()

    def note(module, args, kwargs):
        work.update(passes=1, through=(args[0] if args else kwargs["input_ids"]).numel())

    model.register_forward_pre_hook(note, with_kwargs=True)
    return work


def counting_vllm(llm):
    "The same of vLLM: prompt tokens not in its cache, new tokens but each answer's last, steps."
    work, step, generate = Counter(), llm.llm_engine.step, llm.generate

    def counted_step():
        work.update(passes=1)
        return step()

    def counted_generate(*args, **kwargs):
        outs = generate(*args, **kwargs)
        for o in outs:
            read = len(o.prompt_token_ids) - (o.num_cached_tokens or 0)
            work.update(through=read + len(o.outputs[0].token_ids) - 1)
        return outs

    llm.llm_engine.step, llm.generate = counted_step, counted_generate
    return work


def with_generate(folder, dtype):
    "`model.generate` on batches of one draft's items; only end-of-sequence ends an answer."
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))

    def run(prompts):
        texts, new = [], 0
        for i in range(0, len(prompts), ITEMS):
            batch = tokenizer(prompts[i : i + ITEMS], return_tensors="pt", padding=True)
            out = model.generate(**batch, max_new_tokens=NEW, do_sample=False)[
                :, batch.input_ids.shape[1] :
            ]
            texts += tokenizer.batch_decode(out, skip_special_tokens=True)
            new += out.numel()
        return texts, new

    return run, counting(model)


def with_harness(folder, dtype):
    "lm-evaluation-harness' hf backend on the same requests."
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=str(folder), dtype=dtype, batch_size=ITEMS, device="cpu")

    def run(prompts):
        ask = [
            Instance(
                "generate_until", {}, (p, dict(until=[], max_gen_toks=NEW, do_sample=False)), i
            )
            for i, p in enumerate(prompts)
        ]
        texts = model.generate_until(ask, disable_tqdm=True)
        return texts, sum(len(model.tok_encode(t)) for t in texts)

    return run, counting(model.model)


def with_engine(name):
    "One of our engines."
    kind, to_the_end = name.split()[0], name.endswith("to the end")

    def open_it(folder, dtype):
        from arte.core.answers import STOP
        from arte.engines.protocol import Sampling
        from arte.core.settings.machine import EngineSettings
        from arte.engines.open import open_model
        from arte.models.load import ModelOptions

        engine = open_model(folder, ModelOptions(dtype), EngineSettings(kind=kind))

        def run(prompts):
            done = [
                c
                for (c,) in engine.generate(
                    prompts, Sampling(0.0, NEW, STOP, stop_repeats=not to_the_end)
                )
            ]
            return [c.text for c in done], sum(c.tokens for c in done)

        return run, counting_vllm(engine.llm) if kind == "vllm" else counting(engine.model)

    return open_it


def measured(name, dtype):
    "Seconds, tokens, texts and grades of one engine."
    from arte.core.answers import STOP, grade
    from arte.engines.protocol import cut_at_stop
    from arte.models.folders import resolve_model

    prompts, items = asked(dtype)
    run, work = {"generate": with_generate, "lm-eval": with_harness}.get(name, with_engine(name))(
        resolve_model("nano-student"), dtype
    )
    run(prompts[:ITEMS])
    work.clear()
    start = time.time()
    texts, tokens = run(prompts)
    seconds = time.time() - start
    grades = [
        grade(cut_at_stop(t, STOP) or t, i.answer, i.kind, i.question) for t, i in zip(texts, items)
    ]  # what comes behind an answer is not read
    return dict(
        engine=name,
        dtype=dtype,
        evaluations=len(prompts),
        seconds=seconds,
        per_second=len(prompts) / seconds,
        new_tokens=tokens,
        **work,
        texts=texts,
        parsed=[g.parsed for g in grades],
        correct=[g.correct for g in grades],
    )


def kept(name, dtype):
    "`measured` in a process of its own, once."
    file = FOLDER / f"{name.replace(' ', '-')}-{dtype}.json"
    if not file.exists():
        python = ROOT / ".venv/lmeval/bin/python" if name == "lm-eval" else sys.executable
        if not Path(python).exists():
            return None
        subprocess.run([python, __file__, name, dtype], check=True)
    return json.loads(file.read_text())


def differences(a, b):
    "Items on which two engines' grades differ: in the answer read, and in being right."
    return sum(x != y for x, y in zip(a["parsed"], b["parsed"])), sum(
        x != y for x, y in zip(a["correct"], b["correct"])
    )


def near_ties(a, b):
    """How far apart two tokens' log-probabilities were where the texts of two engines part.

    In float32, for every prompt whose answers were read differently.
    """
    import torch
    from arte.models.load import load_model, load_tokenizer
    from arte.models.folders import resolve_model

    folder, prompts = resolve_model("nano-student"), asked("float32")[0]
    tokenizer, model = load_tokenizer(folder), load_model(folder)

    def ids(text):
        return tokenizer(text, add_special_tokens=False).input_ids

    for i, prompt in enumerate(prompts):
        if a["parsed"][i] == b["parsed"][i]:
            continue
        s, t = ids(a["texts"][i]), ids(b["texts"][i])
        at = next((k for k, (x, y) in enumerate(zip(s, t)) if x != y), None)
        if at is None:
            yield None  # one text is the beginning of the other: it was ended earlier
        else:
            with torch.inference_mode():
                logits = model(torch.tensor([ids(prompt) + s[:at]])).logits[0, -1]
            yield (logits[s[at]] - logits[t[at]]).abs().item()


def hardware():
    """What the machine can do.

    Memory bandwidth (bytes/s) of reading; multiplications and additions per second in both formats.
    """
    import torch

    def best(f, n=5):
        times = []
        for _ in range(n):
            start = time.perf_counter()
            f()
            times.append(time.perf_counter() - start)
        return min(times)

    x, vector = torch.randn(8192, 16384), torch.randn(16384)
    read = x.numel() * 4 / best(lambda: x @ vector)
    flops = {}
    for dtype in ("float32", "bfloat16"):
        a, b = (torch.randn(2048, 2048, dtype=getattr(torch, dtype)) for _ in range(2))
        flops[dtype] = 2 * 2048**3 / best(lambda: a @ b)
    return dict(bytes_per_second=read, flops=flops, threads=torch.get_num_threads())


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = []
    for dtype, engines in ENGINES.items():
        done = {name: r for name in engines if (r := kept(name, dtype))}
        for r in done.values():
            read, right = differences(done["generate"], r)
            rows.append(
                {k: v for k, v in r.items() if k not in ("texts", "parsed", "correct")}
                | dict(
                    times=r["per_second"] / done["generate"]["per_second"],
                    accuracy=sum(r["correct"]) / len(r["correct"]),
                    other_answers=read,
                    other_grades=right,
                )
            )
    exact = {name: kept(name, "float32") for name in ENGINES["float32"]}
    ties = {
        name: list(near_ties(exact["generate"], r))
        for name, r in exact.items()
        if name != "generate"
    }
    from arte.models.load import ModelOptions, load_model
    from arte.models.folders import resolve_model

    weights = load_model(resolve_model("nano-student"), ModelOptions()).num_parameters()
    save(
        "throughput",
        rows,
        hardware=cached("throughput/hardware", hardware),
        weights=weights,
        ties=ties,
        seconds=sum(r["seconds"] for r in rows),
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        (FOLDER / f"{sys.argv[1].replace(' ', '-')}-{sys.argv[2]}.json").write_text(
            json.dumps(measured(*sys.argv[1:]))
        )
    else:
        main()
