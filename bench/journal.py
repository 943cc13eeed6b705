"""Compare two layouts of the journal: rows as they come with an index (ours), or ordered by key.

python bench/journal.py
"""

import os
import tempfile
import time
from pathlib import Path

from arte.engines import journal
from arte.engines.protocol import Sampling
from results import save

N, CHUNK = 100_000, 512
PROMPT = "the words of a prompt as long as those of the student with one example " * 20  # 1.4 kB
LAYOUTS = {
    "as they come": journal._TABLES,
    "in the order of the keys": tuple(f"{table} WITHOUT ROWID" for table in journal._TABLES),
}


def entries(first):
    how = journal.sampling_key(Sampling(max_tokens=256))
    for i in range(first, min(N, first + CHUNK)):
        prompt = f"{PROMPT}{i}"
        yield journal.CompletionRow(
            key=journal.entry_key("model", prompt, how, 0),
            model="model",
            prompt=prompt,
            sampling=how,
            draw=0,
            text="an answer " * 14,
            tokens=40,
            prompt_tokens=300,
            finish="stop",
            engine="VllmEngine",
        )


def measured(layout, folder):
    "Seconds of writing all entries and of finding a seventh of them again, and bytes an entry."
    journal._TABLES = LAYOUTS[layout]
    j = journal.Journal(Path(folder) / "journal.db")
    start = time.perf_counter()
    for i in range(0, N, CHUNK):
        j.write("completions", list(entries(i)))
    wrote = time.perf_counter() - start
    keys = [row[0] for i in range(0, N, CHUNK) for row in entries(i)][::7]
    start = time.perf_counter()
    found = j.look_up("completions", "text", keys)
    read = time.perf_counter() - start
    assert len(found) == len(keys)
    j.close()
    return dict(
        layout=layout,
        entries=N,
        write_seconds=wrote,
        read_seconds=read,
        bytes_per_entry=os.path.getsize(j.path) / N,
    )


if __name__ == "__main__":
    rows = []
    for repeat in range(3):
        for layout in LAYOUTS:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measured(layout, folder) | dict(repeat=repeat))
    save("journal", rows)
