"""Files of the published lists."""

import pytest
import torch
from checkpoint_lists import names_of, numbered

from fastseg.checkpoints import load


@pytest.fixture(scope="module")
def numbers_stay_one():
    """Loaded tensors take the memory of one number too, so that every list fits into memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "whole", lambda tensor: tensor)
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A file with the tensors of a published list, and those; each is written once."""
    folder, written = tmp_path_factory.mktemp("checkpoints"), {}

    def file(list_name):
        if list_name not in written:
            written[list_name] = numbered(names_of(list_name)["keys"])
            torch.save(written[list_name], folder / f"{list_name}.pth")
        return folder / f"{list_name}.pth", written[list_name]

    return file
