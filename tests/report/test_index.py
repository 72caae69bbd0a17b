"""The page of figures and claims: whole, without a script, true to the results beside it."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from experiment import swissroll
from lab import cli
from planted_results import plant
from report import index
from report.captions import CAPTIONS
from report.recipes import RECIPES, picture
from report.rules import CLAIMS, number
from report.verdicts import NONE, Finding, decided_by

VOID = {"meta", "img", "br"}  # elements without an end


class Page(HTMLParser):
    """Elements of a page; raises where one is not closed, or another is."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.open += [tag] * (tag not in VOID)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag, name):
        return [attrs[name] for found, attrs in self.found if found == tag and name in attrs]


@pytest.fixture
def folder(tmp_path):
    """One claim is measured, and two figures are drawn."""
    r2 = np.linspace(0.1, 0.99, 101) * np.ones((3, 1))
    arrays = {"r2": r2, "r2_frozen": 0.1 * np.ones_like(r2)}
    arrays["gram"] = np.ones((3, 101, 2, 2))
    plant(tmp_path, swissroll, "swissroll", arrays)
    figures = tmp_path / "paper" / "figures"
    figures.mkdir()
    for name in ("figure1", "figure1_seeds", "figure10", "whitening_methods", "a & <b>"):
        for kind in ("png", "pdf"):
            (figures / f"{name}.{kind}").touch()
    (figures / "figure1.gif").touch()
    return tmp_path


@pytest.fixture
def judged(folder):
    return {claim: claim.findings(folder, "paper") for claim in CLAIMS}


@pytest.fixture
def page(folder, judged):
    return Page(index.write(folder, "paper", judged).read_text("utf-8"))


def test_it_has_a_language_a_title_and_room_for_a_phone(page):
    assert page.all("html", "lang") == ["en"]
    assert "title" in [tag for tag, _ in page.found]
    assert "viewport" in page.all("meta", "name")
    tags = [tag for tag, _ in page.found]
    assert {"script", "link", "iframe"}.isdisjoint(tags)
    assert tags.count("main") == tags.count("nav") == tags.count("h1") == 1


def test_every_picture_is_shown_once_with_words_for_who_cannot_see_it(page, folder):
    shown = page.all("img", "src")
    every = (folder / "paper" / "figures").iterdir()
    there = [path.name for path in every if path.suffix != ".pdf"]
    assert sorted(name.removeprefix("figures/") for name in shown) == sorted(there)
    alts = page.all("img", "alt")
    assert all(re.fullmatch(r"[A-Z].*: .*\.", alt) for alt in alts[:-2])  # the others are nobody's
    assert RECIPES["1"].see in alts[0]
    assert all(alt in page.text for alt in alts)  # the captions
    assert set(shown) <= set(page.all("a", "href"))  # at full size
    pdfs = {f"{name.removesuffix('.png')}.pdf" for name in shown if name.endswith(".png")}
    assert pdfs <= set(page.all("a", "href"))


def test_every_link_leads_somewhere_and_none_is_absolute(page, folder):
    names = {attrs["id"] for _, attrs in page.found if "id" in attrs}
    for link in [*page.all("a", "href"), *page.all("img", "src")]:
        if link.startswith("#"):
            assert link[1:] in names
        elif not link.startswith("https://arxiv.org/"):
            assert (folder / "paper" / link).exists()
    assert str(folder) not in page.text


def test_every_figure_has_its_place_in_the_contents_its_notebook_and_its_time(page):
    links = page.all("a", "href")
    for figure, recipe in RECIPES.items():
        assert f"figure-{figure}" in {attrs.get("id") for _, attrs in page.found}
        assert f"#figure-{figure}" in links
        assert f"{recipe.notebook}.ipynb" in page.text
    assert "Took: 1 min." in page.text  # as planted
    assert "Not made yet" in page.text
    assert any(re.fullmatch(r"swissroll/swissroll-\w+\.npz", link) for link in links)


def test_every_claim_has_its_verdict_and_what_decided_it(page, judged):
    for claim, by_figure in judged.items():
        findings = [finding for rows in by_figure.values() for finding in rows]
        start = page.text.index(f"{number(claim)}: {claim.text}", page.text.index("The claims\n"))
        row = page.text[start + len(claim.text) :][:500]
        assert all(said in row for said in claim.verdicts(findings))
        assert decided_by(findings) in page.text
    assert "R² above 0.9" in page.text


def test_at_quick_scale_it_says_so_and_the_verdicts_at_paper_scale(folder):
    committed = index.committed_verdicts()
    assert committed.keys() == set(map(number, CLAIMS))
    paper = Page((cli.ROOT / "results" / "paper" / "index.html").read_text("utf-8"))
    judged = {claim: claim.findings(folder, "quick") for claim in CLAIMS}
    quick = Page(index.page(folder, "quick", judged))
    assert quick.text.index("Quick scale is not the paper's.") < quick.text.index("arXiv")
    assert "Quick scale" not in paper.text
    for claim in CLAIMS:
        said = committed[number(claim)]
        for page, before in ((quick, "quick scale: not run\npaper scale"), (paper, "the paper's")):
            start = page.text.rindex(f"{number(claim)}: {claim.text}")
            shown = page.text[start + len(claim.text) :].strip()
            assert f"{before}: {said}\n" in re.sub(r"\s*\n\s*", "\n", shown)[:300]


def test_of_a_theorem_the_three_words_are_shown_at_quick_scale_else_ours():
    claim = CLAIMS[1]
    committed = {number(claim): "holds"}
    for part, said in (("true", "true"), ("ours", "holds")):
        rows = [Finding("data", "asked", "1", "met", 3, part)]
        shown = index.verdicts(claim, rows, committed)
        assert shown == {"quick scale": said, "paper scale": "holds"}
    assert index.verdicts(claim, rows, {}) == {"the paper's": "not comparable", "ours": "holds"}
    assert NONE not in index.verdicts(claim, [], committed).values()


def test_captions_are_of_pictures_that_are_there_or_that_a_notebook_would_draw():
    there = {path.stem for path in (cli.ROOT / "results" / "paper" / "figures").glob("*.png")}
    named = {*map(picture, RECIPES), *CAPTIONS}
    assert there <= named
    notebooks = [path.read_text("utf-8") for path in (cli.ROOT / "notebook").glob("*.ipynb")]
    for absent in named - there:  # of results that have not been made
        assert any(rf".draw(\"{absent}\"," in text for text in notebooks), absent


def test_the_same_results_give_the_same_page(folder, judged):
    first = index.page(folder, "paper", judged)
    assert first == index.page(folder, "paper", judged)
    assert not re.search(r"\b20\d\d-\d\d-\d\d|\d\d:\d\d", Page(first).text)


def test_where_the_results_lie_in_the_repository_its_files_are_links(folder, judged):
    assert 'href="..' not in index.page(folder, "paper", judged)
    folder = cli.ROOT / "results" / "paper"
    links = Page((folder / "index.html").read_text("utf-8")).all("a", "href")
    beside = [link for link in links if not link.startswith(("#", "https://"))]
    assert all((folder / link.partition("#")[0]).exists() for link in beside)
    assert {"notebook", "src"} <= {link.split("/")[2] for link in beside if "../../" in link}
    text = (folder.parent / "CLAIMS.md").read_text("utf-8")
    anchors = re.findall(r'<a id="([\w-]+)">', text)
    assert [link.partition("#")[2] for link in beside if "CLAIMS.md" in link] == anchors


def test_nothing_is_left_of_a_page_that_cannot_be_written(folder, judged, monkeypatch):
    path = index.write(folder, "paper", judged)
    before = path.read_bytes()
    monkeypatch.setattr(index, "page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        index.write(folder, "paper", judged)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.glob(".*")] == []
