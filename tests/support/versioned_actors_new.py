"""The new version of a pipeline that has changed."""

from tests.support.versioned_actors import new

versioned = new()
