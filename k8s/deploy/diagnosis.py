"""Why a pod does not come up, in one sentence: from its status, its containers' and its events."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from k8s.deploy.cluster import Document
from k8s.deploy.holders import Fleet

# Reasons of a waiting container (kubernetes/pkg/kubelet: images/types.go, kuberuntime) that only a change mends.
_PULL = frozenset({"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"})
_CREATE = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
# Its reasons (kubernetes/autoscaler, FAQ: "What events are emitted by CA?"); FailedScaleUp is GKE's.
SCALES_UP = "TriggeredScaleUp"
_SCALING = {
    SCALES_UP: "a node is being made",
    "NotTriggerScaleUp": "no node is made: {}",
    "FailedScaleUp": "no node can be made: {}",
}


@dataclass(frozen=True)
class Trouble:
    """What keeps a pod, in a sentence. Where it is not `final`, time alone may mend it."""

    message: str
    hint: str | None = None
    final: bool = True


def diagnose(pod: Document, events: Sequence[Document], fleet: Fleet | None) -> Trouble | None:
    """`events` are the pod's own; `fleet` names who holds a GPU that the pod waits for."""
    return next(_troubles(pod, events, fleet), None)


def _troubles(pod: Document, events: Sequence[Document], fleet: Fleet | None) -> Iterator[Trouble]:
    status = pod["status"]
    if status.get("reason") == "Evicted":
        yield Trouble(f"the node threw the pod out: {_line(status.get('message', ''))}")
    for each in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        yield from _container(each, pod, events)
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            found = _unscheduled(pod, condition.get("message", ""), fleet)
            yield replace(found, message=f"{found.message}{_scaling(events)}")


def _container(status: Document, pod: Document, events: Sequence[Document]) -> Iterator[Trouble]:
    waiting = status["state"].get("waiting", {})
    reason = waiting.get("reason")
    if reason in _PULL:
        why = _event(events, "Failed to pull") or waiting.get("message", "")
        hint = "Push it, or name another with --image; a private registry needs an imagePullSecret."
        yield Trouble(f"the image {status['image']} cannot be pulled: {_cause(why)}", hint)
    if reason in _CREATE:
        yield Trouble(f"the container {status['name']} cannot start: {_cause(waiting.get('message', ''))}")
    ended = status["state"].get("terminated") or status.get("lastState", {}).get("terminated")
    if ended and ended["exitCode"]:
        yield _ended(ended, status, pod, events)


def _ended(ended: Document, status: Document, pod: Document, events: Sequence[Document]) -> Trouble:
    if ended.get("reason") == "OOMKilled":
        limit = next(
            each["resources"].get("limits", {}).get("memory")
            for each in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
            if each["name"] == status["name"]
        )
        return Trouble(f"the pod ran out of memory; its limit is {limit}", "Raise resources.memory in config.yaml.")
    for kind in ("startup", "liveness"):
        if _event(events, f"failed {kind} probe"):
            why = _event(events, f"{kind.capitalize()} probe failed")
            detail = f": {_line(why.partition(': ')[2])}" if why else ""
            return Trouble(f"the pod was stopped because its {kind} probe failed{detail}", _PROBE_HINTS[kind])
    message = _last(ended.get("message", ""))
    if message.startswith("Cannot load the model: "):
        return Trouble(message.removeprefix("Cannot load the model: "))
    told = message or ended.get("reason") or "its log is empty"
    return Trouble(f"the container {status['name']} ended with exit code {ended['exitCode']}: {told}")


_PROBE_HINTS = {
    "startup": "If it was still loading: raise runtime.health_checks.startup_threshold_seconds in config.yaml.",
    "liveness": "See why with: trtpack logs --previous",
}


def _unscheduled(pod: Document, message: str, fleet: Fleet | None) -> Trouble:
    if fleet:
        if missing := fleet.missing(pod["spec"]):
            return Trouble(*missing, final=False)
        if taken := fleet.taken(pod["spec"]):
            return Trouble(taken, final=False)
    return Trouble(f"no node takes the pod: {_line(message)}", final=False)


def _scaling(events: Sequence[Document]) -> str:
    """What the cluster autoscaler last said of the pod, after a semicolon; "" where there is none."""
    said = [each for each in sorted(events, key=_time) if each.get("reason") in _SCALING]
    if not said:
        return ""
    message = _line(said[-1].get("message", "")).rpartition("trigger scale-up: ")[2]
    return f"; {_SCALING[said[-1]['reason']].format(message)}"


def _event(events: Sequence[Document], text: str) -> str:
    """The newest event's message that has `text` in it."""
    found = [each["message"] for each in sorted(events, key=_time) if text in each.get("message", "")]
    return found[-1] if found else ""


def _time(event: Document) -> str:
    return event.get("lastTimestamp") or event.get("eventTime") or ""


def _last(message: str) -> str:
    """What a termination message says: the server's own words, or the last failure among its last lines of log."""
    lines = [line for line in message.splitlines() if line.strip()]
    told = [_record(line) for line in lines]
    failures = [text for text, failed in told if failed]
    if not any(line.startswith("{") for line in lines) and lines and lines[0].startswith("Cannot load"):
        return _line(message)
    return failures[-1] if failures else (told[-1][0] if told else "")


def _record(line: str) -> tuple[str, bool]:
    """The text of a line of the server's log, and whether it is of a failure."""
    try:
        record = json.loads(line)
        return str(record["message"]), record["severity"] in ("ERROR", "CRITICAL")
    except (ValueError, KeyError, TypeError):
        return line.strip(), line.startswith("error:")


def _cause(message: str) -> str:
    """The innermost of the reasons that a container runtime strings together."""
    return _line(message.rpartition("desc = ")[2].removeprefix("Error response from daemon: "))


def _line(message: str) -> str:
    return " ".join(message.split())
