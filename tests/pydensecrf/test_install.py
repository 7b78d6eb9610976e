"""install() and uninstall(), each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A pydensecrf that is not fastseg's, whether or not the real one is installed.
OTHER = """
import sys, types
other = types.ModuleType("pydensecrf")
other.__file__ = "elsewhere/pydensecrf/__init__.py"
other.densecrf = types.ModuleType("pydensecrf.densecrf")
sys.modules.update({"pydensecrf": other, "pydensecrf.densecrf": other.densecrf})
"""


def run(code):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    }
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd="/")


IMPORTS = {
    "module": "import pydensecrf; assert pydensecrf.densecrf is densecrf",
    "alias": "import pydensecrf.densecrf as dcrf; assert dcrf is densecrf",
    "submodule": "from pydensecrf import densecrf as dcrf; assert dcrf is densecrf",
    "class": "from pydensecrf.densecrf import DenseCRF2D as D; assert D is densecrf.DenseCRF2D",
    "utils": "from pydensecrf.utils import unary_from_softmax as u; "
    "assert u is utils.unary_from_softmax",
    "eigen": "from pydensecrf.eigen import MatrixXf as M; assert M is eigen.MatrixXf",
    "importlib": "import importlib; assert importlib.import_module('pydensecrf.utils') is utils",
    "find_spec": "import importlib.util; assert importlib.util.find_spec('pydensecrf')",
    "function": "def f():\n import pydensecrf.eigen\n return pydensecrf.eigen\nassert f() is eigen",
}


@pytest.mark.parametrize("statement", IMPORTS.values(), ids=IMPORTS)
def test_every_form_of_import_resolves_to_this_package(statement):
    run(
        "import fastseg.pydensecrf as ours\n"
        "from fastseg.pydensecrf import densecrf, eigen, utils\n"
        "ours.install()\n"
        f"{statement}\n"
    )


def test_torch_is_not_imported():
    run(
        "import sys, numpy as np, fastseg.pydensecrf; fastseg.pydensecrf.install()\n"
        "import pydensecrf.densecrf as dcrf, pydensecrf.utils\n"
        "crf = dcrf.DenseCRF2D(4, 3, 2)\n"
        "crf.addPairwiseGaussian(3, 3)\n"
        "assert np.array(crf.inference(2)).shape == (2, 12)\n"
        "assert 'torch' not in sys.modules\n"
    )


def test_twice_is_once():
    run(
        "import fastseg.pydensecrf as ours\n"
        "ours.install(); ours.install(); ours.install(force=True)\n"
        "import pydensecrf; assert pydensecrf is ours\n"
        "ours.uninstall(); ours.uninstall()\n"
        "import sys; assert not [m for m in sys.modules if m.startswith('pydensecrf')]\n"
    )


def test_refused_after_another_was_imported():
    run(
        f"{OTHER}\n"
        "import fastseg.pydensecrf as ours\n"
        "try: ours.install()\n"
        "except RuntimeError as error: message = str(error)\n"
        "assert message.startswith('install: pydensecrf must not be imported before'), message\n"
        "assert 'got elsewhere/pydensecrf/__init__.py; call install() first' in message, message\n"
        "assert sys.modules['pydensecrf'] is other\n"
    )


def test_force_replaces_and_uninstall_restores():
    run(
        f"{OTHER}\n"
        "import fastseg.pydensecrf as ours\n"
        "ours.install(force=True)\n"
        "import pydensecrf.densecrf as dcrf; assert dcrf is ours.densecrf\n"
        "ours.install()\n"
        "ours.uninstall()\n"
        "assert sys.modules['pydensecrf'] is other\n"
        "assert sys.modules['pydensecrf.densecrf'] is other.densecrf\n"
        "assert 'pydensecrf.utils' not in sys.modules\n"
    )


def test_uninstall_without_install_changes_nothing():
    run(
        f"{OTHER}\n"
        "import fastseg.pydensecrf as ours\n"
        "ours.uninstall()\n"
        "assert sys.modules['pydensecrf'] is other\n"
    )


def test_refused_after_the_real_one_was_imported(real_outcomes):
    run(
        "import pydensecrf.densecrf, fastseg.pydensecrf as ours\n"
        "try: ours.install()\n"
        "except RuntimeError as error: assert f'got {pydensecrf.__file__};' in str(error), error\n"
        "else: raise AssertionError('install() was not refused')\n"
    )


def test_the_real_one_is_back_after_uninstall(real_outcomes):
    run(
        "import fastseg.pydensecrf as ours\n"
        "ours.install()\n"
        "import pydensecrf.densecrf as dcrf; assert dcrf is ours.densecrf\n"
        "ours.uninstall()\n"
        "import pydensecrf.densecrf as dcrf; assert dcrf is not ours.densecrf\n"
    )
