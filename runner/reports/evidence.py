"""What a verdict rests on, in words."""

from runner.evaluation.verdicts import Evidence


def evidence_line(evidence: Evidence) -> str:
    """Return a piece of evidence in one line: when, what, told or heard, and the words."""
    source = f" ({evidence.source.value})" if evidence.source else ""
    words = f" {evidence.text!r}" if evidence.text else ""
    return f"{evidence.at_s:.2f} s {evidence.event}{source}{words}"
