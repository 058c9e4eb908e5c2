"""``python -m tests.fuzz``: fuzz a Callboard of its own until enough requests were made."""

import argparse
import random
import sys
import time

from tests.fuzz.campaign import ENVIRONMENT, campaign, prefill
from tests.support.deployment import deployment

EXAMPLES = 20


def main() -> int:
    """Fuzz, and say what was found; 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="fuzz")
    parser.add_argument("--cases", type=int, default=2_000, help="how many requests to make at least")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="repeats a campaign")
    asked = parser.parse_args()
    began, cases, seed, clean = time.monotonic(), 0, asked.seed, True
    with deployment(ENVIRONMENT) as running:
        prefill(running)
        while cases < asked.cases and clean:
            outcome = campaign(running, examples=EXAMPLES, seed=seed)
            cases, clean = cases + outcome.cases, outcome.is_clean
            print(outcome.report)
            seed += 1
    print(f"{cases} requests in {time.monotonic() - began:.0f} s from seed {asked.seed} on: ", end="")
    print("all checks held" if clean else f"a check failed; again with SEED={seed - 1}")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
