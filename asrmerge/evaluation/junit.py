"""Gates as JUnit XML, which continuous integration systems show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from asrmerge.evaluation.gates import GateResult
from asrmerge.files import write_text


def write_junit(path: Path, suite: str, results: Sequence[GateResult]) -> None:
    """Write one test case per gate, atomically; a gate that did not pass is a failure with what was seen."""
    failed = sum(not result.passed for result in results)
    attributes = {"name": f"asrmerge {suite}", "tests": str(len(results)), "failures": str(failed), "errors": "0"}
    root = ElementTree.Element("testsuites", attributes)
    cases = ElementTree.SubElement(root, "testsuite", attributes)
    for result in results:
        case = ElementTree.SubElement(cases, "testcase", {"classname": f"{suite}.{result.model}", "name": result.gate.text})
        if not result.passed:
            ElementTree.SubElement(case, "failure", {"message": result.sentence}).text = result.sentence
    ElementTree.indent(root)
    write_text(path, ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n")
