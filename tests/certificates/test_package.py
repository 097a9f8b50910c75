from __future__ import annotations

import pkgutil
import subprocess
import sys

from denoised_smoothing import certificates


def test_certificates_import_no_deep_learning_stack() -> None:
    modules = [module.name for module in pkgutil.iter_modules(certificates.__path__)]
    assert {"bounds", "certificate", "counts", "plans", "radii", "confidence_sequence"} <= set(
        modules
    )
    program = "import sys\n"
    program += "".join(f"import {certificates.__name__}.{module}\n" for module in modules)
    program += "print(sorted({'torch', 'lightning', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("[]", "", 0)
