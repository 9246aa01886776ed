from __future__ import annotations

from types import SimpleNamespace

import pytest

from asrmerge.errors import ConfigError
from asrmerge.merging import Method, Parameters, find_methods, get_method, registry


def plugged(monkeypatch, loads, name="median"):
    point = SimpleNamespace(name=name, value="plug:method", load=loads)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "asrmerge.methods" else [])


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
