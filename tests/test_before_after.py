"""The page of photographs before and after: what is on it, and the slider in a real browser."""

import base64
import re
from io import BytesIO

import numpy as np
import pytest
from chromium import PROGRAM, browser
from PIL import Image

from blur_lightning.errors import InputError
from blur_lightning.report.before_after import MOST, write_before_after


def save(path, value, size=(64, 48)):
    Image.new("RGB", size, value).save(path)
    return path


def pictures_of(page):
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page.read_text())
    return [np.asarray(Image.open(BytesIO(base64.b64decode(data)))) for data in found]


def test_small_photographs_are_shown_as_they_are(tmp_path):
    before, after = save(tmp_path / "a.png", "black"), save(tmp_path / "b.png", (51, 51, 51))
    write_before_after(tmp_path / "page.html", [("<a>.jpg", before, after)])
    assert [picture.mean() for picture in pictures_of(tmp_path / "page.html")] == [0, 51]
    text = (tmp_path / "page.html").read_text()
    assert "&lt;a&gt;.jpg, 64x48 pixels, mean change 20.00 % of white" in text
    assert "<a>" not in text
    assert not re.search(r'(src|href)="(?!data:)', text)


def test_large_photographs_are_shown_reduced_and_by_their_middle(tmp_path):
    pixels = np.zeros((1000, 2400, 3), np.uint8)
    pixels[:, 900:1500] = 255  # the middle of 600 pixels
    Image.fromarray(pixels).save(tmp_path / "a.png")
    files = (tmp_path / "a.png", save(tmp_path / "b.png", "black", (2400, 1000)))
    write_before_after(tmp_path / "page.html", [("a", *files)])
    shapes = [picture.shape for picture in pictures_of(tmp_path / "page.html")]
    assert shapes == [(500, 1200, 3)] * 2 + [(600, 600, 3)] * 2
    assert pictures_of(tmp_path / "page.html")[2].min() == 255


def test_a_page_shows_the_first_photographs_only(tmp_path):
    file = save(tmp_path / "a.png", "black", (8, 8))
    pairs = [(f"number {number}", file, file) for number in range(MOST + 1)]
    write_before_after(tmp_path / "page.html", pairs)
    text = (tmp_path / "page.html").read_text()
    assert f"the first {MOST} of {MOST + 1} photographs" in text
    assert f"number {MOST - 1}," in text
    assert f"number {MOST}," not in text


def test_files_that_do_not_fit_are_named(tmp_path):
    before, after = save(tmp_path / "a.png", "black"), save(tmp_path / "b.png", "black", (48, 64))
    with pytest.raises(InputError, match=r"b.png: 48x64 pixels, but .*a.png has 64x48"):
        write_before_after(tmp_path / "page.html", [("a", before, after)])
    after.write_text("nothing")
    with pytest.raises(InputError, match=r"b.png: cannot be read"):
        write_before_after(tmp_path / "page.html", [("a", before, after)])
    assert not (tmp_path / "page.html").exists()


@pytest.mark.skipif(PROGRAM is None, reason="there is no chromium")
def test_the_slider_moves_the_cut_and_the_page_asks_for_nothing(tmp_path):
    before, after = save(tmp_path / "a.png", "black"), save(tmp_path / "b.png", "white")
    write_before_after(tmp_path / "page.html", [("a", before, after), ("b", before, after)])
    address = (tmp_path / "page.html").as_uri()
    (tmp_path / "profile").mkdir()
    with browser(tmp_path / "profile") as tab:
        tab.call("Page.navigate", url=address)
        tab.wait("document.querySelectorAll('.scripted .pair').length === 2")
        cuts = "[...document.querySelectorAll('img+img')].map(i => getComputedStyle(i).clipPath)"
        assert tab.run(cuts) == ["inset(0px 0px 0px 50%)"] * 2
        tab.run(
            "(s => {s.value = 80; s.dispatchEvent(new Event('input'))})"
            "(document.querySelector('input'))"
        )
        assert tab.run(cuts) == ["inset(0px 0px 0px 80%)", "inset(0px 0px 0px 50%)"]
        boxes = tab.run(
            "[...document.querySelectorAll('figure:first-of-type img')]"
            ".map(i => JSON.stringify(i.getBoundingClientRect()))"
        )
        assert boxes[0] == boxes[1]  # one lies on the other
        assert [url for url in tab.requests if not url.startswith("data:")] == [address]
        assert tab.errors == []
