"""Compare the speed of our alignment and fine-tuning with TRL's trainers and their defaults.

    python bench/training.py                       # two repeats
    OMP_NUM_THREADS=1 python bench/training.py     # on a shared machine

Twelve minutes on two cores; the nano teacher's school, where it is not in the cache, some more.
What was measured is kept in runs/bench-training. On a shared machine, seconds of the processor are
the better measure.

Both get the same loaded model, tokenizer, data of the recorded nano run (a part of it), batch
size, epochs, learning rate, schedule and longest sequence. Everything else is ours, or TRL's
default:

             ours                                      TRL 1.16
    batches  sorted by length, cut into micro-batches  random
    memory   no gradient checkpointing on a CPU        gradient checkpointing
    logits   of the completion only, computed once     of every position, twice (without Triton)
    DPO      reference computed once, frozen bfloat16  reference in every step, float32 weights

SFT is also measured without one thing that makes a processor faster: logits computed once
(arte.models.devices.processor), its attention, its small micro-batches; and without all three.

A token is one of prompt, answer or end-of-sequence token that is no padding, each time an optimizer
step sees it; a pair has its prompt twice. Seconds count from the loaded model to the trained one:
tokenizing, the reference, all steps; not loading or saving.
"""

import argparse
import tempfile
import time
from collections import ChainMap
from contextlib import ExitStack, contextmanager
from unittest.mock import patch
import pandas as pd
import torch

from arte.align import dpo_trainer, lora
from arte.pair_tokens import pairs_dataset
from arte.models.load import ModelOptions, load_model, load_tokenizer
from arte.models.devices.processor import score_completions_only
from arte.models.terminal import quiet
from arte.models.folders import resolve_model
from arte.models.nano.school import school
from arte.run.rundir import RunDir
from arte.models.train import (
    examples_dataset,
    fast_bf16,
    sft_trainer,
)
from arte.distill import arm_examples
from results import ROOT, cached, save

BF16 = "bfloat16" if fast_bf16() else "float32"
EXAMPLES, PAIRS = 2, 4  # every second of 80, every fourth of 104


def defaults(s, folder):
    "What TRL must be told to train on the same data by the same schedule; the rest is its default."
    return dict(
        output_dir=folder,
        per_device_train_batch_size=s.batch,
        num_train_epochs=s.epochs,
        learning_rate=s.lr,
        lr_scheduler_type=s.schedule,
        warmup_steps=s.warmup,
        max_length=s.max_length,
        bf16=fast_bf16(),
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def our_sft(model, tokenizer, examples, s, folder):
    return sft_trainer(model, tokenizer, examples, s, folder=folder)


def trl_sft(model, tokenizer, examples, s, folder):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    with quiet():
        return SFTTrainer(
            model,
            SFTConfig(**defaults(s, folder)),
            train_dataset=Dataset.from_list(examples),
            processing_class=tokenizer,
        )


def our_dpo(model, tokenizer, pairs, s, folder):
    return dpo_trainer(model, tokenizer, pairs, s, folder=folder)


def trl_dpo(model, tokenizer, pairs, s, folder, **more):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    with quiet():
        return DPOTrainer(
            model,
            args=DPOConfig(beta=s.beta, **defaults(s, folder)),
            train_dataset=Dataset.from_pandas(pairs[["prompt", "chosen", "rejected"]]),
            processing_class=tokenizer,
            **more,
        )


def trl_lora(model, tokenizer, pairs, s, folder):
    return trl_dpo(model, tokenizer, pairs, s, folder, peft_config=lora(s.lora_r))


# One part less: what takes the place of a name in the training.
LESS = {
    "ours, logits in parts": {"arte.models.devices.processor.MOST_LOGITS": 0},
    "ours, the library's attention": {"arte.models.train.attend_at_once": lambda model: model},
    "ours, 3,072 tokens at once": {"arte.models.train.tokens_at_once": lambda device: 3072},
}
LESS["ours, without the three"] = dict(ChainMap(*LESS.values()))
WAYS = {
    "SFT": {
        "ours": (our_sft, "float32"),
        **dict.fromkeys(LESS, (our_sft, "float32")),
        "TRL's defaults": (trl_sft, "float32"),
    },
    "DPO": {
        "ours": (our_dpo, BF16),
        "TRL's defaults, our LoRA": (trl_lora, "float32"),
        "TRL's defaults": (trl_dpo, "float32"),
    },
}


@contextmanager
def as_ours(way):
    "The switch that our functions set around training, and what a way does without."
    with ExitStack() as stack:
        if way.startswith("ours"):
            stack.enter_context(score_completions_only())
        for name, new in LESS.get(way, {}).items():
            stack.enter_context(patch(name, new))
        yield


def run(kind, way, job):
    "One training: seconds on the clock and of the processor, and the last loss."
    make, dtype = WAYS[kind][way]
    tokenizer, model = load_tokenizer(job["folder"]), load_model(job["folder"], ModelOptions(dtype))
    with tempfile.TemporaryDirectory() as tmp, as_ours(way):
        start, cpu = time.perf_counter(), time.process_time()
        trainer = make(model, tokenizer, job["data"], job["settings"], tmp)
        trainer.train()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert (
        trainer.state.num_train_epochs == job["settings"].epochs
        and trainer.state.global_step == job["steps"]
    ), trainer.state
    return dict(
        kind=kind,
        way=way,
        tokens=job["tokens"],
        steps=job["steps"],
        seconds=seconds,
        cpu_seconds=cpu,
    )


def first_loss(kind, way, job, dtype):
    """The loss of the first `batch` examples before any step, in float32 or as it is trained.

    DPO's adapter is moved first, or the loss would be log 2 for any trainer.
    """
    make, trained = WAYS[kind][way]
    data, plain = job["data"][: job["settings"].batch], dtype == "float32"
    tokenizer, model = (
        load_tokenizer(job["folder"]),
        load_model(job["folder"], ModelOptions("float32" if plain else trained)),
    )
    with tempfile.TemporaryDirectory() as tmp, as_ours(way), torch.no_grad(), ExitStack() as stack:
        if plain:
            for place in (__name__, "arte.models.train"):
                stack.enter_context(patch(f"{place}.fast_bf16", lambda: False))
        trainer = make(model, tokenizer, data, job["settings"], tmp)
        move_adapter(trainer.model)
        trainer.model.eval()
        batch = trainer.data_collator(list(trainer.train_dataset))
        with trainer.accelerator.autocast():
            return trainer.compute_loss(trainer.model, batch).item()


def move_adapter(model, scale=0.01):
    "Give LoRA's second matrices, which begin as zeros, the same small values every time."
    rng = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.copy_(torch.randn(p.shape, generator=rng) * scale)


def jobs():
    "Model, data and settings of the recorded nano run, with its tokens."
    run = RunDir(ROOT / "nbs/paper/runs/nano")
    r, pairs = run.recipe, run.table("pairs").iloc[::PAIRS]
    examples = arm_examples(run.table("examples"), "arte")[::EXAMPLES]
    teacher, student = (
        school(resolve_model(r.teacher.model), r)[0][-1],
        resolve_model(r.student.model),
    )

    def job(folder, data, lengths, s):
        return dict(
            folder=folder,
            data=data,
            settings=s,
            tokens=s.epochs * sum(min(n, s.max_length) for n in lengths),
            steps=-(-len(data) // s.batch) * s.epochs,
        )

    texts = examples_dataset(load_tokenizer(student), examples)
    answers = []
    for row in pairs_dataset(load_tokenizer(teacher), pairs):
        answers += [len(row["prompt_ids"] + row[name]) for name in ("chosen_ids", "rejected_ids")]
    return {
        "SFT": job(student, examples, [len(ids) for ids in texts["input_ids"]], r.distill),
        "DPO": job(teacher, pairs, answers, r.align),
    }


def summary(runs, losses):
    "A row per way: medians, and how many times faster ours is, repeat by repeat."
    for (kind, way), g in runs.groupby(["kind", "way"], sort=False):
        ours = runs[(runs.kind == kind) & (runs.way == "ours")]
        yield dict(
            kind=kind,
            way=way,
            repeats=len(g),
            tokens=int(g.tokens.iloc[0]),
            seconds=g.seconds.median(),
            tokens_per_second=(g.tokens / g.seconds).median(),
            tokens_per_cpu_second=(g.tokens / g.cpu_seconds).median(),
            ours_faster=float((g.seconds.values / ours.seconds.values).mean()),
            least=float((g.seconds.values / ours.seconds.values).min()),
            ours_faster_cpu=float((g.cpu_seconds.values / ours.cpu_seconds.values).mean()),
            **losses.get((kind, way), {}),
        )


def main(repeats):
    todo, threads = jobs(), torch.get_num_threads()
    losses = {
        (kind, way): {
            f"first_loss_{dtype}": first_loss(kind, way, todo[kind], dtype)
            for dtype in ("float32", "bfloat16")
        }
        for kind in WAYS
        for way in WAYS[kind]
        if (kind, way) != ("DPO", "TRL's defaults")
    }  # which has no adapter to move
    print(pd.DataFrame(losses).T, flush=True)
    runs = []
    for n in range(repeats):
        for kind in WAYS:
            for way in WAYS[kind]:  # A B A B …
                name = f"training/threads-{threads}-{n}-{kind}-{list(WAYS[kind]).index(way)}"
                runs.append(cached(name, lambda: run(kind, way, todo[kind])) | dict(repeat=n))
                print(
                    {k: round(v, 1) if isinstance(v, float) else v for k, v in runs[-1].items()},
                    flush=True,
                )
    table = pd.DataFrame(runs)
    save(
        "training",
        list(summary(table, losses)),
        seconds=round(table.seconds.sum(), 1),
        threads=threads,
        mean_load=round(table.load.mean(), 2),
        runs=runs,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2)
    main(parser.parse_args().repeats)
