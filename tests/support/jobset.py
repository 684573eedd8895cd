"""A stand-in for the controllers of Kubernetes that run a JobSet: they start its hosts and apply its failure policy."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml


class JobSet:
    """One JobSet with one job of several hosts, by its manifest.

    Args:
      manifest: the file.
      start: function that starts the command of a host, given the command and the host's number.

    Attributes:
      restarts: how often all hosts were started again.
    """

    def __init__(self, manifest: Path, start: Callable[[list[str], int], "subprocess.Popen[bytes]"]) -> None:
        content = yaml.safe_load(manifest.read_text())
        assert (content["apiVersion"], content["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
        self._policy = content["spec"]["failurePolicy"]
        (replicated,) = content["spec"]["replicatedJobs"]
        self._job: dict[str, Any] = replicated["template"]["spec"]
        self._pod: dict[str, Any] = self._job["template"]["spec"]
        assert self._job["parallelism"] == self._job["completions"], "all hosts of a slice run at once"
        assert self._job["backoffLimit"] == 0, "the job ends with its first host"
        assert self._pod["restartPolicy"] == "Never", "podFailurePolicy requires it"
        self._start = start
        self.restarts = 0

    def run(self) -> str:
        """Runs it to its end; returns "Completed" or "Failed"."""
        while (reason := self._run_job()) is not None:
            if self._action(reason) == "FailJobSet" or self.restarts >= self._policy["maxRestarts"]:
                return "Failed"
            self.restarts += 1
        return "Completed"

    def _run_job(self) -> str | None:
        """Runs the hosts once; returns the reason for which the job has failed, or None."""
        (container,) = self._pod["containers"]
        command = [*container["command"], *container["args"]]
        hosts = [self._start(command, i) for i in range(self._job["completions"])]
        codes = [host.wait() for host in hosts]
        failed = [code if code >= 0 else 128 - code for code in codes if code]
        if not failed:
            return None
        ended = any(self._ends_job(container["name"], code) for code in failed)
        return "PodFailurePolicy" if ended else "BackoffLimitExceeded"

    def _ends_job(self, container: str, code: int) -> bool:
        """Whether the first rule that matches an exit code of a pod is FailJob."""
        for rule in self._job["podFailurePolicy"]["rules"]:
            condition = rule["onExitCodes"]
            assert condition["containerName"] == container
            if (code in condition["values"]) == (condition["operator"] == "In"):
                return rule["action"] == "FailJob"
        return False

    def _action(self, reason: str) -> str:
        """The action of the first rule that matches the reason for which the job has failed."""
        matching = [rule["action"] for rule in self._policy["rules"] if reason in rule["onJobFailureReasons"]]
        return matching[0] if matching else "RestartJobSet"
