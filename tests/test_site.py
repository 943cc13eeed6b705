"""The site in a real browser, and what the notebooks store.

The pages are built once, if `_docs` is older than what it is made of, and each is opened once, wide
and then narrow, in one headless Chromium.
"""

import json
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest

from arte.howto.render import has_copy

ROOT = Path(__file__).parent.parent
NOTEBOOKS = [
    p for p in sorted((ROOT / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts
]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
KATEX, AXE = (
    ROOT / "node_modules/katex/dist/katex.min.js",
    ROOT / "node_modules/axe-core/axe.min.js",
)
SCREEN = 60  # lines
NARROW = 390  # CSS pixels: a telephone

SEEN = """() => {
  const main = document.querySelector("main"), raw = [];
  const all = (selector, from = main) => [...from.querySelectorAll(selector)];
  const hidden = "pre, code, script, style, .katex";
  const visible = n => n.parentElement.closest(hidden) ? 2 : 1;
  const words = document.createTreeWalker(main, NodeFilter.SHOW_TEXT, visible);
  while (words.nextNode()) {
    const text = words.currentNode.data;
    if (/\\$[^$\\n]+\\$|\\\\[(\\[]/.test(text)) raw.push(text.trim());
  }
  const caption = e => e.closest("figure")?.querySelector("figcaption");
  const alt = e => e.alt || e.getAttribute("alt") || e.getAttribute("aria-label");
  const pictures = all("img, svg").filter(e => !e.closest(".katex"));
  return {
    raw: raw,
    katex: all(".katex").length,
    errors: all(".katex-error").map(e => e.title),
    ids: all("[id]", document).map(e => e.id),
    hrefs: all("a[href]", document).map(a => a.getAttribute("href")),
    bare: pictures.filter(e => !caption(e) || !alt(e)).map(e => e.outerHTML.slice(0, 80)),
    notebook: all(".quarto-code-links a", document).map(a => a.href),
  };
}"""
# What is wider than the window, whether the page scrolls or cuts it off; what has a box to scroll
# in may be wide.
WIDER = """() => {
  const cut = e => ["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX);
  const scrolls = e => e && (cut(e) || scrolls(e.parentElement.closest("main *")));
  const beyond = e => e.getBoundingClientRect().right > innerWidth + 1
    && !e.closest(".katex-mathml, svg *") && !scrolls(e.parentElement.closest("main *"));
  const over = [...document.querySelectorAll("main *")].filter(beyond);
  const width = document.documentElement.scrollWidth;
  return [
    ...(width > innerWidth ? [`a page of ${width} px`] : []),
    ...over.map(e => e.outerHTML.slice(0, 120)).slice(0, 3),
  ];
}"""
AXE_RUN = """async () => {
  const asked = {runOnly: ["wcag2a", "wcag2aa"], resultTypes: ["violations"]};
  const {violations} = await axe.run(document, asked);
  return violations.map(v => {
    const {html, any} = v.nodes[0];
    return `${v.id} ×${v.nodes.length}: ${html.slice(0, 120)} ${any[0]?.message ?? ""}`;
  });
}"""


def cells(path):
    "Number, source and outputs of a notebook's code cells."
    nb = json.loads(path.read_text(encoding="utf-8"))
    return [
        (n, "".join(c["source"]), c["outputs"])
        for n, c in enumerate(nb["cells"])
        if c["cell_type"] == "code"
    ]


def lines(output):
    "Lines of a page that an output takes: rows of a table that isn't folded away, lines of text."
    data = output.get("data", {})
    if "text/html" in data:
        return re.sub("<details>.*?</details>", "", "".join(data["text/html"]), flags=re.S).count(
            "<tr"
        )
    if any(mime.startswith("image/") for mime in data):
        return 1
    return (
        "".join(output.get("text", data.get("text/markdown", data.get("text/plain", ""))))
        .rstrip()
        .count("\n")
        + 1
    )


def faults(path, outputs):
    "What is wrong with what a cell stored."
    for o in outputs:
        if o["output_type"] == "error":
            yield f"error: {o['ename']}: {o['evalue']}"
        if o.get("name") == "stderr":
            yield "stderr: " + "".join(o["text"])[:100]
        if lines(o) > SCREEN:
            yield f"{lines(o)} lines, at most {SCREEN} fit a screen"


def test_faults_are_found(tmp_path):
    def stream(name, text):
        return dict(output_type="stream", name=name, text=[text])

    outputs = [
        stream("stdout", "fine\n"),
        stream("stderr", "Warning: x"),
        stream("stdout", "x\n" * 61),
        dict(output_type="error", ename="E", evalue="no"),
        dict(output_type="display_data", data={"text/html": ["<table>" + "<tr></tr>" * 61]}),
    ]
    assert [f.split(":")[0] for f in faults(None, outputs)] == [
        "stderr",
        "61 lines, at most 60 fit a screen",
        "error",
        "61 lines, at most 60 fit a screen",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.relative_to(ROOT / "nbs").as_posix())
def test_stored_outputs(path):
    "No warnings, no errors, nothing longer than a screen; a picture has a caption and alt text."
    found = [
        f"cell {n}: {fault}" for n, _, outputs in cells(path) for fault in faults(path, outputs)
    ]
    for n, source, outputs in cells(path):
        if any(mime.startswith("image/") for o in outputs for mime in o.get("data", {})):
            found += [
                f"cell {n}: a picture without #| {key}"
                for key in ("fig-alt", "fig-cap")
                if not re.search(rf"^#\|\s*{key}:\s*\S", source, re.M)
            ]
    assert not found


def newest(*paths):
    return max(p.stat().st_mtime for p in paths)


def is_fresh(index):
    "Was the site built after the last change of what it is made of?"
    sources = [
        *NOTEBOOKS,
        *(ROOT / "nbs").glob("*.[yc][ms][ls]"),
        *(ROOT / "arte").rglob("*.py"),
        ROOT / "tools/docs.py",
        ROOT / "settings.ini",
    ]
    return index.exists() and index.stat().st_mtime >= newest(*sources)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    "The site, built and served."
    if not CHROMIUM:
        pytest.skip("no Chromium here: apt-get install chromium")
    if not (KATEX.exists() and AXE.exists()):
        pytest.skip("KaTeX and axe aren't on disk: make node_modules/.installed (it takes npm)")
    if not is_fresh(ROOT / "_docs/index.html"):
        built = subprocess.run(
            [sys.executable, "tools/docs.py", "--strict"], cwd=ROOT, capture_output=True, text=True
        )
        assert built.returncode == 0, built.stdout + built.stderr[-2000:]
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=ROOT / "_docs"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser(address):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        with p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as chromium:
            yield chromium


@pytest.fixture(scope="module")
def pages(address, browser):
    "What each page shows, by its path: opened wide, then made narrow."
    tab, found = browser.new_page(viewport=dict(width=1280, height=900)), {}
    for file in sorted((ROOT / "_docs").rglob("*.html")):
        path, said = file.relative_to(ROOT / "_docs").as_posix(), []
        heard = {
            "console": lambda m: m.type in ("error", "warning") and said.append(m.text),
            "pageerror": lambda e: said.append(str(e)),
            "requestfailed": lambda r: said.append(f"{r.url}: {r.failure}"),
            "response": lambda r: r.status >= 400 and said.append(f"{r.status} {r.url}"),
        }
        for event, listen in heard.items():
            tab.on(event, listen)
        tab.goto(address + path)
        found[path] = tab.evaluate(SEEN)
        tab.set_viewport_size(dict(width=NARROW, height=844))
        found[path] |= dict(said=said, wider=tab.evaluate(WIDER))
        tab.set_viewport_size(dict(width=1280, height=900))
        for event, listen in heard.items():
            tab.remove_listener(event, listen)
    tab.close()
    return found


def page_of(path):
    "Where a notebook's page is: nbdev leaves out the number before its name."
    return re.sub(r"(^|/)\d+[a-z]*_", r"\1", path.relative_to(ROOT / "nbs").as_posix()).replace(
        ".ipynb", ".html"
    )


def of(pages, key):
    return {path: page[key] for path, page in pages.items() if page[key]}


def test_every_notebook_has_a_page(pages):
    assert len(pages) == len(NOTEBOOKS)


def test_no_console_errors(pages):
    assert of(pages, "said") == {}


def test_links_and_anchors_resolve(pages, address):
    broken = []
    for path, page in pages.items():
        for href in page["hrefs"]:
            target, anchor = urldefrag(urljoin(address + path, href))
            if not target.startswith(address):
                continue
            name = unquote(target.removeprefix(address)) or "index.html"
            there = (
                name in pages
                and (not anchor or unquote(anchor) in pages[name]["ids"])
                or name not in pages
                and (ROOT / "_docs" / name).is_file()
            )
            if not there:
                broken.append(f"{path}: {href}")
    assert not broken


def test_maths_is_rendered(pages):
    assert of(pages, "raw") == {}
    assert of(pages, "errors") == {}
    maths = [
        page_of(p)
        for p in NOTEBOOKS
        if any(
            c["cell_type"] == "markdown" and "$$" in "".join(c["source"])
            for c in json.loads(p.read_text(encoding="utf-8"))["cells"]
        )
    ]
    assert len(maths) > 5 and [p for p in maths if not pages[p]["katex"]] == []


def test_pictures_have_alt_text_and_caption(pages):
    assert of(pages, "bare") == {}


def test_pages_link_to_their_notebook(pages):
    for path in NOTEBOOKS:
        name, page = path.relative_to(ROOT / "nbs").as_posix(), page_of(path)
        hrefs = pages[page]["notebook"]
        assert [
            h for h in hrefs if h.startswith("https://github.com/") and h.endswith(f"/nbs/{name}")
        ], (page, hrefs)
        colab = [h for h in hrefs if h.startswith("https://colab.research.google.com/github/")]
        assert len(colab) == has_copy(name)
        assert all(h.endswith(f"/colab/{name}") for h in colab)
        assert f"http://localhost:8888/lab/tree/{name}" in hrefs


def test_callouts_of_a_kind_look_alike():
    "Where we differ from the paper, and where it says two things, stands in a note."
    for path in NOTEBOOKS:
        for kind, title in re.findall(
            r"callout-(\w+) title=\\\"([^\\]*)", path.read_text(encoding="utf-8")
        ):
            if title.startswith(("Differs from", "The paper")):
                assert kind == "note", (path, title)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readable_by_all(address, browser, scheme):
    """What axe can see of WCAG 2 A and AA, on three pages of different kinds.

    That is contrast, names of links and buttons, alt texts, keys.
    """
    tab = browser.new_page(
        color_scheme=scheme, reduced_motion="reduce", viewport=dict(width=1280, height=900)
    )
    for path in ("index.html", "core/show.html", "prefer.html"):
        tab.goto(address + path)
        dark = (
            tab.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        )
        assert dark == (scheme == "dark")
        tab.evaluate(AXE.read_text(encoding="utf-8"))
        assert tab.evaluate(AXE_RUN) == []
    tab.close()


def test_no_sideways_scrolling_when_narrow(pages):
    assert of(pages, "wider") == {}


def test_search_finds_a_page(address, browser):
    tab = browser.new_page()
    tab.goto(address)
    tab.locator("#quarto-search input").press_sequentially("discrimination")
    hits = tab.locator(".search-result")
    hits.first.wait_for()
    pages = [h.get_attribute("href") for h in hits.all()]
    assert any("irt.html" in p for p in pages), pages
    hits.first.click()
    tab.wait_for_load_state()
    assert "discrimination" in tab.locator("main").inner_text().lower()
    tab.close()
