import pytest
from small_pairs import write, write_folders, write_gopro, write_pair

from blur_lightning.errors import InputError
from blur_lightning.pair_layouts import find_pairs


def find(root, layout, part="train", variant=None, held_out=0.1):
    return find_pairs(root, layout=layout, variant=variant, part=part, held_out=held_out)


def names(root, pairs):
    return {tuple(str(file.relative_to(root)) for file in pair[:2]) for pair in pairs}


def sequences(pairs):
    return {pair.sequence for pair in pairs}


def test_gopro_is_split_by_sequence(tmp_path):
    write_gopro(tmp_path)
    parts = {part: find(tmp_path, "gopro", part) for part in ("train", "val", "test")}
    assert [len(pairs) for pairs in parts.values()] == [4, 2, 2]
    assert sequences(parts["test"]) == {"d"}
    assert sequences(parts["train"]) | sequences(parts["val"]) == {"a", "b", "c"}
    assert not sequences(parts["train"]) & sequences(parts["val"])
    assert names(tmp_path, parts["test"]) == {
        ("test/d/blur/0.png", "test/d/sharp/0.png"),
        ("test/d/blur/1.png", "test/d/sharp/1.png"),
    }
    gamma = find(tmp_path, "gopro", "test", "blur_gamma")
    assert {pair.blurry.parent.name for pair in gamma} == {"blur_gamma"}


def test_reds_is_tested_on_its_validation_images(tmp_path):
    for part, sequence in (("train", "000"), ("train", "001"), ("val", "000")):
        for kind in ("blur", "blur_comp", "sharp"):
            write(tmp_path / part / f"{part}_{kind}" / sequence / "00000000.png", 1)
    assert names(tmp_path, find(tmp_path, "reds", "test", "blur_comp")) == {
        ("val/val_blur_comp/000/00000000.png", "val/val_sharp/000/00000000.png")
    }
    parts = [sequences(find(tmp_path, "reds", part)) for part in ("train", "val")]
    assert sorted(map(len, parts)) == [1, 1]
    assert set.union(*parts) == {"000", "001"}
    (tmp_path / "train/train_blur").rename(tmp_path / "train_blur")
    (tmp_path / "train/train_sharp").rename(tmp_path / "train_sharp")
    (tmp_path / "train").rename(tmp_path / "elsewhere")
    assert len(find(tmp_path, "reds", "train")) == 1


def test_hide_keeps_sharp_images_in_one_folder(tmp_path):
    for name in ("train/1fromGOPR01", "train/2fromGOPR01", "train/1fromGOPR02"):
        write_pair(tmp_path / f"{name}.png", tmp_path / f"GT/{name.split('/')[1]}.png", 1)
    for shot in ("test-close-ups/7fromGOPR09", "test-long-shot/3fromGOPR09"):
        blurry = tmp_path / f"test/{shot}.png"
        write_pair(blurry, tmp_path / "GT" / blurry.name, 2)
    assert len(find(tmp_path, "hide", "test")) == 2
    parts = [sequences(find(tmp_path, "hide", part)) for part in ("train", "val")]
    assert sorted(parts, key=sorted) == [{"GOPR01"}, {"GOPR02"}]
    (tmp_path / "GT/3fromGOPR09.png").unlink()
    with pytest.raises(InputError, match=r"3fromGOPR09.png: there is no .*GT/3fromGOPR09.png"):
        find(tmp_path, "hide", "test")


def test_realblur_is_listed_the_sharp_image_first(tmp_path):
    lines = []
    for scene in ("scene001", "scene002"):
        gt, blur = f"Real/{scene}/gt/gt_1.png", f"Real/{scene}/blur/blur_1.png"
        write_pair(tmp_path / blur, tmp_path / gt, 1)
        lines.append(f"{gt} {blur} ")
    table = tmp_path / "RealBlur_R_test_list.txt"
    table.write_text("\n".join([*lines, ""]))
    pairs = find(tmp_path, "realblur", "test", "R")
    assert {pair.sharp.parent.name for pair in pairs} == {"gt"}
    assert sequences(pairs) == {"scene001", "scene002"}
    with pytest.raises(InputError, match=r"RealBlur_J_test_list.txt: missing"):
        find(tmp_path, "realblur", "test")
    table.write_text("Real/scene001/gt/gt_1.png Real/scene001/blur/none.png")
    with pytest.raises(InputError, match=r"R_test_list.txt, line 1: there is no .*none.png"):
        find(tmp_path, "realblur", "test", "R")
    table.write_text("one.png")
    with pytest.raises(InputError, match=r"line 1: names one file"):
        find(tmp_path, "realblur", "test", "R")


def test_folders_may_be_split_or_not(tmp_path):
    write_folders(tmp_path / "whole", sequences="abcde")
    parts = [find(tmp_path / "whole", "folders", part) for part in ("train", "val", "test")]
    assert [len(pairs) for pairs in parts] == [3, 1, 1]
    assert set.union(*map(sequences, parts)) == set("abcde")
    write_folders(tmp_path / "split/train")
    write_pair(tmp_path / "split/test/input/x.jpg", tmp_path / "split/test/target/x.png", 1)
    found = find(tmp_path / "split", "folders", "test")
    assert names(tmp_path / "split/test", found) == {("input/x.jpg", "target/x.png")}
    assert sequences(found) == {"x"}
    assert len(find(tmp_path / "split", "folders", "train")) == 2


def test_sharp_images_are_their_own_partners(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png", "c/1.png"):
        write(tmp_path / name, 1)
    pairs = [p for part in ("train", "val", "test") for p in find(tmp_path, "sharp", part)]
    assert len(pairs) == 4
    assert all(pair.blurry == pair.sharp for pair in pairs)


def test_what_is_held_out_grows_with_its_share_and_keeps_what_it_had(tmp_path):
    write_folders(tmp_path / "train", sequences=[f"s{i}" for i in range(10)])
    shares = (0.01, 0.3, 0.8)
    held = [sequences(find(tmp_path, "folders", "val", held_out=share)) for share in shares]
    assert [len(s) for s in held] == [1, 3, 8]
    assert held[0] < held[1] < held[2]


def test_what_is_missing_is_named(tmp_path):
    write_gopro(tmp_path)
    (tmp_path / "train/b/sharp/1.png").unlink()
    with pytest.raises(InputError, match=r"train/b/blur/1.png: has no partner in .*b/sharp; add"):
        find(tmp_path, "gopro")
    (tmp_path / "test/d/blur/0.png").unlink()
    with pytest.raises(InputError, match=r"test/d/sharp/0.png: has no partner in .*d/blur; add"):
        find(tmp_path, "gopro", "test")
    (tmp_path / "test/d/blur/1.png").unlink()
    with pytest.raises(InputError, match=r"test/d/blur: holds no images"):
        find(tmp_path, "gopro", "test")
    with pytest.raises(InputError, match=r"there is no folder .*nowhere; point --data.root"):
        find(tmp_path / "nowhere", "gopro")
    with pytest.raises(InputError, match=r"variant: 'gamma' is none of gopro's: blur, blur_gamma"):
        find(tmp_path, "gopro", variant="gamma")
    (tmp_path / "empty/train").mkdir(parents=True)
    with pytest.raises(InputError, match=r"empty/train: holds no folders of sequences"):
        find(tmp_path / "empty", "gopro")


def test_one_sequence_cannot_be_split(tmp_path):
    write_gopro(tmp_path, train=("a",))
    with pytest.raises(InputError, match=r"1 sequences are too few to hold 1 out for val"):
        find(tmp_path, "gopro", "val")
