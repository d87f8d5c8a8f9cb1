"""The shaded tables: shades, links to the runs, the papers' figures."""

import re

from blur_lightning.records.curves import sections_of
from blur_lightning.records.robustness import Record
from blur_lightning.report.matrix import tables_html

RECORD = Record(
    *("run", "vgg16.tv_in1k", "original", "imagenet", 50_000, "sharp", "sharp", 0.0, "256"),
    *("top5", 0.9, 0.89, 0.91),
)


def shades(*records):
    html = tables_html(sections_of(records), {})
    return [int(shade) for shade in re.findall(r"--v:(\d+)%", html)]


def test_shares_are_shaded_from_0_to_1_and_others_from_least_to_most():
    assert shades(RECORD, RECORD._replace(condition="D2", value=0.25)) == [90, 25]
    entropies = (2.0, 3.0, 2.5, float("inf"))
    records = [
        RECORD._replace(metric="entropy", condition=f"D{i}", value=value)
        for i, value in enumerate(entropies)
    ]
    assert shades(*records) == [0, 100, 50]
    assert shades(records[0]) == []


def test_a_paper_stands_beside_what_it_measured_alike():
    html = tables_html(sections_of([RECORD]), {})
    assert re.search(r'<small title="VGG-16 as published[^"]*">paper 90\.9</small>', html)
    for change in ({"dataset": "photos"}, {"scale": "224"}, {"trained_on": "D3"}):
        assert ">paper" not in tables_html(sections_of([RECORD._replace(**change)]), {})


def test_a_column_leads_to_where_its_numbers_are_from():
    assert '<a href="#run-7">original</a>' in tables_html(sections_of([RECORD]), {"run": 7})
    assert "href" not in tables_html(sections_of([RECORD]), {"other": 7})
