"""From scorecards to something one can show: an HTML file and Markdown tables."""

from asrmerge.report.data import (
    CurvePoint,
    DataSet,
    MergeInput,
    RecipeRecord,
    ReportData,
    ReportModel,
    RunFacts,
    SearchHistory,
    SearchTrial,
)
from asrmerge.report.html import render_report, write_report
from asrmerge.report.markdown import markdown_table
from asrmerge.report.playback import audio_links, copy_audio
from asrmerge.report.search_history import search_history

__all__ = [
    "CurvePoint",
    "DataSet",
    "MergeInput",
    "RecipeRecord",
    "ReportData",
    "ReportModel",
    "RunFacts",
    "SearchHistory",
    "SearchTrial",
    "audio_links",
    "copy_audio",
    "markdown_table",
    "render_report",
    "search_history",
    "write_report",
]
