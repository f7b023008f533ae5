"""A finding of `openvla-doctor`: one row of its table."""

from __future__ import annotations

from dataclasses import dataclass

OK, BAD, SKIP = "ok", "bad", "skip"
SIGNS = {OK: "✓", BAD: "✗", SKIP: "–"}


@dataclass(frozen=True)
class Finding:
    """What was found about one aspect.

    SKIP means that it could not, or need not, be examined; it does not count against the workstation.
    """

    name: str
    status: str
    found: str
    remedy: str = ""  # only with BAD

    def to_dict(self) -> dict[str, str]:
        """The row of `--json`."""
        return {"name": self.name, "status": self.status, "said": self.found, "remedy": self.remedy}
