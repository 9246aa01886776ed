"""Searching the best merge by word error rate."""

from asrmerge.search.candidate import Candidate, CandidateError, curve_point, fixed_candidates
from asrmerge.search.evaluator import CandidateEvaluator
from asrmerge.search.objective import Constraint, Judgement, Objective, parse_constraint
from asrmerge.search.result import CurvePoint, SearchResult, Trial
from asrmerge.search.study import run_search, search_coefficients

__all__ = [
    "Candidate",
    "CandidateError",
    "CandidateEvaluator",
    "Constraint",
    "CurvePoint",
    "Judgement",
    "Objective",
    "SearchResult",
    "Trial",
    "curve_point",
    "fixed_candidates",
    "parse_constraint",
    "run_search",
    "search_coefficients",
]
