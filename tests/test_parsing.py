"""What jsonargparse makes of words, where it is not what they say."""

import pytest

from blur_lightning.parsing import OneLineErrorParser


class Encoder:
    def __init__(self, weights: str | None = "imagenet", depth: int | None = 5) -> None:
        self.weights, self.depth = weights, depth


class Model:
    def __init__(self, net: Encoder) -> None:
        self.net = net


class Task:
    def __init__(self, model: Model) -> None:
        self.model = model


@pytest.mark.parametrize(
    "words", [["--task.model.net.weights", "null"], ["--task.model.net.weights=null"]]
)
def test_null_is_null_in_a_class_within_classes(words):
    """jsonargparse alone hands the word None on, which names weights to download."""
    parser = OneLineErrorParser()
    parser.add_argument("--task", type=Task)
    classes = [f"--task={__name__}.Task", f"--task.model={__name__}.Model"]
    classes += [f"--task.model.net={__name__}.Encoder", "--task.model.net.depth=null"]
    task = parser.instantiate(parser.parse_args([*classes, *words])).task
    assert (task.model.net.weights, task.model.net.depth) == (None, None)


def test_other_words_stay_as_they_are():
    parser = OneLineErrorParser()
    parser.add_argument("--net", type=Encoder)
    words = [f"--net={__name__}.Encoder", "--net.weights", "None of them"]
    assert parser.parse_args(words).net.init_args.weights == "None of them"
