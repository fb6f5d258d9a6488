from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from forks import forks, in_a_fork
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_regioncap import colors, overlay
from hf_regioncap import labels as places
from hf_regioncap.crops import crop_region, crop_window
from hf_regioncap.errors import OptionError
from hf_regioncap.marks import MARKS, PALETTE, Mark, mark_as_dict, resolve_mark
from hf_regioncap.overlay import draw_regions, region_colors

PRESETS = tuple(MARKS)
TWO = [[60, 60, 260, 220], [350, 200, 600, 440]]


def photo(width: int = 640, height: int = 480, seed: int = 0) -> Image.Image:
    """A picture without flat areas, so that whatever is painted changes it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 200, (max(1, height // 40), max(1, width // 40), 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.integers(0, 30, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(np.asarray(smooth) // 2 + noise + 30)


def flat(color: str | tuple[int, int, int], width: int = 640, height: int = 480) -> Image.Image:
    return Image.new("RGB", (width, height), color)


def changed(before: Image.Image, after: Image.Image) -> np.ndarray:
    return (np.asarray(before) != np.asarray(after)).any(axis=-1)


def random_boxes(rng: np.random.Generator, count: int, width: int, height: int) -> np.ndarray:
    corners = rng.uniform(0, 1, (count, 2, 2)) * [width, height]
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


# Marks


def test_marks_are_those_of_the_contract() -> None:
    assert PRESETS == ("box", "corners", "tag", "dim", "blur", "dataflow")
    assert resolve_mark("box") == Mark()


@pytest.mark.parametrize("name", PRESETS)
def test_mark_survives_json(name: str) -> None:
    stored = json.loads(json.dumps(mark_as_dict(MARKS[name])))
    assert resolve_mark(stored) == MARKS[name]
    assert resolve_mark({"preset": name}) == resolve_mark(name) == MARKS[name]


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        ({}, Mark()),
        ({"colors": "#ABCDEF"}, Mark(colors=("#abcdef",))),
        ({"colors": ["#000000", "#ffffff"]}, Mark(colors=("#000000", "#ffffff"))),
        ({"preset": "dataflow", "darken": 0}, Mark(**{**vars(MARKS["dataflow"]), "darken": 0})),
        (Mark(label="none"), Mark(label="none")),
    ],
)
def test_resolve_mark(mark: object, expected: Mark) -> None:
    assert resolve_mark(mark) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mark", "says"),
    [
        ("circle", ["mark", "'circle'", "'box'", "'dataflow'"]),
        ("", ["mark", "''", "'box'"]),
        (None, ["mark", "None", "'box'"]),
        (3, ["mark", "3", "'box'"]),
        ({"preset": "red"}, ["mark['preset']", "'red'", "'corners'"]),
        ({"color": "#ff0000"}, ["mark", "'color'", "'colors'", "'thickness'"]),
        ({"shape": "star"}, ["mark['shape']", "'star'", "'hairline'"]),
        ({"shape": ["box"]}, ["mark['shape']", "['box']"]),
        ({"label": True}, ["mark['label']", "True", "'plate'"]),
        ({"label_at": "left"}, ["mark['label_at']", "'left'", "'corner'"]),
        ({"outside": "gray"}, ["mark['outside']", "'gray'", "'blur'"]),
        ({"colors": "red"}, ["mark['colors']", "'red'", "#rrggbb"]),
        ({"colors": "#12345g"}, ["mark['colors']", "'#12345g'"]),
        ({"colors": ["#ff0000", "blue"]}, ["mark['colors']", "'blue'"]),
        ({"colors": []}, ["mark['colors']", "[]"]),
        ({"colors": 0xFF0000}, ["mark['colors']", "16711680"]),
        ({"thickness": 0}, ["mark['thickness']", "0", "None"]),
        ({"thickness": "3"}, ["mark['thickness']", "'3'"]),
        ({"thickness": float("nan")}, ["mark['thickness']", "nan"]),
        ({"label_size": True}, ["mark['label_size']", "True"]),
        ({"strength": 1.5}, ["mark['strength']", "1.5", "0 to 1"]),
        ({"darken": -0.1}, ["mark['darken']", "-0.1"]),
        ({"casing": 1}, ["mark['casing']", "1"]),
    ],
)
def test_resolve_mark_names_what_is_wrong(mark: object, says: list[str]) -> None:
    with pytest.raises(OptionError) as error:
        resolve_mark(mark)  # type: ignore[arg-type]
    assert all(word in str(error.value) for word in says), str(error.value)


@pytest.mark.parametrize(
    "parameter",
    [
        {"shape": "corners"},
        {"shape": "hairline"},
        {"shape": "none"},
        {"colors": "#123456"},
        {"thickness": 9},
        {"casing": False},
        {"label": "dark"},
        {"label": "text"},
        {"label": "none"},
        {"label_at": "corner"},
        {"label_at": "center"},
        {"label_size": 40},
        {"outside": "dim"},
        {"outside": "blur"},
        {"darken": 0.3},
    ],
    ids=str,
)
def test_each_parameter_has_an_effect(parameter: dict[str, object]) -> None:
    assert changed(draw_regions(photo(), TWO), draw_regions(photo(), TWO, mark=parameter)).any()


@pytest.mark.parametrize("preset", ["dim", "blur"])
def test_strength_has_an_effect(preset: str) -> None:
    weak, strong = (
        draw_regions(photo(), TWO, mark={"preset": preset, "strength": strength})
        for strength in (0.2, 0.9)
    )
    assert changed(weak, strong).mean() > 0.4
    off = draw_regions(photo(), TWO, mark={"preset": preset, "strength": 0})
    assert changed(off, photo()).mean() < 0.1


# Drawing


@pytest.mark.parametrize("none", [[], np.zeros((0, 4)), [[]]], ids=["list", "array", "nested"])
@pytest.mark.parametrize("mark", PRESETS)
def test_no_boxes_give_a_plain_copy(none: object, mark: str) -> None:
    source = photo(60, 40)
    copy = draw_regions(source, none, mark=mark)  # type: ignore[arg-type]
    assert copy == source
    assert copy is not source


@pytest.mark.parametrize("mark", PRESETS)
def test_source_is_unchanged(mark: str) -> None:
    source = photo()
    source.info["exif"] = b"GPS"
    boxes = np.array(TWO, dtype=np.float64)
    before = source.tobytes(), boxes.tobytes()
    marked = draw_regions(source, boxes, mark=mark)
    crop_region(source, boxes[0], mark=mark)
    assert (source.tobytes(), boxes.tobytes()) == before
    assert source.info == {"exif": b"GPS"}
    assert marked.size == source.size
    assert marked.mode == "RGB"
    assert marked.info == {}


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    source = photo(120, 90).convert(mode)
    assert draw_regions(source, [[10, 10, 80, 60]]).mode == "RGB"
    assert crop_region(source, [10, 10, 40, 40]).mode == "RGB"


@pytest.mark.parametrize("size", [(200, 150), (640, 480), (4000, 3000)])
@pytest.mark.parametrize("mark", ["box", "tag", "dataflow"])
def test_frames_lie_along_all_edges(size: tuple[int, int], mark: str) -> None:
    source = photo(*size)
    x0, y0, x1, y1 = (round(share * size[i % 2]) for i, share in enumerate((0.2, 0.3, 0.7, 0.8)))
    touched = changed(source, draw_regions(source, [[x0, y0, x1, y1]], mark=mark))
    reach = 2 + size[0] // 150
    for edge in (
        touched[y0 - reach : y0 + reach, x0:x1].any(axis=0),
        touched[y1 - reach : y1 + reach, x0:x1].any(axis=0),
        touched[y0:y1, x0 - reach : x0 + reach].any(axis=1),
        touched[y0:y1, x1 - reach : x1 + reach].any(axis=1),
    ):
        assert edge.mean() > 0.98


def test_corners_leave_the_middle_of_edges_alone() -> None:
    source = photo()
    touched = changed(source, draw_regions(source, [[100, 100, 500, 400]], mark="corners"))
    assert touched[98:104, 105:180].any(axis=0).all()
    assert not touched[:, 260:340].any()
    assert not touched[230:270].any()


@pytest.mark.parametrize("size", [(200, 150), (640, 480), (4000, 3000)])
def test_the_photo_is_kept_beyond_stroke_and_label(size: tuple[int, int]) -> None:
    source = photo(*size)
    x0, y0, x1, y1 = (round(share * size[i % 2]) for i, share in enumerate((0.3, 0.4, 0.7, 0.8)))
    touched = changed(source, draw_regions(source, [[x0, y0, x1, y1]]))
    stroke, label = 3 + size[0] // 120, 14 + size[1] // 12
    assert not touched[y0 + stroke : y1 - stroke, x0 + stroke : x1 - stroke].any()
    touched[y0 - label : y1 + stroke, x0 - stroke : x1 + stroke] = False
    assert not touched.any()


@pytest.mark.parametrize("mark", ["box", "corners", "tag"])
@pytest.mark.parametrize("side", [1, 4, 9, 20])
def test_small_boxes_show_their_content(mark: str, side: int) -> None:
    source = photo()
    x0, y0, x1, y1 = 300, 200, 300 + side, 200 + side
    touched = changed(source, draw_regions(source, [[x0, y0, x1, y1]], mark=mark))
    assert not touched[y0:y1, x0:x1].any()
    assert touched[y0 - 8 : y1 + 8, x0 - 8 : x1 + 8].any()


def test_boxes_that_share_an_edge_keep_a_side_each() -> None:
    boxes = [[0, 0, 320, 480], [320, 0, 640, 480]]
    colors = [tuple(bytes.fromhex(color[1:])) for color in region_colors(photo(), boxes)]
    row = np.asarray(draw_regions(photo(), boxes))[300]
    for color, columns in zip(colors, (slice(300, 320), slice(320, 340)), strict=True):
        assert (row[columns] == color).all(axis=-1).any()
    assert colors[0] != colors[1]
    assert not (row[320:340] == colors[0]).all(axis=-1).any()


@pytest.mark.parametrize("mark", PRESETS)
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 600), (9, 7), (28, 28), (3000, 5)])
def test_tiny_images(size: tuple[int, int], mark: str) -> None:
    source = photo(*size)
    boxes = [[0, 0, *size], [0, 0, 1, 1], [size[0] - 1, size[1] - 1, *size], [0.2, 0.2, 0.4, 0.4]]
    assert draw_regions(source, boxes, mark=mark).size == size
    for box in boxes:
        crop_region(source, box, mark=mark)


@pytest.mark.parametrize("thickness", [1, 7.5, 1000])
@pytest.mark.parametrize("shape", ["box", "corners", "hairline"])
def test_any_thickness_can_be_drawn(shape: str, thickness: float) -> None:
    boxes = [[10, 10, 12, 90], [50, 20, 100, 80], [0, 0, 120, 100]]
    mark = {"shape": shape, "thickness": thickness}
    assert changed(photo(120, 100), draw_regions(photo(120, 100), boxes, mark=mark)).any()


@pytest.mark.parametrize(
    "box", [[-50, -50, 30, 30], [600, 400, 900, 900], [-9, -9, 999, 999], [639.6, 479.6, 640, 480]]
)
@pytest.mark.parametrize("mark", PRESETS)
def test_boxes_at_and_over_the_edges(box: list[float], mark: str) -> None:
    assert changed(photo(), draw_regions(photo(), [box], mark=mark)).any()


def test_fractions_of_pixels_are_rounded() -> None:
    assert draw_regions(photo(), [[60.4, 59.6, 260.2, 219.9]]) == draw_regions(photo(), TWO[:1])


@pytest.mark.parametrize(
    "boxes", [[1, 2, 3, 4], [[1, 2, 3]], [[1, 2, 3, float("nan")]], [[1, 2, 3, float("inf")]]]
)
def test_wrong_boxes_are_refused(boxes: list[object]) -> None:
    with pytest.raises(OptionError, match="xyxy must be finite numbers of shape"):
        draw_regions(photo(20, 20), boxes)  # type: ignore[arg-type]


def test_dim_darkens_only_what_is_outside() -> None:
    source = flat((200, 100, 50))
    marked = np.asarray(draw_regions(source, [[200, 150, 400, 350]], mark="dim"))
    assert marked[250, 300].tolist() == [200, 100, 50]
    assert marked[30, 30].tolist() == [100, 50, 25]


def test_blur_smooths_only_what_is_outside() -> None:
    source = np.asarray(photo(), dtype=float)
    marked = np.asarray(draw_regions(photo(), [[200, 150, 400, 350]], mark="blur"), dtype=float)
    assert (marked[170:330, 220:380] == source[170:330, 220:380]).all()
    rough, smooth = (np.abs(np.diff(x[400:, 450:], axis=1)).mean() for x in (source, marked))
    assert smooth < rough / 5


def test_dataflow_is_the_seeds_program() -> None:
    marked = np.asarray(draw_regions(flat((200, 100, 50)), [[100, 100, 300, 300]], mark="dataflow"))
    assert marked[400, 500].tolist() == [160, 80, 40]
    assert marked[200, 200].tolist() == [160, 80, 40]
    green = (marked == [0, 255, 0]).all(axis=-1)
    assert green[200].nonzero()[0].tolist() == [100, 101, 298, 299]
    corner = marked[100:130, 100:125].reshape(-1, 3)
    assert (corner == 0).all(axis=-1).any()
    assert (corner == 255).all(axis=-1).any()


def test_regions_carry_their_numbers() -> None:
    """Looks for each digit's own shape, black on white, around each box."""
    boxes = [[60 + 190 * (k % 3), 80 + 200 * (k // 3), 140 + 190 * (k % 3), 200 * (k // 3) + 150]
             for k in range(6)]  # fmt: skip
    mark = resolve_mark({"colors": "#ffffff"})
    marked = np.asarray(draw_regions(flat("gray"), boxes, mark=mark).convert("L"))
    size = overlay._label_size(mark, len(boxes), (640, 480))
    for k, (x0, y0, x1, y1) in enumerate(boxes, start=1):
        around = marked[y0 - 45 : y1 + 45, x0 - 45 : x1 + 45]
        seen = []
        for number in range(1, 7):
            ink = 255 - np.asarray(overlay._digits(str(number), size)).astype(int)
            windows = np.lib.stride_tricks.sliding_window_view(around, ink.shape)
            if (np.abs(windows - ink).max(axis=(2, 3)) <= 1).any():
                seen.append(number)
        assert seen == [k]


def test_same_input_same_pixels() -> None:
    boxes = random_boxes(np.random.default_rng(3), 20, 640, 480)
    first = draw_regions(photo(), boxes)
    overlay._digits.cache_clear()
    overlay._palette.cache_clear()
    assert draw_regions(photo(), boxes) == first


def test_threads_draw_the_same() -> None:
    sizes = [(300 + 17 * k, 260 + 11 * k) for k in range(24)]
    boxes = [random_boxes(np.random.default_rng(k), 12, *size) for k, size in enumerate(sizes)]
    sources = [photo(*size) for size in sizes]
    one_by_one = [draw_regions(*case).tobytes() for case in zip(sources, boxes, strict=True)]
    overlay._digits.cache_clear()
    overlay._font.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        at_once = [marked.tobytes() for marked in pool.map(draw_regions, sources, boxes)]
    assert at_once == one_by_one


# Sizes and colours


@pytest.mark.parametrize(
    ("size", "count", "digit"),
    [
        ((200, 150), 1, (8, 16)),
        ((200, 150), 24, (7, 12)),
        ((640, 480), 1, (13, 22)),
        ((640, 480), 24, (11, 20)),
        ((4000, 3000), 10, (80, 140)),
    ],
)
def test_digits_are_scaled_to_the_image(
    size: tuple[int, int], count: int, digit: tuple[int, int]
) -> None:
    font_size = overlay._label_size(MARKS["box"], count, size)
    assert digit[0] <= overlay._digits("8", font_size).height <= digit[1]


@pytest.mark.parametrize("color", PALETTE)
def test_a_region_stands_out_from_what_is_under_its_edges(color: str) -> None:
    assert region_colors(flat(color), [[100, 100, 200, 200]]) != (color,)


def test_a_single_colour_is_kept() -> None:
    assert region_colors(flat("#00ff00"), TWO, mark={"colors": "#00ff00"}) == ("#00ff00",) * 2
    assert region_colors(photo(), []) == ()


@pytest.mark.parametrize("seed", range(5))
def test_neighbours_differ(seed: int) -> None:
    boxes = [[200 + 3 * k, 150 + 2 * k, 300 + 3 * k, 250 + 2 * k] for k in range(len(PALETTE))]
    assert sorted(region_colors(photo(seed=seed), boxes)) == sorted(PALETTE)


def test_frames_are_drawn_in_their_regions_colours() -> None:
    marked = np.asarray(draw_regions(photo(), TWO))
    for (x0, y0, x1, y1), color in zip(TWO, region_colors(photo(), TWO), strict=True):
        wanted = list(bytes.fromhex(color[1:]))
        row = marked[(y0 + y1) // 2, x0 - 3 : x1 + 3]
        assert (row == wanted).all(axis=-1).sum() >= 4  # both sides, two pixels at least


#: Severity 1.0 of Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation
#: of Color Vision Deficiency" (2009), on linear sRGB.
COLOR_BLINDNESS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
    "none": np.eye(3).tolist(),
}


@pytest.mark.parametrize(
    ("kind", "least"),
    [("none", 0.17), ("protanopia", 0.09), ("deuteranopia", 0.09), ("tritanopia", 0.09)],
)
def test_palette_stays_apart_for_the_colour_blind(kind: str, least: float) -> None:
    linear = colors.LINEAR[np.array([colors.parse_color(color) for color in PALETTE])]
    seen = (linear @ np.array(COLOR_BLINDNESS[kind]).T).clip(0, 1)
    lab = np.cbrt(seen @ colors._TO_LMS.T) @ colors._TO_LAB.T
    apart = np.linalg.norm(lab[:, None] - lab, axis=-1) + np.eye(len(PALETTE))
    assert apart.min() >= least


@pytest.mark.parametrize(
    ("color", "expected"),
    [
        ((0, 0, 0), 255),
        ((255, 255, 255), 0),
        ((0, 0, 128), 255),
        ((255, 255, 0), 0),
        ((255, 51, 34), 0),  # 5.9:1 with black, 3.5:1 with white
        ((0, 114, 178), 255),  # 4.0:1 with black, 5.2:1 with white
    ],
)
def test_contrast(color: tuple[int, int, int], expected: int) -> None:
    assert overlay._contrast(color) == (expected,) * 3


@pytest.mark.parametrize(("color", "casing"), [("#ffee33", 0), ("#000080", 255)])
def test_lines_are_cased(color: str, casing: int) -> None:
    marked = draw_regions(flat("gray"), [[100, 100, 300, 300]], mark={"colors": color})
    row = np.asarray(marked)[200, 90:110]
    (line,) = (row == list(bytes.fromhex(color[1:]))).all(axis=-1).nonzero()
    assert line.tolist() == list(range(line[0], line[0] + 3))
    assert (row[[line[0] - 1, line[-1] + 1]] == casing).all()
    assert (row[[line[0] - 2, line[-1] + 2]] == 128).all()


# Labels


def place(boxes: np.ndarray, size_wh: tuple[int, int], **options: object) -> np.ndarray:
    label_wh = [(20 if k < 9 else 28, 20) for k in range(len(boxes))]
    frames = [tuple(frame) for frame in np.rint(boxes).astype(int).tolist()]
    placed = places.place_labels(frames, label_wh, size_wh, **options)  # type: ignore[arg-type]
    return np.array(placed).reshape(-1, 4)


def shared_area(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of rectangles (..., 4), broadcast against each other."""
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    return np.maximum(width, 0) * np.maximum(height, 0)


def overlaps(rects: np.ndarray) -> int:
    return int((np.triu(shared_area(rects[:, None], rects), 1) > 0).sum())


def inside(rects: np.ndarray, size_wh: tuple[int, int]) -> bool:
    return bool((rects[:, :2] >= 0).all() and (rects[:, 2:] <= size_wh).all())


def test_no_frames_no_labels() -> None:
    assert place(np.zeros((0, 4)), (640, 480)).shape == (0, 4)


@pytest.mark.parametrize("at", ["auto", "corner", "center"])
@settings(max_examples=40)
@given(count=st.integers(1, 24), seed=st.integers(0, 2**32 - 1), small=st.booleans())
def test_labels_lie_in_the_image_and_not_on_one_another(
    at: str, count: int, seed: int, small: bool
) -> None:
    size_wh = (320, 240) if small else (640, 480)
    boxes = random_boxes(np.random.default_rng(seed), count, *size_wh)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1).clip(max=size_wh)
    boxes[:, :2] = np.minimum(boxes[:, :2], boxes[:, 2:] - 1)
    labels = place(boxes, size_wh, at=at, join=1)
    assert inside(labels, size_wh)
    assert overlaps(labels) == 0
    wide = [20 if k < 9 else 28 for k in range(count)]
    assert (labels[:, 2] - labels[:, 0]).tolist() == wide


def test_labels_of_equal_boxes_spread_out() -> None:
    labels = place(np.tile([[200.0, 150, 400, 300]], (24, 1)), (640, 480))
    assert inside(labels, (640, 480))
    assert overlaps(labels) == 0


def test_labels_stay_inside_even_where_they_do_not_fit() -> None:
    labels = place(np.tile([[5.0, 5, 25, 25]], (24, 1)), (60, 50))
    assert inside(labels, (60, 50))


@pytest.mark.parametrize("size", [(12, 12), (60, 40), (300, 200)])
@pytest.mark.parametrize("corner", [(0, 0), (200, 180), (330, 270)])
def test_a_label_touches_its_frame(size: tuple[int, int], corner: tuple[int, int]) -> None:
    frame = np.array([[*corner, corner[0] + size[0], corner[1] + size[1]]], dtype=float)
    (label,) = place(frame, (640, 480)).astype(float)
    assert places.leader(tuple(label), tuple(frame[0])) is None


def test_labels_keep_off_small_boxes() -> None:
    # The place above the first box, where its label would go, is taken by the small ones.
    small = [[100.0 + 14 * k, 80, 110 + 14 * k, 95] for k in range(6)]
    boxes = np.array([[100.0, 100, 300, 250], *small])
    labels = place(boxes, (640, 480)).astype(float)
    assert shared_area(labels[:, None], boxes[1:]).sum() == 0
    assert overlaps(labels) == 0


@pytest.mark.parametrize(
    ("size", "step", "count"), [((8, 60), 9, 6), ((6, 6), 8, 5), ((8, 87), 6, 8), ((6, 60), 4, 9)]
)
def test_leader_lines_run_clear_of_other_labels(
    size: tuple[int, int], step: int, count: int
) -> None:
    left = [200.0 + k * step for k in range(count)]
    frames = [(x, 150.0, x + size[0], 150.0 + size[1]) for x in left]
    labels = [tuple(label) for label in place(np.array(frames), (640, 480)).tolist()]
    lines = [places.along_leader(*pair) for pair in zip(labels, frames, strict=True)]
    assert any(lines)
    for k, line in enumerate(lines):
        assert all(places.is_free(bit, labels[:k] + labels[k + 1 :]) for bit in line)


def test_corner_and_center_are_taken_where_asked() -> None:
    boxes = np.array([[100.0, 100, 300, 250], [400, 300, 600, 450]])
    assert place(boxes, (640, 480), at="corner")[:, :2].tolist() == [[100, 100], [400, 300]]
    centers = place(boxes, (640, 480), at="center")
    assert ((centers[:, :2] + centers[:, 2:]) // 2).tolist() == [[200, 175], [500, 375]]


# Crops


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((640, 480), [300, 200, 301, 201]),
        ((640, 480), [0, 0, 5, 5]),
        ((640, 480), [635, 475, 640, 480]),
        ((640, 480), [100, 50, 500, 450]),
        ((640, 480), [0, 0, 640, 480]),
        ((640, 640), [300, 20, 301, 620]),
        ((700, 640), [10, 300, 690, 302]),
        ((4000, 3000), [100, 100, 3900, 2900]),
        ((200, 150), [50, 50, 60, 60]),
        ((1, 600), [0, 0, 1, 600]),
        ((600, 1), [10, 0, 12, 1]),
        ((2, 1), [0, 0, 1, 1]),
    ],
)
@pytest.mark.parametrize("context", [1.0, 3.0])
def test_crops_suit_what_models_read(size: tuple[int, int], box: list[int], context: float) -> None:
    crop = crop_region(photo(*size), box, context=context)
    assert min(crop.size) >= 28
    assert max(crop.size) <= 200 * min(crop.size)
    assert max(crop.size) <= 1536
    if min(size) >= 150 and context == 3:
        assert min(crop.size) >= 240
        assert max(crop.size) <= 5 * min(crop.size)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 2**32 - 1), st.floats(1, 5))
def test_crop_window_holds_the_box_and_lies_in_the_image(
    width: int, height: int, seed: int, context: float
) -> None:
    (box,) = random_boxes(np.random.default_rng(seed), 1, width, height)
    x0, y0, x1, y1 = crop_window((width, height), box, context=context)
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    assert np.all(np.rint(box) >= [x0, y0, x0, y0])
    assert np.all(np.rint(box) <= [x1, y1, x1, y1])


@pytest.mark.parametrize(
    ("box", "context", "window"),
    [
        ([300, 200, 340, 240], 3, (260, 160, 380, 280)),  # three times the box
        ([0, 200, 60, 240], 3, (0, 160, 120, 280)),  # clipped
        ([100, 100, 160, 140], 1, (100, 100, 160, 140)),  # no context
        ([10, 10, 630, 470], 3, (10, 10, 630, 470)),  # nearly all of the image: none
        ([0, 0, 4, 4], 3, (0, 0, 111, 111)),  # tiny: a fifth of the image
    ],
)
def test_crop_window(box: list[int], context: float, window: tuple[int, ...]) -> None:
    assert crop_window((640, 480), box, context=context) == window


def test_the_larger_the_box_the_less_context() -> None:
    boxes = [[320 - 4 * k, 240 - 3 * k, 320 + 4 * k, 240 + 3 * k] for k in range(2, 80, 6)]
    windows = [crop_window((640, 480), box) for box in boxes]
    factors = [
        (x1 - x0) / (box[2] - box[0]) for (x0, _, x1, _), box in zip(windows, boxes, strict=True)
    ]
    assert factors == sorted(factors, reverse=True)
    assert factors[0] > 3
    assert factors[-1] < 1.1


@pytest.mark.parametrize("mark", PRESETS)
def test_a_crop_shows_and_marks_its_box(mark: str) -> None:
    source = photo()
    crop = crop_region(source, [300, 200, 420, 320], mark=mark, min_side=1)
    window = source.crop((180, 80, 540, 440))
    assert crop.size == window.size
    if MARKS[mark].darken == 0:
        assert not changed(window, crop)[128:232, 128:232].any()
    assert changed(window, crop)[125:140, 116:124].any()


def test_a_crop_without_context_has_no_mark() -> None:
    assert crop_region(photo(), [0, 0, 640, 480]) == photo()
    assert crop_region(photo(), [100, 50, 500, 450], context=1) == photo().crop((100, 50, 500, 450))


@pytest.mark.parametrize(
    ("box", "options", "size"),
    [
        ([300, 200, 340, 240], {}, (336, 336)),
        ([300, 200, 340, 240], {"min_side": 224}, (224, 224)),
        ([300, 200, 310, 210], {"context": 1}, (80, 80)),  # eight times at most
        ([300, 200, 302, 202], {"context": 1}, (28, 28)),  # padded
        ([0, 0, 640, 480], {"max_side": 320}, (320, 240)),
        ([0, 0, 640, 240], {"context": 1, "max_side": 700}, (700, 262)),  # max_side counts more
    ],
)
def test_crop_sizes(box: list[int], options: dict[str, float], size: tuple[int, int]) -> None:
    assert crop_region(photo(), box, **options).size == size  # type: ignore[arg-type]


def test_thin_crops_are_padded_with_grey() -> None:
    crop = np.asarray(crop_region(flat("red", 1, 600), [0, 0, 1, 600]))
    assert crop.shape[1] == 28
    assert (crop[:, 0] == 128).all()
    assert (crop[700, 14] == [255, 0, 0]).all()


def test_crops_are_enlarged_smoothly() -> None:
    source = flat("black", 640, 480)
    source.paste("white", (320, 0, 640, 480))
    crop = crop_region(source, [300, 200, 340, 240], mark={"thickness": 1})
    grays = np.unique(np.asarray(crop.convert("L"))[10])
    assert len(grays) > 4


@pytest.mark.parametrize("context", [0.5, float("nan"), -1])
def test_wrong_context_is_refused(context: float) -> None:
    with pytest.raises(OptionError, match="context must be a number from 1"):
        crop_region(photo(20, 20), [1, 1, 9, 9], context=context)


@pytest.mark.parametrize("box", [[], [1, 2, 3], [[1, 2, 3, 4]]])
def test_wrong_box_is_refused(box: list[object]) -> None:
    with pytest.raises(OptionError, match="xyxy_one must be four finite numbers"):
        crop_region(photo(20, 20), box)  # type: ignore[arg-type]


@forks
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_is_forked_while_a_number_is_drawn_can_draw() -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with overlay._FONT_LOCK:
            held.set()
            release.wait(200)

    size = {"label_size": 37}  # one that no other test has drawn
    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold)
        held.wait(60)
        try:
            assert in_a_fork(lambda: draw_regions(photo(), TWO, mark=size)) == 0
        finally:
            release.set()
            holding.result(60)
    draw_regions(photo(), TWO, mark=size)
