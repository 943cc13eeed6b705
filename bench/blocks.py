"""Compare the sizes of the blocks in which vLLM keeps the beginnings of prompts on a processor.

    python bench/blocks.py

Three minutes on two cores. The first ten prompts of each draft of bench/throughput.py, answered by
a fresh engine each time, so that nothing is kept from one time to the next; loading is not counted.
"""

import time
from unittest.mock import patch

from arte.core.answers import STOP
from arte.engines.protocol import Sampling
from arte.engines.vllm import VllmEngine
from arte.models.folders import resolve_model
from arte.models.load import ModelOptions
from results import save
from throughput import ITEMS, NEW, asked

REPEATS, SHARED = 2, 10


def answer(prompts, size):
    "Answer all prompts with blocks of one size; return seconds and the tokens that were read."
    import arte.engines.vllm as home

    own = home.serving
    with patch.object(home, "serving", lambda *of: own(*of) | dict(block_size=size)):
        engine = VllmEngine(resolve_model("nano-student"), ModelOptions("bfloat16"))
    start = time.perf_counter()
    answers = engine.generate(prompts, Sampling(max_tokens=NEW, stop=STOP))
    seconds = time.perf_counter() - start
    engine.close()
    written = sum(one.tokens for (one,) in answers)
    return dict(block=size, seconds=seconds, answers=len(prompts), new_tokens=written)


def main():
    "Measure 128, vLLM's own size, and 32, ours, in turn."
    prompts = [p for n, p in enumerate(asked("bfloat16")[0]) if n % ITEMS < SHARED]
    rows = [answer(prompts, size) for _ in range(REPEATS) for size in (128, 32)]
    save("blocks", rows)


if __name__ == "__main__":
    main()
