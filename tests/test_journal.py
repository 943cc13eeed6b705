"""What a notebook can't show of the journal: SIGKILL and Ctrl-C in the middle of a run, two
processes, a damaged file, a full disk."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter

import pytest

from arte.engines.protocol import Completion, FunctionEngine, Sampling
from arte.engines.journal import CompletionRow, Journal, _explained, entry_key
from arte.engines.journaled import Journaled
from arte.engines.rescue import copy_journal, rescue

RUN = """
import sys, time
from arte.engines.protocol import FunctionEngine, Sampling
from arte.engines.journal import Journal
from arte.engines.journaled import Journaled
folder = sys.argv[1]
def fn(prompt, sampling, draw):
    with open(folder + "/worked", "a") as f: f.write(f"{prompt} {draw}\\n")
    time.sleep(float(sys.argv[2]))
    return f"answer to {prompt}, draw {draw}"
engine = Journaled(Journal(folder + "/journal.db"), "function", lambda: FunctionEngine(fn), chunk=6)
prompts = [f"question {i}" for i in range(60)]
out = engine.generate(prompts, Sampling(1.0, n=2))
for p, cs in zip(prompts, out):
    assert [c.text for c in cs] == [f"answer to {p}, draw {d}" for d in (0, 1)]
print("hits", engine.hits, "misses", engine.misses)
"""


def start(folder, pause):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder), str(pause)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_lines(folder, n, process):
    "Waits until the run has worked on n completions."
    end = time.time() + 60
    while time.time() < end and process.poll() is None:
        if (folder / "worked").exists() and len((folder / "worked").read_text().splitlines()) >= n:
            return
        time.sleep(0.01)
    raise AssertionError(f"the run ended early or was too slow: {process.communicate()}")


def test_killed_and_resumed(tmp_path):
    for n in (20, 45):
        p = start(tmp_path, 0.02)
        until_lines(tmp_path, n, p)
        p.kill()
        assert p.wait() == -signal.SIGKILL
    committed = len(journal := Journal(tmp_path / "journal.db"))
    journal.close()
    assert 24 <= committed < 120 and committed % 6 == 0
    out, err = start(tmp_path, 0).communicate(timeout=60)
    assert out.split() == ["hits", str(committed), "misses", str(120 - committed)], err
    journal = Journal(tmp_path / "journal.db")
    assert len(journal) == 120
    worked = Counter((tmp_path / "worked").read_text().splitlines())
    assert len(worked) == 120
    # only the chunk that was in work when the process died is generated again
    assert sum(worked.values()) <= 120 + 2 * 6 and max(worked.values()) <= 3
    order = [line.rsplit(" ", 1) for line in (tmp_path / "worked").read_text().splitlines()]
    repeated = {tuple(o) for o in order if worked[" ".join(o)] > 1}
    assert len(repeated) <= 2 * 6


def test_nothing_is_generated_twice(tmp_path):
    assert start(tmp_path, 0).communicate(timeout=60)[0].split() == ["hits", "0", "misses", "120"]
    assert start(tmp_path, 0).communicate(timeout=60)[0].split() == ["hits", "120", "misses", "0"]
    assert max(Counter((tmp_path / "worked").read_text().splitlines()).values()) == 1


def test_ctrl_c_finishes_the_batch(tmp_path):
    p = start(tmp_path, 0.05)
    until_lines(tmp_path, 8, p)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode != 0 and "KeyboardInterrupt" in err
    assert "finishing this batch" in out and "Run the same command again" in out
    worked = (tmp_path / "worked").read_text().splitlines()
    assert len(worked) % 6 == 0 and len(Journal(tmp_path / "journal.db")) == len(worked) == len(
        set(worked)
    )


def test_two_processes_share_a_journal(tmp_path):
    a, b = start(tmp_path, 0.01), start(tmp_path, 0.01)
    for p in (a, b):
        assert p.wait(60) == 0, p.communicate()
    assert len(Journal(tmp_path / "journal.db")) == 120


def test_lost_bytes_are_reported(tmp_path):
    with_text = FunctionEngine(lambda p, s, d: "word " * 200)
    engine = Journaled(Journal(tmp_path / "journal.db"), "function", lambda: with_text)
    prompts = [f"question {i}" for i in range(100)]
    engine.generate(prompts)
    engine.journal.close()
    data = bytearray((tmp_path / "journal.db").read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    (tmp_path / "journal.db").write_bytes(data)
    with pytest.raises(ValueError, match="can't be read as a journal"):
        Journaled(Journal(tmp_path / "journal.db"), "function", lambda: with_text).generate(prompts)


def test_rescue_reads_the_log_too(tmp_path):
    "A file whose write-ahead log was not merged before it was cut short: the log is rescued too."
    journal, other = Journal(tmp_path / "journal.db"), tmp_path / "other"

    def row(i):
        prompt = f"{'long ' * i * 20}{i}"
        key = entry_key("m", prompt, "s", 0)
        return CompletionRow(key, "m", prompt, "s", 0, f"answer {i}", 3, 3, "eos", "E")

    for i in range(100):
        if i == 50:
            journal.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        journal.write("completions", [row(i)])
    other.mkdir()
    for f in tmp_path.glob("journal.db*"):
        (other / f.name).write_bytes(f.read_bytes()[: 50_000 if f.suffix == ".db" else None])
    assert rescue(other / "journal.db") > 50
    assert set(Journal(other / "journal.db").db.execute("SELECT * FROM completions")) <= set(
        map(row, range(100))
    )
    assert {f.name for f in other.iterdir()} >= {
        "journal.db",
        "journal.db.damaged",
        "journal.db.damaged-wal",
    }


def test_full_disk(tmp_path):
    journal = Journal(tmp_path / "journal.db")
    engine = Journaled(
        journal, "function", lambda: FunctionEngine(lambda p, s, d: "word " * 2000), chunk=5
    )
    engine.generate(["first"])
    journal.db.execute(
        f"PRAGMA max_page_count = {journal.db.execute('PRAGMA page_count').fetchone()[0] + 20}"
    )
    with pytest.raises(OSError, match="The disk is full"):
        engine.generate([f"question {i} {10_000 * 'x'}" for i in range(50)])
    assert engine.generate(["first"])[0][0].finish == "length" and len(journal) >= 1


def test_full_disk_for_readers():
    "SQLite's readers need some room too, and say only `disk I/O error` where there is none."
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_SHMSIZE"
    with pytest.raises(OSError, match="The disk is full"), _explained("journal.db"):
        raise error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="writable"):
            Journal(tmp_path / "journal.db").write("completions", [])
    finally:
        tmp_path.chmod(0o700)


def test_other_model_behind_the_journal(tmp_path):
    engine = Journaled(
        Journal(tmp_path / "journal.db"),
        "expected",
        lambda: FunctionEngine(lambda p, s, d: "", "other"),
    )
    with pytest.raises(ValueError, match="changed since they were registered"):
        engine.generate(["a"])


def test_odd_text_comes_back_unchanged(tmp_path):
    odd = [
        "",
        " leading",
        "tab\tand\nlines",
        "emoji 🙂 and \x00 zero",
        "</ans>'; DROP TABLE completions; --",
        "x" * 100_000,
    ]
    engine = Journaled(
        Journal(tmp_path / "journal.db"), "function", lambda: FunctionEngine(lambda p, s, d: p)
    )
    for _ in range(2):
        out = engine.generate(odd, Sampling(max_tokens=10**6))
        assert [c.text for (c,) in out] == odd
    assert engine.generate([]) == [] and engine.logprobs([], []) == []


def test_other_sqlite_file_and_missing_keys(tmp_path):
    db = sqlite3.connect(tmp_path / "songs.db")
    db.execute("CREATE TABLE songs(title)")
    db.commit()
    db.close()
    with pytest.raises(ValueError, match="holds songs"):
        Journal(tmp_path / "songs.db")
    engine = Journaled(
        Journal(tmp_path / "journal.db"), "function", lambda: FunctionEngine(lambda p, s, d: p)
    )
    engine.generate(["a", "b"])
    keys = {k for (k,) in engine.journal.db.execute("SELECT key FROM completions")}
    with pytest.raises(KeyError, match="1 of 3"):
        copy_journal(tmp_path / "journal.db", tmp_path / "copy.db", keys | {b"nothing"})
    with pytest.raises(FileExistsError):
        copy_journal(tmp_path / "journal.db", tmp_path / "copy.db", keys)


def test_the_interrupt_works_in_a_thread(tmp_path):
    from threading import Thread

    out = []

    def work():
        engine = Journaled(
            Journal(tmp_path / "journal.db"), "function", lambda: FunctionEngine(lambda p, s, d: p)
        )
        out.extend(engine.generate(["a"]))

    t = Thread(target=work)
    t.start()
    t.join()
    assert out[0][0] == Completion("a", 1, 1, "eos")
