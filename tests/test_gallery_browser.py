"""The review page in a real headless Chromium: pointed at, typed at, saved, reloaded, attacked."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PillowImage
from skimage import data as photos

from hf_regioncap.gallery import write_gallery
from hf_regioncap.review import apply_review

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on PATH")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
HOSTILE = [
    '<img src=x onerror="window.pwned=1">',
    "</script><script>window.pwned=2</script>",
    "javascript:window.pwned=3",
    "مرحبا، هذه دراجة نارية 🏍️",
    "long " * 400,
]


# The rows


def jpeg(array: Any) -> bytes:
    image = PillowImage.fromarray(array)
    image.thumbnail((320, 320))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


CAT, COFFEE, ROCKET = jpeg(photos.chelsea()), jpeg(photos.coffee()), jpeg(photos.rocket())
#: A large box, a small one inside of it, and one apart; the photo is 320×213.
BOXES = [[20.0, 20.0, 200.0, 180.0], [60.0, 60.0, 40.0, 40.0], [250.0, 120.0, 60.0, 60.0]]


def row(image: bytes | None, captions: list[str | None], **changes: Any) -> dict[str, Any]:
    return {
        "image": {"bytes": image, "path": None} if image else None,
        "label": ["cat", "eye", "wall"][: len(captions)],
        "region_boxes": BOXES[: len(captions)],
        "box_status": ["ok"] * len(captions),
        "prompt": "Describe.",
        "answer": "as received",
        "region_captions": captions,
        "answer_status": "ok",
        "answer_error": None,
    } | changes


ROWS = [
    row(CAT, ["a large cat", "a cat's eye", "a wall"]),
    row(
        COFFEE,
        ["a cup of coffee", None],
        label=["cup", "spoon"],
        answer_status="ok_partial",
        answer_error="region 2 did not come back",
    ),
    row(
        ROCKET,
        [None],
        label=["rocket"],
        answer=None,
        answer_status="api_error",
        answer_error="HTTP 503 after 6 tries",
    ),
    row(None, [], answer=None, prompt=None, answer_status="image_null", answer_error=None),
]

FEATURES = Features(
    {
        "image": Image(),
        "label": List(Value("string")),
        "region_boxes": List(List(Value("float64"))),
        "box_status": List(Value("string")),
        "prompt": Value("string"),
        "answer": Value("string"),
        "region_captions": List(Value("string")),
        "answer_status": Value("string"),
        "answer_error": Value("string"),
    }
)


# The browser


@dataclass
class Visit:
    """An open page and what it asked for and complained of."""

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).first.inner_text())

    def captions(self, place: int = 0) -> Any:
        return self.page.locator("article").nth(place).locator(".cap")

    def states(self, place: int = 0) -> list[str | None]:
        """The decision shown beside each caption of a row."""
        words = "node => node.querySelector('.state')?.textContent ?? null"
        return list(self.captions(place).evaluate_all(f"nodes => nodes.map({words})"))

    def lit(self) -> list[str]:
        """The numbers of the boxes that stand out."""
        return list(self.page.locator(".tag.on").all_inner_texts())

    def chosen(self) -> list[str]:
        """The texts of the captions that stand out."""
        return [text.strip() for text in self.page.locator(".cap.on .text").all_inner_texts()]

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """Open a file in a fresh profile (or `context`); afterwards nothing may have gone wrong."""
    visits: list[Visit] = []
    contexts: list[Any] = []

    def opened(path: Path, context: Any = None, script: str = "", **options: Any) -> Visit:
        if context is None:
            size = {"width": 1280, "height": 800}
            context = browser.new_context(**{"viewport": size, **options})
            context.set_default_timeout(15_000)
            contexts.append(context)
        visit = Visit(context.new_page())
        visit.page.on("request", lambda request: visit.requests.append(request.url))
        visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
        visit.page.on(
            "console",
            lambda told: visit.errors.append(told.text) if told.type == "error" else None,
        )
        if script:
            visit.page.add_init_script(script)
        visit.page.goto(path.as_uri())
        visits.append(visit)
        return visit

    yield opened
    for visit in visits:
        assert visit.errors == []
        outside = [url for url in visit.requests if not url.startswith(("file:", "data:", "blob:"))]
        assert outside == []
        assert visit.page.evaluate("window.pwned") is None
    for context in contexts:
        context.close()


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    return written(ROWS, tmp_path)


def written(rows: Any, folder: Path, **options: Any) -> Path:
    options = {"label_column": "label", "title": "Tests"} | options
    return write_gallery(rows, folder / "gallery.html", **options)[0]


# Opening


def test_it_opens_and_fetches_nothing_but_itself(visit: Any, gallery: Path) -> None:
    seen = visit(gallery)
    playwright.expect(seen.page.locator("article")).to_have_count(4)
    playwright.expect(seen.page.locator("article img").first).to_have_js_property("complete", True)
    assert seen.page.locator("article img").first.evaluate("image => image.naturalWidth") == 320
    assert seen.text("h1") == "Tests"
    assert "4 rows · 6 regions · 4 captions" in seen.text("#facts")
    files = [url for url in seen.requests if not url.startswith("data:")]
    assert files == [gallery.as_uri()]


def test_boxes_are_live_shapes_in_the_pixels_of_the_photo(visit: Any, gallery: Path) -> None:
    seen = visit(gallery)
    frame = seen.page.locator("article").first.locator(".frame")
    assert frame.locator("svg").get_attribute("viewBox") == "0 0 320 213"
    shapes = frame.locator("rect.line").evaluate_all(
        "nodes => nodes.map(n => ['x', 'y', 'width', 'height'].map(k => +n.getAttribute(k)))"
    )
    assert sorted(shapes) == sorted(BOXES)
    # A box and its caption have one colour.
    colours = "node => getComputedStyle(node).{}"
    chips = (
        seen.page.locator("article")
        .first.locator(".chip")
        .evaluate_all(f"nodes => nodes.map({colours.format('backgroundColor')})")
    )
    tags = frame.locator(".tag").evaluate_all(
        f"nodes => nodes.map({colours.format('backgroundColor')})"
    )
    assert chips == tags
    assert len(set(chips)) == 3


def test_missing_parts_are_told(visit: Any, tmp_path: Path) -> None:
    bare = visit(written([{"image": CAT}], tmp_path, label_column=None))
    assert "No boxes yet" in bare.text("#notes")
    assert "Not captioned yet" in bare.text("article .pill")
    boxed = visit(written([{"image": CAT, "region_boxes": BOXES}], tmp_path, label_column=None))
    assert "No captions yet" in boxed.text("#notes")
    assert boxed.captions().count() == 3
    none = visit(written([], tmp_path))
    assert "There are no rows" in none.text("#feed")
    offline = visit(written(ROWS, tmp_path, model="offline-describer"))
    assert "No model saw these photos" in offline.text("#notes")


def test_failed_rows_say_why(visit: Any, gallery: Path) -> None:
    seen = visit(gallery)
    partial, failed, empty = (seen.page.locator("article").nth(place) for place in (1, 2, 3))
    assert "region 2 did not come back" in partial.inner_text()
    assert "No caption came back" in partial.inner_text()
    assert "Request failed" in failed.inner_text()
    assert "HTTP 503 after 6 tries" in failed.inner_text()
    assert "No image" in empty.inner_text()
    assert empty.locator("img").count() == 0


# Pointing


def test_pointing_at_a_box_lights_its_caption(visit: Any, gallery: Path) -> None:
    seen = visit(gallery)
    frame = seen.page.locator("article").first.locator(".frame").bounding_box()

    def point(x: float, y: float) -> None:
        scale = frame["width"] / 320
        seen.page.mouse.move(frame["x"] + x * scale, frame["y"] + y * scale)

    point(150, 150)
    assert (seen.lit(), seen.chosen()) == (["1"], ["a large cat"])
    point(80, 80)  # the small box inside of the large one
    assert (seen.lit(), seen.chosen()) == (["2"], ["a cat's eye"])
    point(240, 30)
    assert (seen.lit(), seen.chosen()) == ([], [])


def test_pointing_at_a_caption_lights_its_box(visit: Any, gallery: Path) -> None:
    seen = visit(gallery)
    seen.captions().nth(2).hover()
    assert seen.lit() == ["3"]
    seen.page.locator("h1").hover()
    assert seen.lit() == []


def test_tapping_goes_through_the_boxes_under_the_finger(visit: Any, gallery: Path) -> None:
    seen = visit(gallery, **PHONE)
    frame = seen.page.locator("article").first.locator(".frame").bounding_box()
    scale = frame["width"] / 320
    spot = (frame["x"] + 80 * scale, frame["y"] + 80 * scale)
    seen.page.touchscreen.tap(*spot)
    assert (seen.lit(), seen.chosen()) == (["2"], ["a cat's eye"])
    seen.page.wait_for_timeout(400)  # no double tap
    seen.page.touchscreen.tap(*spot)
    assert (seen.lit(), seen.chosen()) == (["1"], ["a large cat"])
    seen.captions().nth(2).locator(".text").tap()
    assert (seen.lit(), seen.chosen()) == (["3"], ["a wall"])


def test_arrow_keys_go_through_boxes_and_captions(visit: Any, gallery: Path) -> None:
    seen = visit(gallery)
    seen.page.locator("article").first.locator(".frame").focus()
    seen.press("ArrowRight")
    assert (seen.lit(), seen.chosen()) == (["1"], ["a large cat"])
    playwright.expect(seen.page.locator("#live")).to_have_text("Region 1, cat: a large cat")
    seen.press("ArrowRight", "ArrowRight")
    assert (seen.lit(), seen.chosen()) == (["3"], ["a wall"])
    seen.captions().first.focus()
    seen.press("ArrowDown")
    assert (seen.lit(), seen.chosen()) == (["2"], ["a cat's eye"])
    seen.press("ArrowRight")  # the next row
    assert seen.chosen() == ["a cup of coffee"]
    seen.press("ArrowRight", "ArrowRight")  # a row without captions is reached too
    assert seen.page.evaluate("document.activeElement.id") == "row-3"
    seen.press("ArrowLeft", "k")
    assert seen.chosen() == ["No caption came back"]
    assert seen.page.evaluate("document.activeElement.item.region.label") == "spoon"


def test_letters_do_nothing_where_one_writes_or_where_they_are_off(
    visit: Any, gallery: Path
) -> None:
    seen = visit(gallery)
    seen.press("j", "/")
    seen.page.keyboard.type("area")
    assert seen.states() == [None, None, None]
    assert seen.page.locator("#query").input_value() == "area"
    seen.press("Escape", "Escape", "?")
    playwright.expect(seen.page.locator("#help")).to_be_visible()
    assert "accept, and on to the next" in seen.text("#help")
    seen.page.locator("#single-keys").uncheck()
    seen.press("Escape")
    playwright.expect(seen.page.locator("#help")).to_be_hidden()
    seen.captions().first.focus()
    seen.press("a", "r")
    assert seen.states() == [None, None, None]


def test_looking_closer_and_hiding_boxes(visit: Any, gallery: Path) -> None:
    seen = visit(gallery)
    seen.press("j", "j", "z")
    shapes = seen.page.locator("article").first.locator(".frame svg")
    playwright.expect(shapes).not_to_have_attribute("viewBox", "0 0 320 213")
    seen.page.wait_for_timeout(300)
    x, y, width, height = map(float, str(shapes.get_attribute("viewBox")).split())
    assert x <= 60 <= 100 <= x + width
    assert y <= 60 <= 100 <= y + height
    assert width < 160
    seen.press("Escape")
    playwright.expect(shapes).to_have_attribute("viewBox", "0 0 320 213")
    seen.press("Escape", "b")
    playwright.expect(shapes).to_be_hidden()
    seen.press("b")
    playwright.expect(shapes).to_be_visible()


# Filters


FILTERS = [
    ("status", ["Captioned"], [0]),
    ("status", ["Request failed", "No image"], [2, 3]),
    ("label", ["cup"], [1]),
    ("label", ["cat", "rocket"], [0, 2]),
    ("review", ["Not reviewed"], [0, 1]),
    ("review", ["Without a caption"], [1, 2]),
    ("review", ["Accepted"], []),
]


def rows_shown(seen: Visit) -> list[int]:
    return [place for place in range(4) if seen.page.locator(f"#row-{place}").is_visible()]


def test_filters(visit: Any, gallery: Path) -> None:
    seen = visit(gallery)
    for group, choices, rows in FILTERS:
        for name in choices:
            button = seen.page.locator(f"#facet-{group} button[title='{name}']")
            button.click()
            assert button.get_attribute("aria-pressed") == "true"
        assert rows_shown(seen) == rows, choices
        assert seen.text("#count") == f"{len(rows)} of 4 rows"
        playwright.expect(seen.page.locator("#empty")).to_be_visible(visible=not rows)
        seen.page.get_by_role("button", name="Clear filters").click()
        assert seen.text("#count") == "4 rows"
        assert rows_shown(seen) == [0, 1, 2, 3]


def test_filters_add_up(visit: Any, gallery: Path) -> None:
    seen = visit(gallery)
    seen.page.locator("#facet-review button[title='Without a caption']").click()
    seen.page.locator("#facet-label button[title='cup']").click()
    assert rows_shown(seen) == []  # the cup has a caption, and it is the spoon that has none
    seen.page.locator("#facet-label button[title='spoon']").click()
    assert rows_shown(seen) == [1]
    seen.page.locator("#query").fill("rocket")
    playwright.expect(seen.page.locator("#empty")).to_be_visible()


SEARCHES = [
    ("CAT'S EYE", [0]),
    ("coffee", [1]),
    ("503", [2]),
    ("spoon", [1]),
    ("no image", [3]),
    ("#2", [2]),
    (".*", []),
]


def test_search(visit: Any, gallery: Path) -> None:
    seen = visit(gallery)
    for words, rows in SEARCHES:
        seen.page.locator("#query").fill(words)
        playwright.expect(seen.page.locator("#count")).to_have_text(f"{len(rows)} of 4 rows")
        assert rows_shown(seen) == rows, words
        seen.page.locator("#query").fill("")
        playwright.expect(seen.page.locator("#count")).to_have_text("4 rows")
    seen.page.locator("#query").fill("a wall")
    playwright.expect(seen.page.locator("#count")).to_have_text("1 of 4 rows")
    marked = "[...CSS.highlights.get('found')].map(range => String(range))"
    assert seen.page.evaluate(marked) == ["a wall"]


def test_a_decision_does_not_take_the_row_away_under_ones_hand(visit: Any, gallery: Path) -> None:
    seen = visit(gallery)
    seen.page.locator("#facet-review button", has_text="Not reviewed").click()
    seen.page.get_by_role("button", name="Accept all").first.click()
    assert seen.states() == ["Accepted"] * 3
    playwright.expect(seen.page.locator("#row-0")).to_be_visible()


# Review


def test_review_by_mouse(visit: Any, gallery: Path) -> None:
    seen = visit(gallery)
    first, second, third = (seen.captions().nth(place) for place in range(3))
    first.get_by_role("button", name="Accept").click()
    second.get_by_role("button", name="Reject").click()
    third.get_by_role("button", name="Edit").click()
    third.locator("textarea").fill("a green wall")
    third.get_by_role("button", name="Save caption").click()
    assert seen.states() == ["Accepted", "Rejected", "Edited"]
    assert "Was: a wall" in third.inner_text()
    assert seen.text("#done") == "3"
    assert "of 4 captions reviewed" in seen.text("#of")
    assert seen.page.locator("#progress").get_attribute("aria-valuenow") == "3"
    first.get_by_role("button", name="Accept").click()  # again: taken back
    assert seen.states() == [None, "Rejected", "Edited"]


def test_review_by_keys_and_undo(visit: Any, gallery: Path) -> None:
    seen = visit(gallery)
    seen.press("j", "a", "r", "e")
    seen.page.keyboard.type(", painted green")
    seen.press("Enter")
    assert seen.states() == ["Accepted", "Rejected", "Edited"]
    assert seen.page.evaluate("document.activeElement.innerText").count("a cup of coffee") == 1
    seen.press("Shift+A")  # what is open in this row
    assert seen.states(1) == ["Accepted", None]
    assert seen.text("#done") == "4"
    seen.press("u")
    assert seen.states(1) == [None, None]
    seen.press("Control+z", "u")
    assert seen.states() == ["Accepted", None, None]
    seen.press("u", "u", "u")
    assert seen.states() == [None, None, None]
    assert seen.page.locator("#undo").is_disabled()


def test_a_key_held_down_decides_once(visit: Any, gallery: Path) -> None:
    seen = visit(gallery)
    seen.press("j")
    for _ in range(3):
        seen.page.keyboard.down("a")
    seen.page.keyboard.up("a")
    assert seen.states() == ["Accepted", None, None]
    for _ in range(2):
        seen.page.keyboard.down("j")
    assert seen.chosen() == ["a cup of coffee"]


def test_editing_keeps_and_drops_what_it_should(visit: Any, gallery: Path) -> None:
    seen = visit(gallery)
    seen.press("j", "e")
    editor = seen.captions().first.locator("textarea")
    editor.fill("something else")
    seen.press("Escape")
    assert seen.states() == [None, None, None]
    seen.press("Enter")  # on a caption: edit
    editor.fill("   ")
    seen.press("Enter")
    playwright.expect(seen.page.locator(".problem")).to_be_visible()
    editor.fill("a large cat")
    seen.press("Enter")  # the same words are an acceptance
    assert seen.states() == ["Accepted", None, None]


def test_a_missing_caption_can_be_written_but_not_accepted(visit: Any, gallery: Path) -> None:
    seen = visit(gallery)
    spoon = seen.captions(1).nth(1)
    assert spoon.get_by_role("button", name="Accept").count() == 0
    spoon.get_by_role("button", name="Write a caption").click()
    spoon.locator("textarea").fill("a spoon")
    seen.press("Enter")
    assert seen.states(1) == [None, "Edited"]


def test_the_same_row_twice_is_decided_once(visit: Any, tmp_path: Path) -> None:
    seen = visit(written([ROWS[0], ROWS[1], ROWS[0]], tmp_path))
    seen.captions(2).first.get_by_role("button", name="Accept").click()
    assert seen.states(0) == seen.states(2) == ["Accepted", None, None]


def test_reloading_keeps_the_work(visit: Any, gallery: Path, tmp_path: Path) -> None:
    seen = visit(gallery)
    seen.press("j", "a", "r")
    seen.page.reload()
    assert seen.states() == ["Accepted", "Rejected", None]
    other = tmp_path / "other"
    other.mkdir()
    elsewhere = visit(written(ROWS[:2], other), context=seen.page.context)
    assert elsewhere.states() == [None, None, None]  # another dataset has its own work


def test_storage_that_holds_something_else_does_no_harm(visit: Any, gallery: Path) -> None:
    seen = visit(gallery)
    name = "Object.keys(localStorage).find(name => name.startsWith('hf_regioncap.review'))"
    seen.press("j", "a")
    [key] = seen.page.evaluate(f"JSON.parse(localStorage[{name}]).map(pair => pair[0])")
    for stored in ("{", "{}", "[1]", "null", f'[["{key}", {{"status": "toString"}}]]'):
        seen.page.evaluate(
            "([n, text]) => { localStorage[n] = text; }", [seen.page.evaluate(name), stored]
        )
        seen.page.reload()
        assert seen.states() == [None, None, None], stored


def test_two_tabs_tell_each_other(visit: Any, gallery: Path) -> None:
    one = visit(gallery)
    two = visit(gallery, context=one.page.context)
    two.captions().first.get_by_role("button", name="Accept").click()
    playwright.expect(one.captions().first.locator(".state")).to_have_text("Accepted")
    one.captions().nth(1).get_by_role("button", name="Reject").click()
    playwright.expect(two.captions().nth(1).locator(".state")).to_have_text("Rejected")
    assert two.states() == ["Accepted", "Rejected", None]


NO_STORAGE = """Object.defineProperty(window, "localStorage", {
    get() { throw new DOMException("denied", "SecurityError"); } });"""
FULL_STORAGE = """Storage.prototype.setItem = () => {
    throw new DOMException("full", "QuotaExceededError"); };"""


@pytest.mark.parametrize("script", [NO_STORAGE, FULL_STORAGE])
def test_without_storage_it_works_and_says_so(script: str, visit: Any, gallery: Path) -> None:
    seen = visit(gallery, script=script)
    assert "Your work is not kept" in seen.text("#notes")
    seen.press("j", "a", "t")
    assert seen.states()[0] == "Accepted"
    with seen.page.expect_download() as download:
        seen.press("s")
    assert len(json.loads(download.value.path().read_text())["regions"]) == 1


def test_saving_and_applying_a_review(visit: Any, gallery: Path, tmp_path: Path) -> None:
    seen = visit(gallery)
    assert seen.page.locator("#save").is_disabled()
    seen.press("j", "a", "r", "e")
    seen.page.keyboard.type(" 🏍️ </script>")
    seen.press("Enter")
    spoon = seen.captions(1).nth(1)
    spoon.get_by_role("button", name="Write a caption").click()
    spoon.locator("textarea").fill("a spoon")
    seen.press("Enter")
    with seen.page.expect_download() as download:
        seen.page.get_by_role("button", name="Save review").click()
    assert download.value.suggested_filename == "gallery.review.json"
    file = tmp_path / "saved.json"
    download.value.save_as(file)

    dataset = Dataset.from_list(ROWS, features=FEATURES)
    order = [2, 1, 0, 3]
    reviewed = apply_review(dataset.select(order), file)
    assert list(reviewed["review_status"]) == [
        [None],
        [None, "edited"],
        ["accepted", "rejected", "edited"],
        [],
    ]
    assert list(reviewed["caption_reviewed"]) == [
        [None],
        ["a cup of coffee", "a spoon"],
        ["a large cat", None, "a wall 🏍️ </script>"],
        [],
    ]

    fresh = visit(gallery)
    assert fresh.states() == [None, None, None]
    fresh.page.locator("#file").set_input_files(file)
    playwright.expect(fresh.page.locator("#toast")).to_contain_text("Loaded 4 decisions")
    assert fresh.states() == ["Accepted", "Rejected", "Edited"]
    assert fresh.states(1) == [None, "Edited"]
    fresh.press("u")  # one step takes all of it back
    assert fresh.states() == [None, None, None]


def test_files_that_are_no_review_are_refused(visit: Any, gallery: Path, tmp_path: Path) -> None:
    seen = visit(gallery)
    for text in ("", "{}", "[1]", '{"format": "hf_regioncap review"}', "null", "\x00"):
        (tmp_path / "file.json").write_text(text)
        seen.page.evaluate("document.getElementById('toast').hidden = true")
        seen.page.locator("#file").set_input_files(tmp_path / "file.json")
        playwright.expect(seen.page.locator("#toast")).to_be_visible()
        assert "not a review file" in seen.text("#toast"), text
        assert seen.states() == [None, None, None]


def test_clearing_can_be_undone(visit: Any, gallery: Path) -> None:
    seen = visit(gallery)
    seen.press("j", "a", "a", "a")
    seen.page.get_by_role("button", name="Clear", exact=True).click()
    assert seen.text("#done") == "0"
    seen.page.locator("#toast").get_by_role("button", name="Undo").click()
    assert seen.states() == ["Accepted"] * 3


def test_pages_are_linked_and_share_the_work(visit: Any, tmp_path: Path) -> None:
    write_gallery(ROWS, tmp_path / "my page.html", page_rows=2)
    seen = visit(tmp_path / "my page.html")
    assert seen.page.locator("article").count() == 2
    assert "4 rows" in seen.text("#facts")
    seen.press("j", "a")
    seen.page.locator("#pages").get_by_role("link", name="Next page").click()
    playwright.expect(seen.page.locator("#row-2")).to_be_visible()
    assert "1 on other pages" in seen.text("#of")
    with seen.page.expect_download() as download:
        seen.press("s")
    saved = tmp_path / "saved.json"
    download.value.save_as(saved)
    reviewed = apply_review(Dataset.from_list(ROWS, features=FEATURES), saved)
    assert reviewed["review_status"][0] == ["accepted", None, None]


# Attacks


def test_hostile_text_is_inert(visit: Any, tmp_path: Path) -> None:
    example = row(CAT, list(HOSTILE)) | {
        "label": HOSTILE,
        "region_boxes": BOXES + BOXES[:2],
        "prompt": HOSTILE[0],
        "answer": HOSTILE[1],
        "answer_status": HOSTILE[1],
        "answer_error": HOSTILE[0],
        "image": {"bytes": CAT, "path": HOSTILE[0]},
    }
    path = written(
        [example], tmp_path, title=HOSTILE[1], model=HOSTILE[0], recipe={HOSTILE[0]: HOSTILE[1]}
    )
    seen = visit(path)
    assert seen.page.title() == HOSTILE[1]
    seen.page.locator("article details summary").click()
    seen.page.locator("#made summary").click()
    seen.page.locator("#query").fill("<img")
    seen.page.wait_for_timeout(300)
    texts = seen.captions().locator(".text").evaluate_all("nodes => nodes.map(n => n.textContent)")
    assert texts == HOSTILE
    seen.captions().first.get_by_role("button", name="Edit").click()
    seen.captions().first.locator("textarea").fill(HOSTILE[1])
    seen.press("Enter")
    seen.page.wait_for_timeout(100)
    made = "[src='x'], [onerror], main script, aside script, main iframe, [href^='javascript']"
    assert seen.page.locator(made).count() == 0
    assert seen.page.locator("article img").count() == 1


ATTACKS = {
    "inline script": """() => { const s = document.createElement("script");
        s.text = "window.attacked = 1"; document.body.append(s); }""",
    "inline handler": """() => { const b = document.createElement("button");
        b.setAttribute("onclick", "window.attacked = 1"); document.body.append(b); b.click(); }""",
    "eval": "() => { setTimeout(() => window.eval('window.attacked = 1')); }",
    "markup": "() => { document.body.insertAdjacentHTML('beforeend', '<i>x</i>'); }",
    "picture": "() => { new Image().src = URL + 'a.png'; }",
    "fetch": "() => { fetch(URL).catch(() => {}); }",
    "beacon": "() => { navigator.sendBeacon(URL, 'captions'); }",
    "socket": "() => { new WebSocket(URL.replace('http', 'ws')); }",
    "style sheet": """() => { const l = document.createElement("link");
        l.rel = "stylesheet"; l.href = URL + "a.css"; document.head.append(l); }""",
    "inline style": """() => { const s = document.createElement("style");
        s.textContent = "body { display: none }"; document.head.append(s); }""",
    "font": """() => { const f = new FontFace("x", `url(${URL}a.woff2)`);
        f.load().catch(() => {}); }""",
    "script": """() => { const s = document.createElement("script");
        s.src = URL + "a.js"; document.body.append(s); }""",
    "frame": """() => { const f = document.createElement("iframe");
        f.src = URL; document.body.append(f); }""",
    "form": """() => { const f = document.createElement("form");
        f.action = URL; document.body.append(f); f.submit(); }""",
    "base": """() => { const b = document.createElement("base");
        b.href = URL; document.head.append(b); }""",
}


@pytest.fixture
def outside() -> Iterator[tuple[str, list[str]]]:
    """A server that the page must never reach, and what reached it."""
    reached: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reached.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", reached
        server.shutdown()
        thread.join()


def test_the_policy_stops_what_gets_in_all_the_same(
    browser: Any, gallery: Path, outside: tuple[str, list[str]]
) -> None:
    url, reached = outside
    page = browser.new_page()
    for name, attack in ATTACKS.items():
        page.goto(gallery.as_uri())
        page.evaluate(
            """() => { window.refused = [];
            addEventListener("securitypolicyviolation", e => refused.push(e.blockedURI)); }"""
        )
        # Playwright's own code is let in; what it does then is held to the page's policy.
        page.evaluate(f"() => {{ const URL = '{url}'; try {{ ({attack})(); }} catch {{ }} }}")
        page.wait_for_timeout(150)
        assert page.evaluate("window.refused.length") >= 1, name
        assert page.evaluate("window.attacked") is None, name
        assert page.url == gallery.as_uri(), name
        assert page.evaluate("getComputedStyle(document.body).display") == "block", name
        assert reached == [], name
    page.context.close()


def test_the_outside_can_be_reached_at_all(browser: Any, outside: tuple[str, list[str]]) -> None:
    url, reached = outside
    page = browser.new_page()
    page.goto(url)
    assert reached[0] == "/"
    page.context.close()


# Phones, colours, screen readers


def test_a_phone_has_the_photo_above_and_no_sideways_scrolling(visit: Any, gallery: Path) -> None:
    seen = visit(gallery, **PHONE)
    photo = seen.page.locator("article .frame").first.bounding_box()
    caption = seen.captions().first.bounding_box()
    assert photo["y"] + photo["height"] <= caption["y"]
    assert photo["width"] > 380
    assert seen.page.evaluate("document.documentElement.scrollWidth") == 390
    button = seen.captions().first.get_by_role("button", name="Accept").bounding_box()
    assert min(button["width"], button["height"]) >= 40
    seen.captions().first.get_by_role("button", name="Accept").tap()
    assert seen.states()[0] == "Accepted"
    assert seen.text("#dock-done") == "1"
    playwright.expect(seen.page.locator("#facet-status")).to_be_hidden()
    seen.page.get_by_role("button", name="Summary and filters").tap()
    seen.page.locator("#facet-status button", has_text="Request failed").tap()
    seen.page.get_by_role("button", name="Show 1 row").tap()
    playwright.expect(seen.page.locator("#facet-status")).to_be_hidden()
    playwright.expect(seen.page.locator("#row-2")).to_be_visible()
    playwright.expect(seen.page.locator("#row-0")).to_be_hidden()


def test_a_caption_chosen_on_a_phone_is_below_its_photo(visit: Any, tmp_path: Path) -> None:
    rows = [row(CAT, ["a caption of some length, line after line"] * 24)]
    rows[0] |= {"region_boxes": [[10.0 * k, 5.0 * k, 30, 30] for k in range(24)], "label": None}
    rows[0]["box_status"] = ["ok"] * 24
    seen = visit(written(rows, tmp_path), **PHONE)
    for _ in range(24):
        seen.press("j")
    seen.page.wait_for_timeout(100)
    photo = seen.page.locator("article .stage").bounding_box()
    chosen = seen.page.locator(".cap.here").bounding_box()
    assert seen.lit() == ["24"]
    assert 0 <= photo["y"] < photo["y"] + photo["height"] <= chosen["y"] + 1
    assert chosen["y"] + chosen["height"] <= 844


def test_numbers_of_24_boxes_do_not_cover_one_another(visit: Any, tmp_path: Path) -> None:
    boxes = [[12.0 * (k % 6) * 4 + 5, 12.0 * (k // 6) * 4 + 5, 44.0, 44.0] for k in range(24)]
    example = row(CAT, ["a patch"] * 24) | {"region_boxes": boxes, "label": None}
    seen = visit(written([example | {"box_status": ["ok"] * 24}], tmp_path))
    seen.page.locator(".tag").nth(23).wait_for()  # photos are put in after the page has opened
    tags = seen.page.locator(".tag").evaluate_all(
        """nodes => nodes.map(n => { const r = n.getBoundingClientRect();
        return [r.left, r.top, r.right, r.bottom]; })"""
    )
    assert len(tags) == 24
    for place, (left, top, right, bottom) in enumerate(tags):
        for other in tags[:place]:
            wide = min(right, other[2]) - max(left, other[0])
            high = min(bottom, other[3]) - max(top, other[1])
            assert min(wide, high) <= 1


CONTRAST = """(names) => {
    const style = getComputedStyle(document.documentElement);
    const canvas = document.createElement("canvas").getContext("2d");
    const light = (name) => {
        canvas.fillStyle = style.getPropertyValue(name);
        const hex = canvas.fillStyle;
        const part = (at) => {
            const v = parseInt(hex.slice(at, at + 2), 16) / 255;
            return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        };
        return 0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5);
    };
    return names.map(([a, b]) => {
        const [x, y] = [light(a), light(b)];
        return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
    });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark(scheme: str, visit: Any, gallery: Path) -> None:
    inks = ["--ink", "--ink-2", "--ink-3", "--ok", "--edit", "--bad", "--warn", "--calm"]
    pairs = [[ink, ground] for ink in inks for ground in ("--bg", "--surface")]
    seen = visit(gallery, color_scheme=scheme)
    ratios = dict(zip(map(tuple, pairs), seen.page.evaluate(CONTRAST, pairs), strict=True))
    # WCAG 2.2, 1.4.3: 4.5 to 1 for text.
    assert {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5} == {}


def test_the_theme_follows_the_system_until_one_is_chosen(visit: Any, gallery: Path) -> None:
    seen = visit(gallery, color_scheme="dark")
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    dark = seen.page.evaluate(ground)
    seen.page.get_by_role("button", name="Theme: system").click()
    seen.page.get_by_role("button", name="Theme: light").wait_for()
    light = seen.page.evaluate(ground)
    assert light != dark
    seen.page.reload()
    assert seen.page.evaluate(ground) == light
    seen.press("t")
    assert seen.page.evaluate(ground) == dark
    seen.press("t")
    seen.page.emulate_media(color_scheme="light")
    assert seen.page.evaluate(ground) == light


def test_what_a_screen_reader_meets(visit: Any, gallery: Path) -> None:
    seen = visit(gallery)
    seen.press("j")
    nameless = seen.page.locator("button, a, input, textarea").evaluate_all(
        """nodes => nodes.filter(n => !(n.getAttribute("aria-label") || n.innerText.trim()
            || n.labels?.length)).map(n => n.outerHTML)"""
    )
    assert nameless == []
    assert seen.page.locator("article").first.get_attribute("aria-label") == (
        "Row #0, Captioned, 3 regions"
    )
    assert seen.captions().first.get_attribute("aria-current") == "true"
    tree = seen.page.locator("main").aria_snapshot()
    assert 'article "Row #0, Captioned, 3 regions"' in tree
    assert 'img "Photo of row #0"' in tree
    assert "Region 1" in tree
    seen.press("a")
    playwright.expect(seen.page.locator("#live")).to_have_text("Accepted.")
    stops = seen.page.locator("article").first.locator("[tabindex='0']").count()
    assert stops == 1 + 1 + 3  # the photo, the chosen caption, its three buttons


def test_tab_reaches_the_photos_with_a_visible_focus(visit: Any, gallery: Path) -> None:
    seen = visit(gallery)
    seen.press("Tab")
    assert seen.page.evaluate("document.activeElement.innerText") == "Skip to the photos"
    seen.press("Enter", "Tab")
    assert seen.page.evaluate("document.activeElement.className") == "frame"
    outline = seen.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


# A thousand rows


def test_a_thousand_rows_open_at_once(visit: Any, tmp_path: Path) -> None:
    rows = (
        row(image, [f"caption {place}", f"another {place}"])
        for place in range(1000)
        for image in [(CAT, COFFEE, ROCKET)[place % 3]]
    )
    seen = visit(written(rows, tmp_path))
    assert seen.page.locator("article").count() == 1000
    playwright.expect(seen.page.locator("article img").first).to_be_visible()
    assert seen.page.locator("article img[src]").count() < 40
    # The text of all of them gets in by and by, for the browser's own search.
    playwright.expect(seen.page.locator(".cap")).to_have_count(2000, timeout=60_000)
    seen.page.evaluate("document.getElementById('row-700').scrollIntoView()")
    seen.page.locator("#row-700 img[src]").wait_for()
    assert seen.page.locator("article img[src]").count() < 60
    seen.page.locator("#query").fill("caption 999")
    playwright.expect(seen.page.locator("#count")).to_have_text("1 of 1,000 rows")
    playwright.expect(seen.page.locator("#row-999")).to_be_visible()
    seen.press("Escape", "Escape")
