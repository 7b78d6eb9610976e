import json
import os
import warnings

import pytest
import torch

from fastseg import __version__
from fastseg.tuning import TuningWarning, choice, choose, forget, tables

OP, CLASS = "dilated_conv2d", "some layers"


@pytest.fixture(autouse=True)
def tables_folder(tmp_path, monkeypatch):
    """An empty folder of the user's tables, and a package that chooses "package" on sm_80."""
    monkeypatch.setenv(tables.FOLDER_VARIABLE, str(tmp_path))
    forget()
    package = {"sm_80": {(OP, CLASS): "package"}}
    monkeypatch.setattr(choice, "_package_choices", lambda name: package.get(name, {}))
    yield tmp_path
    choice._users_choices.cache_clear()


def table_of(**changes):
    facts = {
        "gpu": "Some GPU",
        "architecture": "sm_80",
        "driver": "580.1",
        "torch": torch.__version__,
        "fastseg": __version__,
    }
    table = tables.Table(**{**facts, **changes})
    table.add(OP, CLASS, "a layer", {"implicit-gemm": 2.0, "torch": 3.0})
    return table


def written(table=None, architecture="sm_80"):
    path = tables.path_of(architecture)
    tables.write(table or table_of(), path)
    return path


def test_users_table_counts_before_the_packages(recwarn):
    assert choose(OP, CLASS, (8, 0)) == "package"
    written()
    assert choose(OP, CLASS, (8, 0)) == "package"  # kept in memory
    forget_users()
    assert choose(OP, CLASS, (8, 0)) == "implicit-gemm"
    assert choose(OP, "other layers", (8, 0)) is None
    assert choose("other operator", CLASS, (8, 0)) is None
    assert not recwarn


def forget_users():
    choice._users_choices.cache_clear()


def test_gpus_without_kernels_of_their_own():
    names = [choice.built_architecture(c) for c in ((8, 0), (8, 7), (8, 9), (9, 0), (12, 1))]
    assert names == ["sm_80", "sm_86", "sm_86", "sm_90", "sm_120"]
    assert choice.built_architecture((7, 5)) == "sm_75"
    assert choose(OP, CLASS, (7, 5)) is None


def test_table_survives_the_file():
    table = table_of()
    assert tables.read(written(table)) == table
    assert table.times(OP, CLASS, "a layer") == {"implicit-gemm": 2.0, "torch": 3.0}
    assert table.times(OP, CLASS, "another layer") is None


def test_choice_serves_all_layers_of_a_class():
    table = table_of()
    assert table.choices() == {(OP, CLASS): "implicit-gemm"}
    table.add(OP, CLASS, "where torch is four times as fast", {"implicit-gemm": 8.0, "torch": 2.0})
    assert table.choices() == {(OP, CLASS): "torch"}
    table.add(OP, CLASS, "that torch does not serve", {"implicit-gemm": 1.0})
    assert table.choices() == {(OP, CLASS): "implicit-gemm"}


def changed(**changes):
    return {"format": tables.FORMAT, **vars(table_of()), **changes}


NO_TABLES = {
    "empty": (b"", "is no JSON"),
    "binary": (b"\x80\x00\xff", "is no JSON"),
    "deep": (b"[" * 100_000, "is no JSON"),
    "cut off": (json.dumps(changed()).encode()[:-40], "is no JSON"),
    "other JSON": (b"[1, 2]", "is no table of fastseg's"),
    "newer": (json.dumps(changed(format=2)).encode(), "is of another format"),
    "no name": (json.dumps(changed(gpu=None)).encode(), "is damaged"),
    "a key more": (json.dumps(changed(note="mine")).encode(), "is damaged"),
    "no times": (json.dumps(changed(layers={OP: {CLASS: {"a": {}}}})).encode(), "is damaged"),
    "no layers": (json.dumps(changed(layers={OP: {CLASS: {}}})).encode(), "is damaged"),
    "text": (json.dumps(changed(layers={OP: {CLASS: {"a": {"b": "1"}}}})).encode(), "is damaged"),
    "truth": (json.dumps(changed(layers={OP: {CLASS: {"a": {"b": True}}}})).encode(), "is damaged"),
    "NaN": (json.dumps(changed(layers={OP: {CLASS: {"a": {"b": float("nan")}}}})).encode(),
            "is damaged"),
    "nothing for all": (json.dumps(
        changed(layers={OP: {CLASS: {"a": {"b": 1.0}, "c": {"d": 1.0}}}})
    ).encode(), "is damaged"),
    "other card": (json.dumps(changed(architecture="sm_90")).encode(),
                   r"was measured on Some GPU \(sm_90\), this is sm_80"),
    "other torch": (json.dumps(changed(torch="1.0")).encode(), "was measured with torch 1.0, this"),
    "other fastseg": (json.dumps(changed(fastseg="0.0")).encode(),
                      "was measured with fastseg 0.0, this is"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "reason"), NO_TABLES.values(), ids=NO_TABLES)
def test_unfit_file_is_named_once_and_ignored(content, reason, tables_folder):
    path = tables_folder / "sm_80.json"
    path.write_bytes(content)
    with pytest.warns(TuningWarning, match=rf"sm_80\.json: {reason}.*`fastseg tune`"):
        assert choose(OP, CLASS, (8, 0)) == "package"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose(OP, CLASS, (8, 0)) == "package"
    assert path.read_bytes() == content


def test_what_cannot_be_opened_is_named_and_ignored(tables_folder):
    (tables_folder / "sm_80.json").mkdir()
    with pytest.warns(TuningWarning, match=r"sm_80\.json: cannot be read \(Is a directory\)"):
        assert choose(OP, CLASS, (8, 0)) == "package"


def test_folder(monkeypatch, tmp_path):
    monkeypatch.setenv(tables.FOLDER_VARIABLE, "~/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tables.path_of("sm_90") == tmp_path / "mine" / "sm_90.json"
    monkeypatch.delenv(tables.FOLDER_VARIABLE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert tables.folder() == tmp_path / ".cache" / "fastseg" / "tuning"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert tables.folder() == tmp_path / "cache" / "fastseg" / "tuning"


def test_no_home_is_no_table(monkeypatch):
    def without_home(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(tables, "path_of", without_home)
    assert choose(OP, CLASS, (8, 0)) == "package"


def test_write_leaves_the_old_table_where_it_fails(monkeypatch):
    path = written()
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        written(table_of(gpu="Another"))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_package_may_bring_measured_tables(monkeypatch, tmp_path):
    monkeypatch.undo()
    choice._package_choices.cache_clear()
    monkeypatch.setenv(tables.FOLDER_VARIABLE, str(tmp_path / "none"))
    monkeypatch.setattr(choice.resources, "files", lambda package: tmp_path)
    tables.write(table_of(torch="1.0"), tmp_path / "measured" / "sm_80.json")
    assert choose(OP, CLASS, (8, 0)) == "implicit-gemm"
    assert choose(OP, CLASS, (9, 0)) is None
    choice._package_choices.cache_clear()
