"""One module for each modality, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

__all__ = ["ModalityDict"]


class ModalityDict(nn.Module):
    """Mapping from modality names to modules. Any name may be used, "type" or "values" too.

    Examples:
        >>> d = ModalityDict({"values": nn.Linear(2, 1)})
        >>> d["values"].out_features, list(d.state_dict())
        (1, ['x_values.weight', 'x_values.bias'])
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._names = tuple(sorted(modules))
        for name in self._names:
            self.add_module(f"x_{name}", modules[name])

    def __getitem__(self, name: str) -> nn.Module:
        return self.get_submodule(f"x_{name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def items(self) -> Iterator[tuple[str, nn.Module]]:
        """Pairs of name and module, sorted by name."""
        return ((name, self[name]) for name in self._names)
