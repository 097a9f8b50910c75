"""sources.py: models are listed without what loads them."""

from __future__ import annotations

import json
import subprocess
import sys
from pkgutil import resolve_name

from denoised_smoothing.models import sources
from denoised_smoothing.models.specs import Source

HEAVY = ("torch", "torchvision", "transformers", "scipy.stats", "alembic", "boto3", "openai")


def test_every_source_names_a_function() -> None:
    named = [source for source in vars(sources).values() if isinstance(source, Source)]
    assert len(named) == 17
    for source in named:
        assert isinstance(source.load, str)
        assert callable(resolve_name(source.load))


def test_listing_imports_no_deep_learning_stack() -> None:
    code = f"""
import json, sys
from denoised_smoothing.models.catalogue import list_classifiers, list_datasets, list_denoisers
rows = [*list_classifiers(), *list_denoisers(), *list_datasets()]
print(json.dumps([[name for name in {HEAVY} if name in sys.modules], len(rows)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, rows = json.loads(done.stdout)
    assert heavy == []
    assert rows > 30
