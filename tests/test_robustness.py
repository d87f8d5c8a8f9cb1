"""Statistics against closed forms, files against what was written and against what breaks them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from blur_lightning.errors import InputError
from blur_lightning.records import robustness
from blur_lightning.records.robustness import (
    Record,
    bootstrap_interval,
    read_records,
    replacing,
    summarize,
    table,
    wilson_interval,
    write_run,
    write_table,
)

RECORD = Record(
    "run", "net", "original", "photos", 3, "D4", "disk", 4.0, "224", "top1", 2 / 3, 0.1 + 0.2, 0.9
)
SHARP = RECORD._replace(condition="sharp", family="sharp", parameter=None, low=None, high=None)
IMAGES = {
    "index": np.array([0, 1, 2]),
    "condition": np.array(["D4", "D4", "D4"], dtype=object),
    "parameter": np.array([4, 4, 4], dtype=np.float32),
    "top1": np.array([True, True, False]),
    "top5_classes": np.arange(15, dtype=np.int32).reshape(3, 5),
}


def written(folder: Path, records=(RECORD, SHARP), provenance=None) -> Path:
    write_run(folder, records=records, images=IMAGES, provenance=provenance or {"seed": 1})
    return folder / "robustness.csv"


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(17, 20, 0.6396, 0.9476), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 1, 0.2065, 1.0)],
)
def test_wilson_interval_has_published_values(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_wilson_ends_are_where_the_score_test_just_rejects(level):
    z = {0.5: 0.674490, 0.95: 1.959964}[level]
    for end in wilson_interval(30, 70, level=level):
        score = (30 / 70 - end) / (end * (1 - end) / 70) ** 0.5
        assert abs(score) == pytest.approx(z, abs=1e-5)


def test_wilson_interval_holds_the_proportion_and_stays_in_range():
    for n in (1, 2, 3, 7, 20, 1000):
        for k in {0, 1, n // 2, n - 1, n}:
            low, high = wilson_interval(k, n)
            assert 0 <= low <= k / n <= high <= 1


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (2, 1), (-1, 3)])
def test_wilson_interval_refuses_what_is_no_proportion(successes, n):
    with pytest.raises(ValueError, match="no proportion"):
        wilson_interval(successes, n)


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(400):
        low, high = bootstrap_interval(generator.normal(3, 1, 50), resamples=300, seed=seed)
        hits += low <= 3 <= high
    assert 0.90 < hits / 400 < 0.98  # the percentile method covers a little too rarely: 93 %


def test_bootstrap_interval_has_the_width_of_the_standard_error():
    values = np.random.default_rng(0).normal(0, 2, 5000).astype(np.float32)
    low, high = bootstrap_interval(values)
    assert high - low == pytest.approx(2 * 1.96 * 2 / 5000**0.5, rel=0.1)


def test_bootstrap_interval_depends_on_the_seed_alone(monkeypatch):
    values = np.random.default_rng(0).exponential(size=30)
    expected = bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1) != expected
    for chunk in (1, 30, 30 * 7 + 1):
        monkeypatch.setattr(robustness, "_CHUNK", chunk)
        assert bootstrap_interval(values) == expected


def test_bootstrap_interval_of_one_value_is_that_value():
    assert bootstrap_interval(np.array([0.1])) == (0.1, 0.1)
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval(np.array([]))


def summarized(**columns):
    constants = {"run": "r", "model": "m", "trained_on": "t", "dataset": "d", "scale": "224"}
    conditions = [("sharp", "sharp", 0.0), ("D4", "disk", 4.0)]
    metrics = [name for name in columns if name != "condition"]
    return summarize(columns, conditions=conditions, metrics=metrics, **constants)


def test_summarize_makes_shares_of_bools_and_means_of_floats():
    condition = np.array(["D4", "sharp", "D4", "sharp", "D4"])
    top1 = np.array([False, True, True, True, False])
    entropy = np.array([3, 1, 4, 2, 8], dtype=np.float32)
    records = summarized(condition=condition, top1=top1, entropy=entropy)
    assert [(r.condition, r.metric, r.value, r.n) for r in records] == [
        ("sharp", "top1", 1.0, 2),
        ("sharp", "entropy", 1.5, 2),
        ("D4", "top1", 1 / 3, 3),
        ("D4", "entropy", 5.0, 3),
    ]
    assert (records[2].low, records[2].high) == wilson_interval(1, 3)
    assert (records[3].low, records[3].high) == bootstrap_interval(np.array([3, 4, 8]))
    assert records[2][:4] == ("r", "m", "t", "d")
    assert (records[2].family, records[2].parameter, records[2].scale) == ("disk", 4.0, "224")


def test_summarize_refuses_what_it_has_no_statistic_for():
    both = np.array(["sharp", "D4"])
    with pytest.raises(ValueError, match="top1 under D4: no image"):
        summarized(condition=both[:1], top1=np.array([True]))
    with pytest.raises(TypeError, match="label under sharp: int64"):
        summarized(condition=both, label=np.array([1, 2]))


def test_records_come_back_exactly(tmp_path):
    awkward = RECORD._replace(run='a,"b"\nc', model="netz-ü", value=1 / 3, low=5e-324, high=1e300)
    narrow = RECORD._replace(value=np.float32(0.1), low=np.float64(1 / 7))
    expected = [awkward, SHARP, narrow._replace(value=float(narrow.value))]  # 0.10000000149
    assert read_records(written(tmp_path, [awkward, SHARP, narrow])) == expected


def test_csv_has_the_columns_of_the_interface_in_their_order(tmp_path):
    first, line, *_ = written(tmp_path).read_text(encoding="utf-8").splitlines()
    assert first == (
        "run,model,trained_on,dataset,n,condition,family,parameter,scale,metric,value,low,high,schema"
    )
    assert line == (
        "run,net,original,photos,3,D4,disk,4.0,224,top1,0.6666666666666666,0.30000000000000004,0.9,1"
    )


def test_images_keep_their_types(tmp_path):
    written(tmp_path)
    table = parquet.read_table(tmp_path / "images.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "index": "int64",
        "condition": "string",
        "parameter": "float",
        "top1": "bool",
        "top5_classes": "list<element: int32>",
    }
    assert table["top5_classes"].to_pylist() == IMAGES["top5_classes"].tolist()
    assert table["top1"].to_pylist() == [True, True, False]
    assert table.schema.metadata[b"blur_lightning.schema"] == b"1"


def test_provenance_takes_what_json_has_no_type_for(tmp_path):
    written(tmp_path, provenance={"folder": Path("a/b"), "name": "ü"})
    content = json.loads((tmp_path / "provenance.json").read_text(encoding="utf-8"))
    assert content == {"folder": str(Path("a/b")), "name": "ü"}


class Interruption:
    """Stops the writing of the provenance, after the two other files are written."""

    def __str__(self):
        raise KeyboardInterrupt


def test_an_interrupted_write_leaves_the_old_run_whole(tmp_path):
    written(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, records=[SHARP], provenance={"seed": Interruption()})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_an_interrupted_first_write_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "run", provenance={"seed": Interruption()})
    assert list((tmp_path / "run").iterdir()) == []


def test_the_csv_appears_after_the_files_that_it_implies(tmp_path, monkeypatch):
    order = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda a, b: (order.append(b.name), replace(a, b)))
    written(tmp_path)
    assert sorted(order[:2]) == ["images.parquet", "provenance.json"]
    assert order[2:] == ["robustness.csv"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/robustness\.csv: cannot be written"):
        written(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    with (
        pytest.raises(InputError, match="folder: cannot be written"),
        replacing(tmp_path / "folder") as path,
    ):
        path.write_text("")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_is_searched_to_any_depth_in_sorted_order(tmp_path):
    for name in ("b/deep/er", "a", "c"):
        written(tmp_path / name, records=[RECORD._replace(run=name)])
    assert [record.run for record in read_records(tmp_path)] == ["a", "b/deep/er", "c"]


def test_a_spreadsheet_may_have_saved_the_csv(tmp_path):
    file = written(tmp_path)
    text = file.read_text(encoding="utf-8").replace("\n", "\r\n")
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_records(file) == [RECORD, SHARP]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "not UTF-8"),
        (b"\x00\x01\x02", "no column 'run'"),
        (b"some,other\n1,2\n", "no column 'run'"),
        (b'run,"model\n', "cannot be read as CSV"),
    ],
)
def test_a_file_that_is_no_record_is_named(tmp_path, content, message):
    file = tmp_path / "robustness.csv"
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"^{re.escape(str(file))}: .*{message}"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        ("low", "lo", ": no column 'low'"),
        ("0.9,1\n", "0.9,2\n", ", line 2: schema '2', but only 1 is read"),
        ("disk,4.0", "disk,four", ", line 2, column 'parameter': 'four' is no number"),
        ("photos,3", "photos,3.5", ", line 2, column 'n': '3.5' is no number"),
        ("0.6666666666666666", "", ", line 2, column 'value': '' is no number"),
        ("top1,", "top1", ", line 2: not as many cells"),
        ("run,net", "run,net,net", ", line 2: not as many cells"),
        ("(?s)high,schema\n.*", "high,schema\n", ": no record"),
    ],
)
def test_a_damaged_csv_is_named_with_the_place(tmp_path, pattern, replacement, message):
    file = written(tmp_path)
    text = file.read_text(encoding="utf-8")
    file.write_text(re.sub(pattern, replacement, text, count=1), encoding="utf-8")
    with pytest.raises(InputError, match="^" + re.escape(str(file) + message)):
        read_records(file)


def test_another_schema_is_named_even_where_its_columns_differ(tmp_path):
    file = tmp_path / "robustness.csv"
    file.write_text("network,schema\nnet,7\n")
    with pytest.raises(InputError, match="schema '7', but only 1"):
        read_records(file)


def test_a_path_without_records_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: not found"):
        read_records(tmp_path / "nowhere")
    with pytest.raises(InputError, match=f"{re.escape(str(tmp_path))}: no robustness.csv"):
        read_records(tmp_path)


def test_a_folder_of_other_results_is_told_with_what_to_open(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/predictions.csv").touch()
    with pytest.raises(InputError, match=r"run/predictions\.csv is there, which predict wrote"):
        read_records(tmp_path)
    (tmp_path / "run/before_after.html").touch()
    with pytest.raises(InputError, match=r"run/before_after\.html is there, which predict wrote"):
        read_records(tmp_path / "run")


def test_a_table_for_the_terminal_has_a_line_for_each_condition():
    records = [RECORD, RECORD._replace(metric="entropy", value=1.5), SHARP]
    assert table(records).splitlines() == [
        "condition    top1  entropy",
        "D4         0.6667   1.5000",
        "sharp      0.6667         ",
    ]


def test_a_written_table_has_lists_in_one_cell(tmp_path):
    columns = {"file": np.array(["a,b.jpg", "c.jpg"]), "top5": np.array([[3, 1], [2, 0]])}
    write_table(tmp_path / "t.csv", [columns])
    assert (tmp_path / "t.csv").read_text() == 'file,top5\n"a,b.jpg",3 1\nc.jpg,2 0\n'
