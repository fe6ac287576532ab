"""What all tests of training share."""

from collections.abc import Iterator

import pytest

from sairlib.training import losses


@pytest.fixture(scope="module", autouse=True)
def a_catalogue_that_is_not_small() -> Iterator[None]:
    """These catalogues have a dozen items. Negatives are looked up all the same, as among many items."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "ALL", 0)
        yield
