"""How ``-n`` of pytest-xdist divides the tests; imported by its hook alone, so that it may lack."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

ON_DOCUMENTED_PORTS = {"test_demo.py", "test_documents.py", "test_wheel.py", "test_dashboards.py"}
"""Files whose tests start the demo where the documents say that it is: not two at once."""


class ByFile(LoadFileScheduling):
    """A process takes a file at a time, so that its fixtures are made once.

    A process that dies costs the test it was at, and no more. pytest-xdist 3.8.0 runs that test
    again, and may wait for ever for a process that has nothing left to do or one test only
    (https://github.com/pytest-dev/pytest-xdist/issues/1327, issues/1378).
    """

    def _split_scope(self, nodeid: str) -> str:
        path: str = super()._split_scope(nodeid)
        name = path.rpartition("/")[2]
        return "documented ports" if name in ON_DOCUMENTED_PORTS else path

    def remove_node(self, node: WorkerController) -> str | None:
        """Take a process out and hand what it had not begun to others; the test it died of."""
        work = self.assigned_work.pop(node)
        open_tests = [(unit, test) for unit in work.values() for test in unit if not unit[test]]
        if not open_tests:
            return None
        unit, died_of = open_tests[0]
        unit[died_of] = True
        self.workqueue.update(
            {scope: unit for scope, unit in work.items() if not all(unit.values())}
        )
        for other in self.assigned_work:
            self._reschedule(other)
        return died_of

    def _reschedule(self, node: WorkerController) -> None:
        """Give a process the next file; until it has two tests, since it keeps one back."""
        super()._reschedule(node)
        while not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            super()._reschedule(node)
