"""The pictures and the page: true to the bytes, whole, and safe whatever the words are."""

import base64
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.memory.cases import QWEN_7B, SMOLLM2, cpu, gpu, recipe, source
from tests.recipes import tiny_recipe
from tunesmith.artifacts import Plan
from tunesmith.memory.bill import peaks
from tunesmith.memory.canvas import Canvas, Type, gib, shortened, text_width, ticks
from tunesmith.memory.constants import GIB
from tunesmith.memory.owners import OTHER, OWNERS, owner_named, owner_of
from tunesmith.memory.page import page
from tunesmith.memory.picture import bill_image, bill_svg, markdown_image
from tunesmith.memory.plan import make_plan
from tunesmith.memory.said import BillItem, Rejected
from tunesmith.memory.timeline import timeline_svg
from tunesmith.specs.recipe import Recipe

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</title></svg><script>alert('x')</script> & \"quoted\" \x00 漢字"


class Moment(NamedTuple):
    event: int
    phase: str
    owners: Mapping[str, int]


def course(phases: tuple[str, ...] = ("forward", "backward", "optimizer")) -> list[Moment]:
    """Activations come and go, a hundred moments a phase."""
    return [
        Moment(7 * index, phases[index // 100], {"weights": 3 * GIB, "activations MLP": (150 - abs(150 - index)) * GIB // 50})
        for index in range(100 * len(phases))
    ]  # fmt: skip


def parsed(svg: str) -> ElementTree.Element:
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    return root


def words(svg: str) -> list[str]:
    return [element.text or "" for element in parsed(svg).iter(f"{SVG}text")]


def segments(svg: str) -> dict[str, list[tuple[str, float, float]]]:
    """By phase: what the pointer is told, left edge and length."""
    found: dict[str, list[tuple[str, float, float]]] = {}
    for rect in parsed(svg).iter(f"{SVG}rect"):
        if hint := rect.findtext(f"{SVG}title"):
            place = (hint, float(rect.attrib["x"]), float(rect.attrib["width"]))
            found.setdefault(hint.partition(":")[0], []).append(place)
    return found


def layers(svg: str) -> list[list[tuple[float, float]]]:
    outlines = (polygon.attrib["points"] for polygon in parsed(svg).iter(f"{SVG}polygon"))
    return [[tuple(map(float, point.split(","))) for point in outline.split()] for outline in outlines]  # type: ignore[misc]


def text_boxes(svg: str) -> Iterator[tuple[str, float, float, float, float]]:
    """Words with the left, right, upper and lower edge of the room they take at most."""
    for element in parsed(svg).iter(f"{SVG}text"):
        facts, size = element.attrib, float(element.attrib["font-size"])
        width = text_width(element.text or "", Type(size, bold="font-weight" in facts))
        left = float(facts["x"]) - {"start": 0, "middle": width / 2, "end": width}[facts["text-anchor"]]
        baseline = float(facts["y"])
        yield element.text or "", left, left + width, baseline - 0.8 * size, baseline + 0.2 * size


def planned(asked: Recipe | None = None, device_gib: float = 24) -> Plan:
    return make_plan(asked or recipe(), source(QWEN_7B), gpu(device_gib))


def small(device_gib: float = 64) -> Plan:
    asked = recipe({"method": "lora", "rank": 16, "max_length": 256}, quantize={"method": "none"})
    return make_plan(asked, source(SMOLLM2, "HuggingFaceTB/SmolLM2-135M", 0.25), cpu(device_gib))


PLANS = {
    "a GPU nearly full": planned(),
    "a GPU with ample room": planned(device_gib=80),
    "a CPU": small(),
    "too much": planned().model_copy(update={"budget_bytes": 2 * GIB}),
    "next to nothing allowed": planned().model_copy(update={"budget_bytes": GIB // 50}),
    "nothing in it": planned().model_copy(update={"bill": ()}),
}
every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())


@every_plan
def test_lengths_are_proportional_to_the_bytes_and_add_up_to_the_phase(plan: Plan) -> None:
    found, sums = segments(bill_svg(plan, 0.1)), peaks(plan.bill)
    assert found.keys() == sums.keys()
    per_byte = {sum(width for *_, width in bars) / sums[phase] for phase, bars in found.items()}
    assert not per_byte or max(per_byte) == pytest.approx(min(per_byte), rel=2e-3)
    for phase, bars in found.items():
        items = sorted(item.bytes for item in plan.bill if item.phase == phase and item.place == "device")
        assert sorted(width for *_, width in bars) == pytest.approx([max(per_byte) * size for size in items], abs=0.1)
        for (_, left, width), (_, following, _) in pairwise(bars):
            assert left + width == pytest.approx(following, abs=0.02)


@every_plan
def test_every_phase_every_sum_and_the_limits_are_written(plan: Plan) -> None:
    found = words(bill_svg(plan, 0.1))
    assert {item.phase for item in plan.bill} <= set(found)
    assert {gib(size) for size in peaks(plan.bill).values()} <= set(found)
    assert any(line.startswith(f"may use {gib(plan.budget_bytes)} GiB") for line in found)
    assert any(line.startswith(f"device has {gib(plan.budget_bytes / 0.9)} GiB") for line in found)
    assert not any("device has" in line for line in words(bill_svg(plan)))


def test_the_budgets_line_stands_where_the_bars_would_end_that_were_that_long() -> None:
    plan = PLANS["a GPU nearly full"]
    svg = bill_svg(plan)
    bar = segments(svg)["train"]
    length = bar[-1][1] + bar[-1][2] - bar[0][1]
    (line,) = [line for line in parsed(svg).iter(f"{SVG}line") if "stroke-dasharray" in line.attrib]
    expected = bar[0][1] + length * plan.budget_bytes / peaks(plan.bill)["train"]
    assert float(line.attrib["x1"]) == pytest.approx(expected, abs=0.1)


def test_what_is_too_much_says_so_and_a_limit_far_away_is_an_arrow() -> None:
    assert words(bill_svg(PLANS["too much"])).count("too much") == len(peaks(planned().bill))
    assert "too much" not in words(bill_svg(planned()))
    assert f"may use {gib(small().budget_bytes)} GiB →" in words(bill_svg(small()))


@every_plan
def test_words_never_overlap_and_stay_within(plan: Plan) -> None:
    for svg in (bill_svg(plan, 0.1), timeline_svg(course(), plan.budget_bytes)):
        boxes = list(text_boxes(svg))
        height = float(parsed(svg).attrib["height"])
        assert all(left >= 0 and right <= 800 and top >= 0 and low <= height for _, left, right, top, low in boxes)
        for index, (one, left, right, top, low) in enumerate(boxes):
            for other, *edges in boxes[index + 1 :]:
                apart = right <= edges[0] or edges[1] <= left or low <= edges[2] or edges[3] <= top
                assert apart, f"{one!r} and {other!r}"


def test_every_item_of_a_bill_has_an_owner() -> None:
    methods = ({"method": "full"}, {"method": "lora"}, {"method": "qlora"})
    plans = [planned(recipe(method), device_gib=192) for method in methods] + [small()]
    names = {item.item for plan in plans for item in plan.bill if owner_of(item) is OTHER}
    assert not names, f"owners.py has no row for {names}"
    assert owner_named("recomputed attention").name == "temporaries"
    assert owner_named("optimizer states").name == "optimizer states"
    assert owner_named("something new") is OTHER


def test_an_owner_has_one_colour_and_no_two_share_it() -> None:
    assert len({owner.fill for owner in OWNERS}) == len(OWNERS)
    slack = BillItem(phase="train", item="weights", bytes=1, kind="slack")
    assert owner_of(slack).name == "slack"


@pytest.mark.parametrize("budget", [GIB, 7 * GIB, 900 * GIB])
def test_stacked_areas_never_cross(budget: int) -> None:
    drawn = layers(timeline_svg(course(), budget))
    assert len(drawn) == 2
    floor = None
    for outline in drawn:
        upper, lower = outline[: len(outline) // 2], outline[len(outline) // 2 :][::-1]
        assert [x for x, _ in upper] == [x for x, _ in lower] == sorted(x for x, _ in upper)
        assert all(up <= down for (_, up), (_, down) in zip(upper, lower, strict=True))
        assert floor is None or lower == floor
        floor = upper


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["weights", "gradients", "recomputed MLP", "no such owner"]), st.integers(0, 2**40)
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 2**41),
)
def test_the_areas_add_up_whatever_the_course(owners: list[dict[str, int]], budget: int) -> None:
    drawn = layers(timeline_svg([Moment(index, "", held) for index, held in enumerate(owners)], budget))
    heights = [0.0] * len(owners)
    for outline in drawn:
        upper, lower = outline[: len(owners)], outline[len(owners) :][::-1]
        heights = [h + low - up for h, (_, up), (_, low) in zip(heights, upper, lower, strict=True)]
    most = max(sum(held.values()) for held in owners)
    expected = [max(heights) * sum(held.values()) / max(most, 1) for held in owners]
    assert heights == pytest.approx(expected, abs=0.1)


def test_the_course_names_its_axes_its_phases_and_its_peak() -> None:
    found = words(timeline_svg(course(("forward_backward", "optimizer")), 7 * GIB))
    assert {"GiB", "allocations and frees", "forward backward", "optimizer", "may use", "7.00 GiB"} <= set(found)
    assert any("at most 6.00 GiB, at event 1,050 (optimizer)" in line for line in found)


def test_a_course_without_phases_or_without_bytes_is_drawn_and_one_of_no_moments_refused() -> None:
    assert words(timeline_svg([Moment(0, "", {"weights": GIB}), Moment(9, "", {})], GIB))
    assert layers(timeline_svg([Moment(3, "", {})], GIB)) == []
    with pytest.raises(ValueError, match="no moments"):
        timeline_svg([], GIB)


def hostile() -> Plan:
    bill = tuple(item.model_copy(update={"phase": HOSTILE, "item": HOSTILE + item.item}) for item in planned().bill)
    rung = Rejected(plan=HOSTILE, high_bytes=GIB, why=HOSTILE)
    return planned().model_copy(update={"bill": bill, "summary": HOSTILE, "rejected": (rung,)})


def test_hostile_words_are_escaped() -> None:
    moments = [Moment(index, HOSTILE, {HOSTILE: GIB}) for index in range(3)]
    told = [parsed(bill_svg(hostile())).findtext(f"{SVG}title"), words(timeline_svg(moments, GIB))[1]]
    assert told[0] == HOSTILE.replace("\x00", "\ufffd")
    for text in (
        bill_svg(hostile()),
        timeline_svg(moments, GIB),
        page(hostile(), moments, subject=HOSTILE, notes=[HOSTILE]),
    ):
        assert "<script" not in text
        assert "&lt;/title&gt;&lt;/svg&gt;&lt;script&gt;" in text
    alt = markdown_image("<svg/>", "[a](b)\n<c>").partition("](data:")[0]
    assert alt == r"![\[a\](b) \<c\>"


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    text = page(planned(), course(), headroom=0.1, subject="some/model", notes=["A note."])
    assert f"<title>some/model: {planned().summary.replace('>', '&gt;')}</title>" in text
    assert text.count("<svg") == 2
    assert page(planned()).count("<svg") == 1
    assert all(f"{item.bytes / GIB:.2f}" in text for item in planned().bill)
    assert all(rung.why in text for rung in planned().rejected)
    assert planned().rejected
    assert "A note." in text
    assert not re.search(r"(?:src|href)=|url\(|@import|<script", text)
    assert set(re.findall(r"https?://[^\"]+", text)) == {"http://www.w3.org/2000/svg"}


def test_the_image_in_markdown_is_the_picture() -> None:
    image = bill_image(planned(), 0.1)
    found = re.fullmatch(r"!\[(.+)\]\(data:image/svg\+xml;base64,([\w+/=]+)\)\n\n", image)
    assert found
    assert base64.b64decode(found[2]).decode() == bill_svg(planned(), 0.1)
    assert bill_image(None) == ""


def test_words_are_cut_to_their_room_and_ticks_are_round() -> None:
    assert shortened("train", Type(), 100) == "train"
    assert shortened("a very long phase", Type(), 60) == "a very…"
    assert shortened("train", Type(), 1) == ""
    assert ticks(21.6) == (0, 5, 10, 15, 20)
    assert ticks(0) == (0,)
    assert [gib(size * GIB) for size in (0.05, 3.14, 9.996, 20.9)] == ["0.05", "3.14", "10.0", "20.9"]
    assert 'viewBox="0 0 800 10"' in Canvas(800, "").to_svg(10)


def estimate(*options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tunesmith.cli", "estimate", *options]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    asked, file = str(tiny_recipe(tmp_path)), tmp_path / "bill.html"
    done = estimate(asked, "--html", str(file))
    assert done.returncode == 0, done.stderr
    assert f"Pictures: {file}" in done.stdout
    summary = next(line for line in done.stdout.splitlines() if line.startswith("train: "))
    assert summary.replace(">", "&gt;") in file.read_text()

    refused = estimate(asked, "--html", str(file), "--set", "hardware.memory_gib=0.1")
    assert refused.returncode == 3
    assert "does not fit" in file.read_text()


def test_a_page_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    asked = str(tiny_recipe(tmp_path))
    for file, reason in ((tmp_path, "Is a directory"), (tmp_path / "none" / "x.html", "No such file or directory")):
        done = estimate(asked, "--html", str(file), "--json")
        assert done.returncode == 78
        assert done.stdout == ""
        assert f"{file} cannot be written ({reason}): name another file for --html." in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
