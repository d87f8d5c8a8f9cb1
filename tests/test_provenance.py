import re

import numpy as np

from blur_lightning.records import provenance
from blur_lightning.records.provenance import environment


def test_environment_names_versions_and_the_commit():
    found = environment()
    assert found["numpy"] == np.__version__
    assert set(provenance.PACKAGES) < set(found)
    assert found["commit"] is None or re.fullmatch(r"[0-9a-f]{40}", found["commit"])
    assert (found["commit"] is None) == (found["dirty"] is None)


def test_environment_does_without_git_and_without_packages(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package",))
    found = environment()
    assert (found["commit"], found["dirty"], found["no-such-package"]) == (None, None, None)


def test_a_foreign_checkout_around_the_package_is_not_its_commit(monkeypatch, tmp_path):
    answers = {"rev-parse": "f" * 40, "--no-optional-locks": " M file", "ls-files": None}
    monkeypatch.setattr(provenance, "_git", lambda verb, *rest: answers[verb])
    assert environment()["commit"] is None
    answers["ls-files"] = "provenance.py"
    assert (environment()["commit"], environment()["dirty"]) == ("f" * 40, True)
