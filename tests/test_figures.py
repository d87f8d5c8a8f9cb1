"""Figures for papers: their size, their fonts, their names."""

import pytest
from PIL import Image

from blur_lightning.errors import InputError
from blur_lightning.records.curves import sections_of, styles_of
from blur_lightning.records.robustness import Record, write_run
from blur_lightning.report.figures import DRAWN, curves_html, write_figures
from blur_lightning.report.page import report


def records(networks=2, conditions=("sharp", "D2", "D4")):
    return [
        Record(
            *("run", f"net{i}", "original", "photos", 9, condition, "disk"),
            *(float(condition[1:]) if condition[0] == "D" else 0.0, "224", metric),
            *(0.5, 0.4, 0.6),
        )
        for i in range(networks)
        for condition in conditions
        for metric in ("top1", "entropy")
    ]


def test_figures_are_as_wide_as_a_column_and_embed_their_fonts(tmp_path):
    written = write_figures(sections_of(records()), tmp_path / "deep")
    assert [path.name for path in written] == [
        f"photos_disk_radius_px_{metric}.{suffix}"
        for metric in ("top1", "entropy")
        for suffix in ("png", "pdf")
    ]
    with Image.open(written[0]) as image:
        assert image.width == 1980  # 3.3 in of 600 dots
        assert image.info["dpi"] == pytest.approx((600, 600), abs=0.1)
    pdf = written[1].read_bytes()
    assert b"/FontFile2" in pdf  # TrueType, in the file
    assert b"/Type3" not in pdf
    width = float(pdf.split(b"/MediaBox [ 0 0 ")[1].split()[0])
    assert width == pytest.approx(3.3 * 72, abs=0.01)


def test_the_same_records_give_the_same_figures(tmp_path):
    first, second = (
        [path.read_bytes() for path in write_figures(sections_of(records()[::2]), tmp_path / name)]
        for name in ("a", "b")
    )
    assert first == second


def test_a_report_writes_figures_and_refuses_what_has_no_curve(tmp_path):
    write_run(tmp_path / "run", records=records(), images={"index": [0]}, provenance={})
    report([tmp_path / "run"], figures=tmp_path / "figures")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures", "run"]
    assert len([*(tmp_path / "figures").iterdir()]) == 4
    with pytest.raises(InputError, match="figures: no curve to draw"):
        write_figures(sections_of(records(conditions=("sharp",))), tmp_path / "figures")


def test_a_drawing_on_the_page_stays_readable(tmp_path):
    sections = sections_of(records(networks=DRAWN + 3))
    html = curves_html(sections[0], styles_of(sections))
    assert f"The first {DRAWN} of {DRAWN + 3} networks" in html
    assert html.count("<li>") == DRAWN
