"""The pages about runs in a real headless Chromium: sort, search, open, print, on a phone and at a desk."""

import pytest

from conftest import octahedra
from deformlearn import portraits
from deformlearn.report import write_comparison, write_report
from report_runs import write_data, write_run

PHONE, DESK = (390, 844), (1400, 900)
HOSTILE = "<img src=x onerror='window.ran=1'>"
PEOPLE = 60

NUMBER = """([rows, column]) => [...document.querySelectorAll(rows)].map(
    (row) => row.cells[column].textContent.trim())"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of one run and a page of two, by name."""
    folder = tmp_path_factory.mktemp("runs")
    patch = pytest.MonkeyPatch()
    patch.setattr(portraits, "PANEL", 48)
    names = [HOSTILE, "人物 ё", "a-very-long-name-" * 12]
    info, exact = write_data(
        folder / "data",
        people=PEOPLE,
        names=names,
        actions=("Walking", "Sitting", "Eating", HOSTILE),
    )
    runs = [
        write_run(folder / name, folder / "data", info, exact, wrong=wrong, seed=seed)
        for seed, (name, wrong) in enumerate((("one", 0.15), ("other", 0.3)))
    ]
    found = {
        "run": write_report(runs[0], octahedra()),
        "pair": write_comparison(*runs, octahedra()),
    }
    patch.undo()
    return found


@pytest.fixture
def visit(browser, pages):
    """Opens a page; whatever goes wrong there, and whatever it asks of anybody, fails the test."""
    problems, contexts = [], []

    def go(name="run", size=DESK, **options):
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text))
        address = pages[name].as_uri()
        asked = lambda request: not request.url.startswith(("data:", address))  # noqa: E731
        page.on("request", lambda request: asked(request) and problems.append(request.url))
        page.goto(address)
        return page

    yield go
    for context in contexts:
        context.close()
    assert problems == []


def column(page, index, table="#test-table"):
    return page.evaluate(NUMBER, [f"{table} tbody tr", index + 1])  # after the picture


def as_number(text):
    return float(text.replace("\N{MINUS SIGN}", "-").replace("+", ""))


@pytest.mark.parametrize(("name", "table"), [("run", "#test-table"), ("pair", "#train-table")])
def test_every_column_sorts_both_ways(visit, name, table):
    page = visit(name)
    heads = page.locator(f"{table} thead th:not(.thumb)")
    for index in range(heads.count()):
        head = heads.nth(index)
        text = "text" in (head.get_attribute("class") or "")
        first = {"descending", "ascending"} - {head.get_attribute("aria-sort")}
        head.locator("button").click()
        order = head.get_attribute("aria-sort")
        assert order in first
        head.locator("button").click()
        assert head.get_attribute("aria-sort") != order
        assert page.locator(f"{table} [aria-sort]").count() == 1
        if not text:
            values = [as_number(value) for value in column(page, index, table)]
            rising = head.get_attribute("aria-sort") == "ascending"
            assert values == sorted(values, reverse=not rising)
            assert len(values) == 25


def test_numbers_begin_with_the_largest_and_names_with_the_first(visit):
    page = visit()
    page.click("#test-table th >> text=name")
    assert page.locator("#test-table [aria-sort=ascending]").inner_text().startswith("name")
    numbered = [text for text in column(page, 0) if text.startswith("test-")]
    assert numbered == sorted(numbered, key=lambda text: int(text[5:]))
    page.click("#test-table th >> text=PA, prediction")
    largest = as_number(column(page, 4)[0])
    page.click("#test-table th >> text=PA, prediction")
    assert largest > as_number(column(page, 4)[0])


def test_what_is_unknown_comes_last_whichever_way(visit):
    page = visit()
    order = page.evaluate(
        """() => [1, -1].map((sign) => [3, null, 1, 2].sort(
            (a, b) => People.prototype.compare(a, b, sign)))"""
    )
    assert order == [[1, 2, 3, None], [3, 2, 1, None]]


def test_people_are_found_by_name_action_and_picture(visit):
    page = visit()
    page.fill("#test-table [name=name]", "人物")
    assert column(page, 0) == ["人物 ё"]
    assert page.locator("#test-table .status").inner_text() == "1 to 1 of 1"
    page.fill("#test-table [name=name]", "nobody has this name")
    assert page.locator("#test-table .status").inner_text() == "nobody"
    page.fill("#test-table [name=name]", "")
    page.select_option("#test-table [name=action]", HOSTILE)
    assert set(column(page, 1)) == {HOSTILE}
    page.select_option("#test-table [name=action]", "")
    page.check("#test-table [name=pictured]")
    page.click("#test-table .next")
    assert page.locator("#test-table .status").inner_text() == "26 to 30 of 30"
    assert page.locator("#test-table .next").is_disabled()


def test_pages_of_the_table_show_everyone_once(visit):
    page = visit()
    seen = column(page, 0)
    for _ in range(2):
        page.click("#test-table .next")
        seen += column(page, 0)
    assert len(seen) == len(set(seen)) == PEOPLE
    page.click("#test-table .back")
    assert page.locator("#test-table .status").inner_text() == "26 to 50 of 60"


def test_a_picture_opens_large_and_the_keys_go_on_and_close(visit):
    page = visit()
    button = page.locator("#test ~ .galleries .open").first
    button.focus()
    page.keyboard.press("Enter")
    assert page.locator("#viewer").is_visible()
    first = page.locator("#viewer-name").inner_text()
    assert page.locator("#viewer-place").inner_text() == "1 of 30"
    assert page.locator("#viewer .panel img").count() == 8
    page.wait_for_function(
        "[...document.querySelectorAll('#viewer img')].every((i) => i.complete && i.naturalWidth)"
    )
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-place").inner_text() == "2 of 30"
    assert page.locator("#viewer-name").inner_text() != first
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#viewer-place").inner_text() == "30 of 30"
    page.keyboard.press("Home")
    assert page.locator("#viewer-name").inner_text() == first
    page.click("#viewer-next")
    assert page.locator("#viewer-place").inner_text() == "2 of 30"
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    assert page.evaluate("document.activeElement.className") == "open"


def test_from_the_table_pictures_follow_its_order_and_the_close_button_closes(visit):
    page = visit("pair")
    page.click("#test-table th >> text=name")
    names = [
        page.locator("#test-table tbody tr", has=page.locator(".thumb button"))
        .nth(index)
        .locator("th")
        .inner_text()
        for index in range(2)
    ]
    page.locator("#test-table .thumb button").first.press("Enter")
    assert page.locator("#viewer-name").inner_text() == names[0]
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-name").inner_text() == names[1]
    page.click("#viewer-close")
    assert not page.locator("#viewer").is_visible()


def test_everything_can_be_reached_by_the_tab_key(visit):
    page = visit()
    page.focus("#test-table [name=pictured]")
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent"))
    assert reached[:3] == ["name", "action", "raw, prediction"]
    page.focus("#test-table th button >> nth=0")
    page.keyboard.press("Space")
    assert page.locator("#test-table th[aria-sort=ascending]").count() == 1


def test_a_switch_shows_one_chart_of_its_group(visit):
    page = visit()
    charts = page.locator(".choice[data-group=test-joints]")
    assert [charts.nth(i).is_visible() for i in range(2)] == [True, False]
    page.check("input[name=test-joints] >> nth=1", force=True)
    assert [charts.nth(i).is_visible() for i in range(2)] == [False, True]
    page.focus("input[name=test-joints] >> nth=1")
    page.keyboard.press("ArrowLeft")
    assert charts.nth(0).is_visible()


@pytest.mark.parametrize("name", ["run", "pair"])
@pytest.mark.parametrize("size", [PHONE, DESK, (320, 640)])
def test_the_page_never_scrolls_sideways(visit, name, size):
    page = visit(name, size)
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) <= 0
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate(wide) <= 0
    page.locator(".galleries .open").first.click()
    assert page.evaluate("viewer.scrollWidth - viewer.clientWidth") <= 0
    assert page.locator("#viewer-close").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_paper_is_white_whatever_the_screen_is(visit, scheme):
    page = visit(color_scheme=scheme)
    shade = "getComputedStyle(document.body).backgroundColor"
    white = "rgb(255, 255, 255)"
    assert (page.evaluate(shade) == white) == (scheme == "light")
    page.emulate_media(media="print", color_scheme=scheme)
    assert page.evaluate(shade) == white
    assert not page.locator("nav").is_visible()
    assert not page.locator("#test-table .tools").is_visible()
    assert page.locator("#test-table tbody tr").count() == 25
    if scheme == "light":
        page.emulate_media()
        printed = page.pdf(format="A4")
        assert printed.startswith(b"%PDF")
        assert 4 <= printed.count(b"/Type /Page\n") <= 30


def test_texts_of_the_data_are_never_run(visit):
    for name in ("run", "pair"):
        page = visit(name)
        page.fill("#test-table [name=name]", "onerror")
        assert column(page, 0) == [HOSTILE]
        assert page.evaluate("window.ran") is None


def test_without_scripts_the_page_is_whole_but_for_the_rest_of_the_table(visit):
    page = visit(java_script_enabled=False)
    assert page.locator("#test-table tbody tr").count() == 25
    assert page.locator("#test-table .without-script").is_visible()
    assert page.locator(".choice[data-group=test-joints] >> nth=1").is_visible()
    assert page.locator("#test ~ .galleries .panel").first.is_visible()
    assert not page.locator(".tools").first.is_visible()
