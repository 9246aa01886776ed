from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from asrmerge import plugins
from asrmerge.catalogue import describe_method, list_methods
from asrmerge.errors import ConfigError
from asrmerge.merging import Method, Parameters, find_methods, get_method
from asrmerge.validation import validate


def plugged(monkeypatch, loads, name="median"):
    point = SimpleNamespace(name=name, value="plug:method", load=loads)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == "asrmerge.methods" else [])


def plugin(name):
    return SimpleNamespace(name=name, needs_base=False, parameters=Parameters, merge=lambda block, parameters: block.experts[0])


def test_own_methods():
    methods = find_methods()
    assert {"linear", "task_arithmetic"} <= set(methods)
    for name, method in methods.items():
        assert method.name == name
        assert isinstance(method, Method)
        assert issubclass(method.parameters, Parameters)
        method.parameters()  # every parameter has a default
    assert get_method("task_arithmetic").needs_base and not get_method("linear").needs_base


@pytest.mark.parametrize("name", find_methods())
def test_parameters_have_bounds_and_descriptions(name):
    method = get_method(name)
    text = type(method).__doc__
    assert "Invariants: " in text and ("arXiv" in text or "SIGGRAPH" in text)
    for key, field in method.parameters.model_fields.items():
        assert field.description, key
        bounds = {name for one in field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(one, name)}
        if field.annotation in (int, float):
            assert bounds & {"ge", "gt"} and bounds & {"le", "lt"}, key
            for wrong in (math.nan, math.inf, -1e30, 1e30, "much"):
                with pytest.raises(ConfigError, match=f"'{key}' is "):
                    validate(method.parameters, {key: wrong}, "parameters")
        else:
            with pytest.raises(ConfigError, match=f"'{key}' is "):
                validate(method.parameters, {key: "much"}, "parameters")


def test_catalogue_says_what_a_method_needs():
    lines = {line.split()[0]: line for line in list_methods().splitlines() if line.strip()}
    for name, needs in {
        "wise_ft": "(needs a base and exactly one expert)",
        "slerp": "(needs exactly 2 experts)",
        "fisher_karcher": "(needs each expert's statistics (fisher))",
        "ugm": "(needs a base and each expert's statistics (fisher))",
        "mats": "(needs each expert's statistics (grams, factors))",
        "ties": "(needs a base)",
    }.items():
        assert lines[name].endswith(needs)
    assert "needs" not in lines["linear"]
    assert lines["In"].endswith("and the greedy soup.")
    assert "Needs: a base and experts.\nA search (asrmerge run) can tune its weights" in describe_method("tsv_m")
    assert "Needs: exactly 2 experts.\n\nParameters:" in describe_method("nuslerp")


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ConfigError, match=r"unknown merge method 'lineer'; did you mean 'linear'\? \(known are .*task_arithmetic"
    ):
        get_method("lineer")


def test_entry_points(monkeypatch):
    median = plugin("median")
    plugged(monkeypatch, lambda: median)
    assert get_method("median") is median
    assert list(find_methods()) == sorted(find_methods())
    with pytest.raises(ConfigError, match="median"):
        get_method("unknown")


def test_broken_plugins_are_named(monkeypatch):
    def missing():
        raise ImportError("no plug")

    plugged(monkeypatch, missing)
    with pytest.raises(
        ConfigError, match=r"the plugin plug:method \(entry point .*\) cannot be imported .*: repair or uninstall"
    ):
        get_method("median")
    assert get_method("linear").name == "linear"  # a broken plugin does not break the rest
    plugged(monkeypatch, lambda: object())
    with pytest.raises(ConfigError, match="must be an object with name, needs_base, parameters and merge"):
        find_methods()
    plugged(monkeypatch, lambda: plugin("linear"))
    with pytest.raises(ConfigError, match="is named linear, which is in use: rename"):
        find_methods()
