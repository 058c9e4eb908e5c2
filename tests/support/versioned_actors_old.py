"""The old version of a pipeline that has changed."""

from tests.support.versioned_actors import old

versioned = old()
