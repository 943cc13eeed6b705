"""The command line as a shell sees it: a process with a status, stdout and stderr."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from arte.core.recipes import dump_recipe, preset_names
from arte.run.rundir import RunDir
from support.tiny import tiny_recipe

# A pipeline of our own replaces the real one; the command line imports it only when needed.
FAKE = """
import sys, time, types
from arte.run.rundir import RunDir
pipeline, report = types.ModuleType("arte.run.pipeline"), types.ModuleType("arte.run.report")
def run(recipe, out, source, **which):
    with RunDir(out, recipe): {body}
pipeline.run = run
pipeline.status = lambda d: f"status of {{RunDir(d).recipe.name}}"
report.write_report = lambda d, export=None: d/"report.html"
sys.modules |= {{"arte.run.pipeline": pipeline, "arte.run.report": report}}
from arte.run.cli import main
sys.exit(main())
"""


def command(*args, body=None, **env):
    program = (
        ["-c", FAKE.format(body=body)]
        if body
        else ["-c", "import sys; from arte.run.cli import main; sys.exit(main())"]
    )
    return [sys.executable, *program, *map(str, args)], dict(
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"ARTE_DEBUG": ""} | env,
    )


def arte(*args, **kw):
    argv, options = command(*args, **kw)
    return subprocess.run(argv, timeout=60, **options)


@pytest.fixture
def recipe_file(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(dump_recipe(tiny_recipe()))
    return file


def test_help_needs_no_heavy_package():
    "What takes seconds to import is imported by what uses it; bench/startup.py measures the help."
    program = """import sys, arte.run.cli as c
try: c.main()
except SystemExit: print(*sys.modules, file=sys.stderr)"""
    r = subprocess.run(
        [sys.executable, "-c", program, "--help"], capture_output=True, text=True, timeout=60
    )
    assert all(
        o in r.stdout for o in ("plan", "run", "status", "report", "export-lm-eval", "recipes")
    )
    assert "arte" in r.stderr.split() and not {
        "torch",
        "transformers",
        "trl",
        "peft",
        "vllm",
        "pymc",
        "arviz",
        "datasets",
        "matplotlib",
        "pandas",
    } & set(r.stderr.split())


def test_recipes_and_version():
    r = arte("recipes")
    assert [line.split()[0] for line in r.stdout.splitlines()] == preset_names()
    assert arte("--version").stdout.startswith("arte ")


@pytest.mark.parametrize(
    "args, message",
    [
        (["run", "nanno"], "Did you mean nano? The presets are nano, paper, small, t4, table2"),
        (["run", "nothing-like-it"], "The presets are nano, paper, small, t4, table2"),
        (["run", "none.yaml"], "There is no recipe file none.yaml"),
        (["run", "nano", "--set", "irt.k=99"], "irt.k: got 99"),
        (["run", "nano", "--set", "align.learn=1"], "align.learn: there is no such field"),
        (["run", "nano", "--set", "align.lr"], "expected field=value"),
        (["run", "small", "--set", "tasks=[navigat]"], "navigate"),
    ],
)
def test_refusals_are_one_message(tmp_path, args, message):
    r = arte(*args, "--out", tmp_path / "out")
    assert (r.returncode, r.stdout) == (2, "")
    assert message in r.stderr and "Traceback" not in r.stderr
    assert not (tmp_path / "out").exists()


def test_debug_shows_where(tmp_path):
    r = arte("run", "nanno", "--out", tmp_path, ARTE_DEBUG="1")
    assert r.returncode != 0 and "Traceback" in r.stderr


@pytest.mark.parametrize("args", [[], ["walk"], ["run"], ["run", "nano"], ["status"]])
def test_usage(args):
    r = arte(*args)
    assert r.returncode == 2 and "usage: arte" in r.stderr


def test_run_status_report(recipe_file, tmp_path):
    out = tmp_path / "out"
    r = arte("run", recipe_file, "--out", out, "--set", "align.lr=1e-5", "seed=7", body="pass")
    assert (r.returncode, r.stderr) == (0, "") and "report.html" in r.stdout
    assert (RunDir(out).recipe.align.lr, RunDir(out).recipe.seed) == (1e-5, 7)
    assert arte("status", out, body="pass").stdout == "status of tiny\n"
    assert "report.html" in arte("report", out, body="pass").stdout
    r = arte("run", recipe_file, "--out", out, body="pass")
    assert r.returncode == 2 and "seed: 7 in the folder, 0 in the recipe" in r.stderr


def test_status_without_a_run(tmp_path):
    r = arte("status", tmp_path, body="pass")
    assert r.returncode == 2 and "holds no run" in r.stderr


def test_out_under_a_file(recipe_file):
    r = arte("run", recipe_file, "--out", recipe_file / "out", body="pass")
    assert r.returncode == 2 and "cannot be written" in r.stderr and "Traceback" not in r.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder(recipe_file, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    r = arte("run", recipe_file, "--out", tmp_path / "closed" / "out", body="pass")
    assert r.returncode == 2 and "write permission" in r.stderr


def test_bugs_keep_their_traceback(recipe_file, tmp_path):
    r = arte("run", recipe_file, "--out", tmp_path / "out", body="1 + 'a'")
    assert r.returncode == 1 and "Traceback" in r.stderr


def started(*args):
    "A run that has taken the lock and waits."
    argv, options = command(*args, body="print('waiting', flush=True); time.sleep(60)")
    p = subprocess.Popen(
        argv, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options
    )  # a shell's background jobs ignore Ctrl-C
    assert p.stdout.readline() == "waiting\n"
    return p


def test_interrupt(recipe_file, tmp_path):
    p = started("run", recipe_file, "--out", tmp_path / "out")
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=30)
    assert (
        p.returncode == 130
        and "run the same command again to resume" in err
        and "Traceback" not in err
    )


@pytest.mark.parametrize("lines", [1, 100_000])
def test_nobody_reads_on(recipe_file, tmp_path, lines):
    "As with `| head`: what is printed afterwards, or at the end, is lost without an error."
    body = f"print('first', flush=True); time.sleep(1); print('more\\n' * {lines})"
    argv, options = command("run", recipe_file, "--out", tmp_path / "out", body=body)
    p = subprocess.Popen(argv, **options)
    assert p.stdout.readline() == "first\n"
    p.stdout.close()
    assert p.stderr.read() == "" and p.wait(timeout=30) == 141


def test_one_writer_and_no_stale_lock(recipe_file, tmp_path):
    p = started("run", recipe_file, "--out", tmp_path / "out")
    try:
        r = arte("run", recipe_file, "--out", tmp_path / "out", body="pass")
        assert r.returncode == 2 and f"Process {p.pid} is writing to" in r.stderr
        assert arte("status", tmp_path / "out", body="pass").returncode == 0, (
            "reading needs no lock"
        )
    finally:
        p.kill()
        p.communicate()
    assert arte("run", recipe_file, "--out", tmp_path / "out", body="pass").returncode == 0, (
        "a lock outlived its process"
    )


RUNS = Path(__file__).parent.parent / "nbs" / "paper" / "runs"


def test_report_compares_and_exports(tmp_path):
    page = tmp_path / "both.html"
    runs = RUNS / "study/seed-0", RUNS / "study/seed-1"
    r = arte("report", *runs, "--out", page, "--export", "csv")
    assert (r.returncode, r.stderr) == (0, "")
    assert r.stdout == f"Report: {page}, tables: {tmp_path}/both-tables\n"
    assert "seed-1" in page.read_text()
    assert (tmp_path / "both-tables" / "accuracy.csv").is_file()


@pytest.mark.parametrize(
    "args, message",
    [
        ([RUNS / "study/seed-0", RUNS / "table3-nano"], "table3-nano has no results yet"),
        ([RUNS / "study/seed-0", RUNS / "study/seed-0"], "is named twice"),
        ([RUNS / "study/seed-0", RUNS], "holds no run"),
        ([RUNS / "study/seed-0", "--out", "x.html"], "is for the page that compares several runs"),
    ],
)
def test_report_refuses(tmp_path, args, message):
    r = arte("report", *args)
    assert (
        (r.returncode, r.stdout) == (2, "") and message in r.stderr and "Traceback" not in r.stderr
    )


def test_export_lm_eval(recipe_file, tmp_path):
    r = arte("export-lm-eval", recipe_file, "--out", tmp_path / "tasks")
    assert (r.returncode, r.stderr) == (0, "") and "arte_bbh_0shot, arte_bbh_3shot" in r.stdout
    assert (tmp_path / "tasks" / "arte_bbh_3shot_object_counting.yaml").is_file()
    assert "is not empty" in arte("export-lm-eval", recipe_file, "--out", tmp_path / "tasks").stderr
    assert (
        "Did you mean nano?" in arte("export-lm-eval", "nanno", "--out", tmp_path / "other").stderr
    )
