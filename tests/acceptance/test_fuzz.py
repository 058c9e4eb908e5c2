"""A few hundred made-up requests: no server error, nothing undocumented, and as strict as is written."""

import pytest

from tests.fuzz.campaign import ENVIRONMENT, campaign, prefill
from tests.support.deployment import deployment

#: `make fuzz` goes through all phases, with more requests and other seeds.
PHASES = "examples,fuzzing"
EXAMPLES = 5
SEED = 1


@pytest.mark.timeout(400)
def test_whatever_is_sent_is_answered_as_the_document_says() -> None:
    # Given a Callboard of its own with tasks of every state
    with deployment(ENVIRONMENT) as running:
        prefill(running)
        # When every operation is sent what its description allows, and what it does not
        outcome = campaign(running, examples=EXAMPLES, seed=SEED, phases=PHASES)
    # Then every check held, and there were enough of them
    assert outcome.is_clean, outcome.report
    assert outcome.cases >= 150
