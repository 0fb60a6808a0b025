from importlib import import_module
from pkgutil import iter_modules

import pytest

import mvflow.functional


@pytest.mark.parametrize("package", [mvflow.functional], ids=lambda p: p.__name__)
def test_package_exports_all_that_its_modules_do(package):
    modules = [
        import_module(f"{package.__name__}.{m.name}") for m in iter_modules(package.__path__)
    ]
    assert set(package.__all__) == {name for m in modules for name in m.__all__}
    for module in modules:
        for name in module.__all__:
            assert getattr(module, name).__doc__, name
