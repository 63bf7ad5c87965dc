"""Looking for function calls, by name and some of their arguments."""

import json
from typing import Any

from bots.caller.script import FunctionCall
from bots.timeline import AgentCalledFunction, AgentFunctionReturned
from runner.evaluation.search import Search
from runner.evaluation.verdicts import Finding, Verdict, evidence_of

CALLS = frozenset({"function_call", "function_call_stopped"})


class CallSearch(Search):
    """Looks for function calls."""

    def run(self) -> Finding:
        """Return what became of the expectation."""
        expectation = self._expectation
        wanted = list(expectation.calls or (FunctionCall(),))
        seen = [e for e in self._candidates() if isinstance(e, AgentCalledFunction | AgentFunctionReturned)]
        used: list[AgentCalledFunction | AgentFunctionReturned] = []
        for call in wanted:
            match = next((e for e in seen if e not in used and matches(call, e)), None)
            if match is None:
                if not self._rtvi():
                    return self._unobservable("the agent does not speak RTVI, so its function calls can't be seen")
                if seen and all(e.name is None for e in seen):
                    return self._unobservable("the agent does not name its function calls over RTVI")
                if any(_may_match(call, e) for e in seen if e not in used):
                    return self._unobservable("the agent does not tell the arguments of its function calls over RTVI")
                evidence = tuple(evidence_of(e) for e in seen)
                return self._open(f"no call of {signature(call)} {self._within}", evidence)
            used.append(match)
        if expectation.criterion is not None and max(e.at_ns for e in used) <= self._deadline_ns:
            for event in used:
                if isinstance(event, AgentCalledFunction) and event.arguments is None:
                    return self._unobservable("the agent does not tell the arguments of its function calls over RTVI")
                judged = self._judged("call", _call_text(event), event)
                if judged.verdict is not Verdict.MET:
                    return self._settled_by(judged, used)
        return self._met(used)


def _call_text(event: AgentCalledFunction | AgentFunctionReturned) -> str:
    arguments = event.arguments if isinstance(event, AgentCalledFunction) else None
    return f"{event.name or 'a function'}({json.dumps(arguments or {}, ensure_ascii=False)})"


def matches(call: FunctionCall, event: AgentCalledFunction | AgentFunctionReturned) -> bool:
    """Return whether a call, or what came of it, is one that is looked for."""
    if call.name is not None and call.name != event.name:
        return False
    if call.args is None:
        return True
    actual: dict[str, Any]
    if isinstance(event, AgentCalledFunction):
        actual = event.arguments or {}
    else:
        actual = {"cancelled": event.cancelled, "result": event.result}
    return all(key in actual and actual[key] == value for key, value in call.args.items())


def _may_match(call: FunctionCall, event: AgentCalledFunction | AgentFunctionReturned) -> bool:
    """Whether only arguments that the agent keeps to itself stand between a call and its match."""
    return (
        isinstance(event, AgentCalledFunction)
        and event.arguments is None
        and call.args is not None
        and call.name in (None, event.name)
    )


def signature(call: FunctionCall) -> str:
    args = ", ".join(f"{key}={value!r}" for key, value in (call.args or {}).items())
    return f"{call.name or 'any function'}({args})"
