from importlib import import_module
from pkgutil import iter_modules

import mvflow.functional as package


def test_the_package_exports_all_that_its_modules_do():
    names = [f"{package.__name__}.{m.name}" for m in iter_modules(package.__path__)]
    exported = [name for module in names for name in import_module(module).__all__]
    assert sorted(exported) == package.__all__
