"""How ``-n`` of pytest-xdist divides the tests; imported by its hook alone, so that it may lack."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

ON_DOCUMENTED_PORTS = {
    "test_demo.py", "test_documents.py", "test_wheel.py", "test_dashboards.py",
    "test_live_demo.py",
}  # fmt: skip
"""Files whose tests start the demo where the documents say that it is: not two at once."""


class ByFile(LoadFileScheduling):
    """A process takes a file at a time, so that its fixtures are made once."""

    def _split_scope(self, nodeid: str) -> str:
        path: str = super()._split_scope(nodeid)
        name = path.rpartition("/")[2]
        return "documented ports" if name in ON_DOCUMENTED_PORTS else path
