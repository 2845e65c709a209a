"""Answer extraction and equivalence, in killable worker processes. See docs/verifier.md."""

from sgpo.verifier.kinds import Verdict
from sgpo.verifier.verifier import Verifier

__all__ = ["Verdict", "Verifier"]
