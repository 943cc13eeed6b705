"The report of a run: whole, half done, hostile and odd."

import json
import re

import pandas as pd
import pytest

from arte.core.recipes import load_recipe
from arte.run.rundir import RunDir

from arte.run.compare import write_comparison
from arte.run.pages.blocks import Table, as_html
from arte.run.pages.page import latex_table
from arte.run.report import report_html, report_sections, table_stages, tables_to_come, write_report
from arte.run.sections import align, compare, distill, eval, irt, prefer

EVIL = (
    "<script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>\n"
    "</pre></section>&amp; \x00 $\\frac{1}"
)
TASK, ARMS = "boolean_expressions", ["vanilla", "original", "rationale", "question", "arte"]


def tables():
    "One task, few rows, every table; every text is hostile."
    qs = [f"q{i}" for i in range(6)]
    drafts = [
        dict(
            draft=f"{q}-{m}",
            question_id=q,
            task=TASK,
            technique=m,
            question=EVIL,
            target="True",
            rationale=EVIL + " so" * i,
            answer="True" if i % 2 else None,
        )
        for i, q in enumerate(qs)
        for m in ["expert", "recall", "plain", "eliminate"]
    ]
    return {
        k: pd.DataFrame(v)
        for k, v in dict(
            items=[
                dict(
                    item=f"v{i}",
                    task=TASK,
                    split="val",
                    question=EVIL,
                    answer="True",
                    kind="truefalse",
                )
                for i in range(8)
            ],
            questions=[
                dict(
                    question_id=q,
                    task=TASK,
                    prompt_id="p",
                    prompt=EVIL,
                    question=EVIL,
                    target="True",
                    decoding=0,
                )
                for q in qs
            ],
            drafts=drafts,
            aside=[
                dict(stage="elicit", task=TASK, reason=EVIL, text=EVIL, prompt_id="p", decoding=0),
                dict(stage="pairs", task=TASK, reason="tie", text=EVIL),
            ],
            responses=[
                dict(
                    model="m", shots=s, item=f"v{i}", task=TASK, correct=bool(i % 2), parsed="True"
                )
                for s in range(4)
                for i in range(8)
            ],
            prefset=[
                dict(
                    task=TASK,
                    item=f"v{i}",
                    a=2 - i / 8,
                    a_sd=0.3,
                    b=0.0,
                    b_sd=0.3,
                    rank=i + 1,
                    chosen=i < 4,
                )
                for i in range(8)
            ],
            answers=[
                dict(
                    draft=d["draft"],
                    question_id=d["question_id"],
                    item=f"v{i}",
                    task=TASK,
                    technique=d["technique"],
                    correct=True,
                    parsed="True",
                    tokens=9,
                    set="pref",
                )
                for d in drafts
                for i in range(4)
            ],
            scores=[
                dict(
                    level="rationale",
                    id=d["draft"],
                    question_id=d["question_id"],
                    task=TASK,
                    technique=d["technique"],
                    s=i % 5 / 4,
                    se=0.1,
                    n=4,
                    failures=1,
                )
                for i, d in enumerate(drafts)
            ],
            pairs=[
                dict(
                    pair=f"{q}-r",
                    kind="rationale",
                    task=TASK,
                    prompt=EVIL,
                    chosen=EVIL,
                    rejected=EVIL,
                    s_chosen=0.5,
                    s_rejected=0.2,
                    chosen_id="a",
                    rejected_id="b",
                )
                for q in qs
            ],
            align_log=[dict(step=i, loss=0.69, margin=0.01 * i, accuracy=0.5) for i in range(3)],
            heldout=[
                dict(phase=p, question_id=q, task=TASK, s=0.4, n=4, failures=0)
                for p in ["before", "after"]
                for q in qs
            ],
            examples=[
                dict(
                    example=f"{a}-{q}",
                    arm=a,
                    task=TASK,
                    prompt=EVIL,
                    completion=EVIL,
                    question_id=q,
                )
                for a in ARMS[1:]
                for q in qs
            ],
            sft_log=[dict(arm=a, step=i, loss=1 / (i + 1)) for a in ARMS[1:] for i in range(3)],
            results=[
                dict(
                    arm=a,
                    shots=s,
                    task=TASK,
                    category="math",
                    item=f"t{i}",
                    parsed=EVIL,
                    correct=bool((i + j) % 3),
                    tokens=9,
                )
                for j, a in enumerate(ARMS)
                for s in (0, 3)
                for i in range(20)
            ],
            forced=[
                dict(
                    arm=a,
                    shots=s,
                    task=TASK,
                    category="math",
                    item=f"t{i}",
                    label=EVIL,
                    gold="True",
                    correct=bool((i + j) % 3),
                    logprob=-0.7,
                )
                for j, a in enumerate(ARMS)
                for s in (0, 3)
                for i in range(20)
            ],
        ).items()
    }


def write(folder, leave_out=(), **changed):
    run = RunDir(folder, load_recipe("nano"))
    for name, df in (tables() | changed).items():
        if name not in leave_out:
            run.save(name, df)
    return run, lambda: write_report(folder).read_text(encoding="utf-8")


def test_whole_run(tmp_path):
    run, report = write(tmp_path / "run")
    run.done(
        "elicit", 12.3, dict(prompts=4, tokens_in=1000, tokens_out=2000, test_data="generated")
    )
    (tmp_path / "run" / "environment.json").write_text(json.dumps(dict(libraries=dict(torch=EVIL))))
    page = report()
    assert (
        "Could not be shown" not in page and "Not there" not in page and "not finished" not in page
    )
    assert "generated test items" in page and "libraries.torch" in page and "2,000" in page
    assert len(re.findall(r'<img alt="[^"]*" width="\d+" src="data:image/png;base64,', page)) >= 5


def test_model_text_is_escaped_and_nothing_is_fetched(tmp_path):
    page = write(tmp_path / "run")[1]()
    assert "&lt;script&gt;" in page
    assert not re.search(r"<\s*(script|iframe|object|link|base)\b", page, re.I)
    assert page.count("<img") == page.count('src="data:image/png;base64,')
    assert not re.search(r"""<[^>]*\b(?:src|href)\s*=\s*(?!["']?(?:#|data:image/png))""", page)
    assert "default-src 'none'" in page
    assert page.count("<section") == page.count("</section>") and page.count("<pre>") == page.count(
        "</pre>"
    )


@pytest.fixture
def undrawn(monkeypatch):
    "Plots are drawn in the tests above; here they would only take time."
    for module in (align, compare, distill, eval, irt, prefer):
        monkeypatch.setattr(module, "html_figure", lambda fig, caption, alt: f"<p>{caption}</p>")
        for name in [o for o in vars(module) if o.startswith("plot_")]:
            monkeypatch.setattr(module, name, lambda *a: None)


STAGES = table_stages()


@pytest.mark.parametrize("name", [name for names in tables_to_come({}).values() for name in names])
def test_each_table_may_be_missing(undrawn, name):
    t = {k: v for k, v in tables().items() if k != name}
    page = report_html(load_recipe("nano"), t, report_sections(load_recipe("nano"), t, {}, {}, {}))
    assert "Could not be shown" not in page
    assert f"still to come: {STAGES[name]} ({name})." in page


def test_tables_may_be_empty(tmp_path, undrawn):
    page = write(tmp_path / "run", **{name: df.iloc[:0] for name, df in tables().items()})[1]()
    assert "No result yet" in page and "Could not be shown" not in page


def test_damaged_table_is_left_out(tmp_path, undrawn):
    _, report = write(tmp_path / "run")
    (tmp_path / "run" / "pairs.parquet").write_bytes(b"PAR1 cut off")
    page = report()
    assert "Not there: table “pairs”" in page and "Could not be shown" not in page


def test_empty_run(tmp_path, undrawn):
    page = write(tmp_path / "run", leave_out=STAGES)[1]()
    assert "No result yet" in page and "Could not be shown" not in page


def test_odd_table_leaves_the_other_sections(tmp_path, undrawn):
    page = write(tmp_path / "run", results=pd.DataFrame(dict(arm=["arte"], shots=[0])))[1]()
    assert "Could not be shown: AttributeError" in page
    assert 'id="pairs"' in page and "Chosen" in page


def test_half_done_evaluation_and_alignment(tmp_path, undrawn):
    t = tables()
    page = write(
        tmp_path / "run",
        results=t["results"].query("arm == 'vanilla' and shots == 0"),
        heldout=t["heldout"].query("phase == 'before'"),
    )[1]()
    assert "Could not be shown" not in page and "Only “before”" in page


def test_cut_off_json(tmp_path, undrawn):
    _, report = write(tmp_path / "run")
    (tmp_path / "run" / "environment.json").write_text('{"python": "3.1')
    assert "No environment.json" in report()


def test_same_run_same_page(tmp_path):
    _, report = write(tmp_path / "run")
    assert report() == report()


def test_not_a_run_directory(tmp_path):
    with pytest.raises((FileNotFoundError, ValueError)):
        write_report(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_every_table_becomes_a_file(tmp_path, undrawn):
    write(tmp_path / "run")
    page = {form: write_report(tmp_path / "run", form).read_text() for form in ("csv", "latex")}
    names = {
        form: sorted(f.stem for f in (tmp_path / "run" / "report-tables").glob(f"*.{end}"))
        for form, end in (("csv", "csv"), ("latex", "tex"))
    }
    assert (
        page["csv"] == page["latex"]
        and names["csv"] == names["latex"]
        and len(names["csv"]) == page["csv"].count("<table>")
    )


def test_csv_holds_numbers_and_latex_what_the_page_shows(tmp_path, undrawn):
    write(tmp_path / "run")
    for form in ("csv", "latex"):
        write_report(tmp_path / "run", form)
    folder = tmp_path / "run" / "report-tables"
    arte = pd.read_csv(folder / "accuracy.csv").query("arm == 'arte' and shots == 0").iloc[0]
    right = tables()["results"].query("arm == 'arte' and shots == 0").correct
    assert (
        (arte.correct, arte.n) == (right.sum(), 20)
        and arte.accuracy == right.mean()
        and arte.lo < arte.accuracy < arte.hi
    )
    shown = rf"{100 * arte.accuracy:.1f} \% [{100 * arte.lo:.1f}, {100 * arte.hi:.1f}]"
    assert re.search(
        rf"\+ ARTE & 0 & {re.escape(shown)} & 20 ", (folder / "accuracy.tex").read_text()
    )


def test_hostile_latex_is_escaped():
    tex = latex_table(
        pd.DataFrame({"a & b": [EVIL, "\\input{/etc/passwd}\n\n\\end{tabular} 5 % #1 x_y ~ ^"]})
    )
    body = tex.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == 2 and all(row.endswith(r" \\") for row in body)
    assert r"\input" not in tex and tex.count(r"\end{tabular}") == 1 and "\x00" not in tex
    assert not re.search(r"(?<!\\)[&%#_]", body[1]), "a special character stands unescaped"


def test_a_table_shows_its_cells():
    t = Table("x", pd.DataFrame(dict(a=["<1>"])), pd.DataFrame(dict(a=[1])))
    assert as_html(["<p>", t]) == "<p>" + str(t) and "&lt;1&gt;" in t._repr_html_()


def two_runs(folder, **second):
    "Two evaluated runs, the second with other results where they are given."
    for name, changed in (("a", {}), ("b", second)):
        run, _ = write(folder / name, **changed)
        run.close()
    return [folder / "a", folder / "b"]


def test_comparison_says_what_the_reports_say(tmp_path, undrawn):
    t = tables()["results"]
    dirs = two_runs(tmp_path, results=t.assign(correct=~t.correct))
    write_comparison(dirs, tmp_path / "both.html", "csv")
    both = pd.read_csv(tmp_path / "both-tables" / "accuracy.csv")
    for d in dirs:
        write_report(d, "csv")
        alone = pd.read_csv(d / "report-tables" / "accuracy.csv")
        pd.testing.assert_frame_equal(
            both[both.run == d.name].drop(columns="run").reset_index(drop=True), alone
        )
    paired = pd.read_csv(tmp_path / "both-tables" / "paired-1.csv").set_index(["arm", "shots"])
    right = t.query("arm == 'arte' and shots == 3").correct
    assert (paired.n == 20).all() and tuple(paired.loc[("arte", 3), ["only_a", "only_b"]]) == (
        20 - right.sum(),
        right.sum(),
    )
    assert paired.difference[("arte", 3)] == pytest.approx(1 - 2 * right.mean())


def test_comparison_of_runs_that_share_little(tmp_path, undrawn):
    t = tables()["results"].query("arm != 'arte' and shots == 0")
    page = write_comparison(
        two_runs(tmp_path, results=t.assign(item="other-" + t.item)), tmp_path / "both.html"
    ).read_text()
    assert "no test item in common" in page and "Traceback" not in page
    assert re.search(
        r"\+ ARTE</td><td class=\"n\">0</td><td class=\"n\">[\d.]+ %[^<]*</td><td class=\"n\">—",
        page,
    ), "an arm that one run hasn't got is a dash"


def test_comparison_escapes_names_and_fetches_nothing(tmp_path):
    first, second = two_runs(tmp_path)
    first, second = first.rename(tmp_path / "<script>$x_^$"), second.rename(tmp_path / "_b")
    page = write_comparison([first, second], tmp_path / "both.html").read_text()
    assert "&lt;script&gt;" in page
    assert (
        not re.search(r"<\s*(script|iframe|object|link|base)\b", page, re.I)
        and page.count("<img") == page.count('src="data:image/png;base64,') == 2
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (
            dict(results=tables()["results"].assign(task="object_counting")),
            "a was tested on boolean_expressions, but b on object_counting",
        ),
        (dict(results=tables()["results"][:0]), "b has no results yet"),
    ],
)
def test_runs_that_cannot_be_compared(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_comparison(two_runs(tmp_path, **change), tmp_path / "both.html")
    assert not (tmp_path / "both.html").exists()
