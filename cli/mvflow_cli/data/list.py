"""`mvflow data list`: what can be built."""

from __future__ import annotations

from rich.table import Table

from mvflow_cli.options import Json
from mvflow_cli.output import show, show_json

__all__ = ["list_datasets"]


def list_datasets(json: Json = False) -> None:
    """List the datasets that can be built, their parameters and the files that they need.

    Example: mvflow data list
    """
    from mvflow_datasets import find_builder, known_builders

    builders = [find_builder(name) for name in known_builders()]
    if json:
        found = {
            b.name: {
                "summary": b.summary,
                "parameters": {
                    p.name: {"default": p.default, "minimum": p.minimum, "help": p.help}
                    for p in b.parameters
                },
                "files": {f.name: f.where_published for f in b.files},
                "alternatives": [
                    {f.name: f.where_published for f in form} for form in b.alternatives
                ],
                "downloads": {
                    f.download.name: {
                        "url": f.download.url,
                        "bytes": f.download.size or None,
                        "checksum": f.download.checksum or None,
                    }
                    for form in b.forms
                    for f in form
                    if f.download
                },
            }
            for b in builders
        }
        show_json({"datasets": found})
        return
    table = Table("name", "what", "parameters", "needs")
    for b in builders:
        parameters = "\n".join(f"--{p.name.replace('_', '-')} {p.default}" for p in b.parameters)
        counts = " or ".join(str(len(form)) for form in b.forms)
        needs = f"--source with {counts} files" if b.forms else "nothing"
        if any(all(f.download for f in form) for form in b.forms):
            needs += ", or --download"
        table.add_row(b.name, b.summary, parameters, needs)
    show(table)
