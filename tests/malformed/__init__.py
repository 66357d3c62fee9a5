"""Over 300 broken and hostile files, made on demand and the same each time; none is ever kept.

with Runner(folder) as run:
    for case in make_cases(folder / "cases"):
        print(case.name, run(case).problems)
"""

from malformed.cases import Case, make_cases
from malformed.run import Runner, Verdict

__all__ = ["Case", "Runner", "Verdict", "make_cases"]
